"""``softmap eval``: which models are asked, what is said of them, what is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softmap.cli import main
from softmap.data import prepare
from softmap.errors import SoftmapError
from softmap.evals.question import Metric, Suite
from softmap.evals.summary import MetricCell, answers, cells, interval
from softmap.evals.text import Text
from softmap.lab import recipe as recipes
from softmap.lab.asking.models import find, load, text_of
from softmap.lab.asking.run import EvalRequest, ask
from softmap.report.question_table import lines
from softmap.report.questions import compared


@dataclass(frozen=True)
class Made(Suite):
    """Made up."""

    name = "made"
    title = "Made up"
    asks = "Nothing?"
    metrics = (
        Metric("right", "Right", "share", "higher", 0.02),
        Metric("loss", "Loss", "nats", "lower", 0.01, at={"size": 2}),
    )


def rows(measure: str, values: list[float], **at: Any) -> list[dict[str, Any]]:
    return [{"measure": measure, "item": n, "value": v, **at} for n, v in enumerate(values)]


def runs(*means: float) -> dict[str, Any]:
    """Runs whose two instances lie around each mean."""
    return {
        f"seed{n}": answers(Made(), rows("loss", [mean - 1, mean + 1], size=2))
        for n, mean in enumerate(means)
    }


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers without a tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("foreign") / "llama"
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, intermediate_size=16,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_an_instance_counts_once_and_headlines_take_their_conditions() -> None:
    given = [*rows("right", [1, 0], size=1), *rows("right", [1, 0], size=2)]
    given += [*rows("right", [1], size=3), *rows("loss", [5.0], size=1)]
    given += rows("loss", [2.0, 4.0], size=2)
    found = cells(Made(), given)
    assert found["right", None].items == {0: 1.0, 1: 0.0}
    assert found["loss", None].mean == 3.0
    assert found["loss", (("size", 1),)].mean == 5.0
    assert [key[1] is None for key in found] == sorted([key[1] is None for key in found])[::-1]


def test_intervals_by_hand() -> None:
    share, loss = Made.metrics
    assert interval([1.0] * 10, share) == pytest.approx((0.7224672, 1.0))  # Wilson of 10 in 10
    low, high = interval([1.0, 3.0], loss) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2 - 12.7062, 2 + 12.7062), rel=1e-4)
    assert interval([1.0], loss) is None


def test_single_runs_have_no_verdict_but_an_interval_over_instances() -> None:
    found = {"a": runs(2.0), "b": runs(1.0)}
    (headline, _) = compared(Made().described(), found, "a")
    assert headline["at"] is None and headline["models"]["b"]["mean"] == 1.0
    difference = headline["differences"]["b"]
    assert difference["answer"] == "unknown" and difference["low"] is None
    # Paired, the instances agree exactly: the interval is the difference itself.
    assert (difference["items_low"], difference["items_high"]) == (-1.0, -1.0)


@pytest.mark.parametrize(
    ("b", "answer"),
    [((1.0, 1.01, 0.99), "lower"), ((3.0, 3.01, 2.99), "higher"), ((2.5, 1.0, 3.0), "unresolved")],
)
def test_replicates_are_judged_between_runs(b: tuple[float, ...], answer: str) -> None:
    found = {"a": runs(2.0, 2.02, 1.98), "b": runs(*b)}
    (headline, _) = compared(Made().described(), found, "a")
    difference = headline["differences"]["b"]
    assert difference["answer"] == answer
    assert difference["mean"] == pytest.approx(np.mean(b) - 2.0)
    assert difference["items_low"] is None
    assert headline["models"]["a"]["run_stderr"] == pytest.approx(0.02 / 3**0.5)


def test_means_of_instances_are_taken_within_a_run_first() -> None:
    """Three runs of two instances are three numbers, not six."""
    found = {"a": runs(2.0, 2.5, 1.5), "b": runs(1.9, 2.4, 1.4)}
    (headline, _) = compared(Made().described(), found, "a")
    assert headline["differences"]["b"]["df"] == pytest.approx(4)
    assert MetricCell("loss", None, {0: 1.0, 1: 2.0}).mean == 1.5


def test_the_models_of_a_run(finished: Path, llama: Path) -> None:
    found = find([str(finished)])
    assert [(model.label, model.run) for model in found] == [
        ("transformer++", "seed0"), ("diff", "seed0")
    ]  # fmt: skip
    assert [model.label for model in find([str(finished)], ["diff"])] == ["diff"]
    folder = found[1].folder
    assert find([str(folder)])[0] == found[1]
    named = find([f"x={folder}", f"x={llama}"])
    assert [(model.label, model.run) for model in named] == [("x", ""), ("x", "run.2")]


def test_models_that_are_not_there(finished: Path, tmp_path: Path) -> None:
    model = str(find([str(finished)])[0].folder)
    for words, variants, said in [
        ([str(tmp_path / "none")], [], "expected the folder of a run or of a model, found none"),
        ([str(tmp_path)], [], r"expected a run \(run.json\) or a model"),
        ([model, str(finished)], [], "found it twice"),
        ([str(finished)], ["dif"], r"no variant 'dif' \(did you mean 'diff'\?\)"),
    ]:
        with pytest.raises(SoftmapError, match=said):
            find(words, variants)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SoftmapError, match="expected a causal language model"):
        load(find([str(tmp_path)])[0])


def test_text_is_the_runs_own_held_out_side(finished: Path) -> None:
    models = find([str(finished)])
    corpus = prepare(recipes.of_run(finished).data, finished.parent / ".cache")
    text = text_of(models, None, None, Path("unused"))
    assert np.array_equal(text.tokens(corpus.tokenizer), corpus.heldout)
    assert text == Text.of(corpus) and text.bytes == corpus.meta["heldout_bytes"]


def test_all_models_are_asked_with_the_least_of_them(finished: Path, llama: Path) -> None:
    asked = EvalRequest([str(finished), str(llama)], ["recall"], quick=True, context=64)
    found = ask(asked)
    assert found["setting"]["context"] == 64 and found["setting"]["vocabulary"] == 64
    assert found["labels"] == ["transformer++", "diff", "llama"]
    (accuracy, *_) = found["suites"]["recall"]["cells"]
    assert set(accuracy["models"]) == {"transformer++", "diff", "llama"}
    said = "\n".join(lines(found))
    assert "Associative recall (recall)" in said and "no verdict" in said


def test_the_command_writes_a_table_a_page_and_json(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "deep" / "answers.json", tmp_path / "answers.html"
    words = ["eval", str(finished), "--suite", "loss,bits", "recall", "--quick", "--context", "64"]
    assert main([*words, "--json", str(out), "--page", str(page)]) == 0
    said, told = capsys.readouterr()
    assert "Bits per byte" in said and str(page) in said
    assert "loss: diff seed0" in told and "loss:" not in said
    found = json.loads(out.read_text())
    assert list(found["suites"]) == ["loss", "bits", "recall"]
    assert found["command"].startswith("softmap eval")
    assert len(found["suites"]["loss"]["rows"]["diff seed0"]) > 16
    html = page.read_text()
    for part in (
        "chart-loss_by_position_position",
        "chart-bits_logits_bits",
        "Low precision",
        "vegaEmbed",
    ):
        assert part in html


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "los"], "no suite 'los' (did you mean 'loss'"),
        (["--suite", "loss", "--control", "dif"], "--control: no model 'dif' (did you mean 'diff'"),
        (["--suite", "needles"], "suite needles needs a context of at least"),
        (["--suite", "loss", "--data", "/none.txt"], "none.txt"),
        (["--suite", "halluc", "--judge", "here"], "--judge: expected an address"),
        (["--suite", "loss", "--context", "1"], "--context"),
    ],
)
def test_bad_input_is_one_line(
    finished: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(finished), *words]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1] and told[-1].startswith("softmap: error: ")
    assert not (finished / "eval.html").exists()


def test_without_a_tokenizer_text_cannot_be_asked(
    llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(llama), "--suite", "shots"]) == 2
    assert "llama: suite shots needs the model's tokenizer, found none" in capsys.readouterr().err


def test_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval"]) == 0
    assert "needles" in capsys.readouterr().out
    assert main(["eval", "--suite", "loss"]) == 2
