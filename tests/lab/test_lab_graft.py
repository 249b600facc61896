"""``softmap graft``: what is said before training, what is trained and kept, what is refused."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import lab_tiny
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from softmap.cli import main
from softmap.data import DataConfig, prepare
from softmap.data.builders import bytes_tokenizer, train_bpe
from softmap.errors import SoftmapError
from softmap.evals.text import Text
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.lab.asking.page import page
from softmap.lab.grafting import job as jobs
from softmap.lab.grafting import run as grafting
from softmap.lab.grafting.preparation import GraftRequest, prepare_graft
from softmap.lab.grafting.run import graft
from softmap.lab.grafting.source import GraftSource
from softmap.lab.grafting.start import where
from softmap.lab.interrupts import Interrupted
from softmap.testing.subject import perturb

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of models with and without tokenizers, and a text."""
    folder = tmp_path_factory.mktemp("models")
    lab_tiny.write_text(folder, 1500)
    sizes = {**SIZES, "vocab_size": 257, "max_position_embeddings": 32}
    llama = transformers.LlamaConfig(**sizes, intermediate_size=32)
    transformers.LlamaForCausalLM(llama).save_pretrained(folder / "llama")
    own = perturb(SoftmapForCausalLM(SoftmapConfig(**sizes)))
    own.save_pretrained(folder / "own" / "model")
    gpt2 = transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=257, n_positions=32)
    transformers.GPT2LMHeadModel(gpt2).save_pretrained(folder / "gpt2")
    small = transformers.LlamaConfig(**{**sizes, "vocab_size": 31}, intermediate_size=32)
    transformers.LlamaForCausalLM(small).save_pretrained(folder / "small")
    for name in ("llama", "own/model", "gpt2", "small"):
        bytes_tokenizer().save(folder / name)
    shutil.copytree(folder / "llama", folder / "mute")
    for path in (folder / "mute").glob("tokenizer*"):
        path.unlink()
    (folder / "short.txt").write_text("too short a text\n" * 4)
    return folder


@pytest.fixture
def request_of(models: Path, tmp_path: Path) -> Any:
    """A request with few steps."""

    def build(name: str = "llama", **fields: Any) -> GraftRequest:
        given = {
            "to": ["diff2"], "data": str(models / "text.txt"), "seeds": 1, "steps": 4,
            "peaks": [3e-3], "settings": {"training.batch_size": "2"}, "jobs": 1, "quick": True,
            "cache": tmp_path / "cache", "context": 16,
        }  # fmt: skip
        return GraftRequest(GraftSource.at(models / name), **{**given, **fields})

    return build


def told(models: Path, capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str, str]:
    status = main(["graft", *(w.format(models) for w in words.split())])
    out, err = capsys.readouterr()
    return status, out, err


def test_dry_run_says_what_changes_and_writes_nothing(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "{0}/llama --to diff2,nope --data {0}/text.txt --layers -1 --dry-run --out "
    status, out, _ = told(models, capsys, words + str(tmp_path / "runs"))
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "diff2 (diff2(gain=true)): starts as the model's function"
    # Of 2 heads of width 8 at width 16: w, a gain each, and a second query.
    assert lines[2].startswith("  290 weights added: layer 1 edits.0.gain 2, ")
    assert lines[5] == "  0 weights added"
    assert lines[3] == "nope: starts as another function: rotary positions are left out"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".cache"]


def test_a_trial_of_ours_too(request_of: Any) -> None:
    ready = prepare_graft(request_of("own", to=["talking-heads", "dape"]))
    first, second = ready.starts
    assert first.difference <= 1e-5 * max(1, first.largest) and not first.changes
    assert second.difference > 1e-3 and second.changes[-1] == "rotary positions are left out"
    assert abs(first.after - first.before) < 1e-5 < abs(second.after - second.before)


REFUSED = {
    "{0}/llama --data {0}/text.txt": "--to: expected one or more variants, found none",
    "{0}/llama --to dif --data {0}/text.txt": "unknown variant 'dif'",
    "{0}/llama --to sas --data {0}/text.txt": "sas sets attention_skip=0.0 of the block",
    "{0}/llama --to gated,gated --data {0}/text.txt": "each variant once, found 'gated' again",
    "{0}/llama --to gated --layers 2 --data {0}/text.txt": "layers must be numbers from -2 to 1",
    "{0}/own --to gated --layers 0 --data {0}/text.txt": "--to gated: a softmap model has one",
    "{0}/gpt2 --to gated --data {0}/text.txt": "found GPT2LMHeadModel",
    "{0}/mute --to gated --data {0}/text.txt": "own tokenizer: expected its files (tokenizer.json)",
    "{0}/small --to gated --data {0}/text.txt": "the model's 31 tokens, found 257",
    "{0}/none --to gated --data {0}/text.txt": "expected the folder of a run or of a model",
    "{0}/llama --to gated --data {0}/none.txt": "none.txt",
    "{0}/llama --to gated --data {0}/short.txt": "short.txt: the training text has",
    "{0}/llama --to gated --data {0}/text.txt --context 33": "reads at most 32 tokens, found 33",
    "{0}/llama --to gated --set model.hidden_size=8": "expected a value of training",
    "{0}/llama --to gated --set training.stepz=8": "stepz",
    "{0}/llama --to gated --set training.peak_lr=1": "training.peak_lr: expected --peak-lr",
    "{0}/llama --to gated --steps 9 --set training.steps=8": "training.steps: given with --steps",
    "{0}/llama --to gated --peaks 1e-3 --peak-lr 1e-3": "--peak-lr and --peaks are both given",
    "{0}/llama --to gated --peaks 1e-3 -1": "--peaks: expected one or more numbers above 0",
    "{0}/llama --to gated --peak-lr 0": "--peak-lr: expected a number above 0",
    "{0}/llama --to gated --seeds 0": "--seeds: expected a whole number from 1",
    "{0}/llama --to gated --name a/b": "--name: expected the name of a folder",
    "{0}/llama --to gated --data {0}/text.txt --suite los": "did you mean 'loss'",
    "{0}/llama --to gated --data {0}/text.txt --suite recall": "suite recall needs a context of",
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    status, _, err = told(models, capsys, f"{words} --out {tmp_path / 'runs'}")
    last = err.strip().splitlines()[-1]
    assert status == 2 and last.startswith("softmap: error: ") and REFUSED[words] in last
    assert not [path for path in tmp_path.rglob("*") if path.name == "graft-llama"]


def test_layers_that_are_alike_are_one() -> None:
    added = {0: {"a": 1000, "b": 2}, 1: {"a": 1000, "b": 2}, 2: {}, 3: {"a": 5}}
    assert where(added) == "layers 0-1 each a 1,000, b 2; layer 3 a 5"
    assert where({0: {"a": 1}, 2: {"a": 1}}) == "layers 0, 2 each a 1"
    assert where({0: {}}) == ""


def test_a_peak_is_chosen_on_text_that_is_not_trained_on(request_of: Any) -> None:
    ready = prepare_graft(request_of(to=["gated"]))
    train, windows = jobs.tuning_split(ready.corpus, 16, 2)
    assert len(train) < 0.91 * len(ready.corpus.train)
    joined = ready.corpus.train[len(train) :].tobytes()
    assert all(row.astype(ready.corpus.train.dtype).tobytes() in joined for row in windows)


def test_what_is_held_out_does_not_depend_on_the_tokenizer(models: Path, tmp_path: Path) -> None:
    """The models are asked on the text that no tokenizer's share of it was trained on."""
    text = models / "text.txt"
    train_bpe([text.read_text()], 300).save(tmp_path / "bpe")
    found = [
        Text.of(prepare(DataConfig(str(text), "text", tokenizer), tmp_path / "cache")).documents
        for tokenizer in ("bytes", f"hf:{tmp_path / 'bpe'}")
    ]
    assert found[0] == found[1] and found[0]


def trial(request: GraftRequest, folder: Path, label: str) -> Any:
    """The only job of an arm."""
    ready = prepare_graft(request)
    made = grafting._jobs(request, ready, folder, [0], {"plain": 3e-3, "diff2": 3e-3})
    return next(job for job in made if job.label == label)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()


@pytest.mark.slow
def test_what_is_trained_is_asked_and_kept(
    request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(to=["diff2", "dape(bias=rope)"], peaks=[1e-3, 1e-2])
    display = lab_tiny.Notes()
    found = graft(request, tmp_path / "out", display)
    assert found["labels"] == ["plain", "diff2", "dape(bias=rope)"]
    assert found["control"] == "plain" and found["diverged"] == 0
    assert [one["variant"] for one in found["graft"]] == ["diff2(gain=true)", "dape(bias=rope)"]
    shown = page(found)
    assert "Before the first step" in shown and "edits.0.gain 2" in shown
    headline = found["suites"]["loss"]["cells"][0]
    assert list(headline["models"]["diff2"]["runs"]) == ["seed0"]
    assert display.rows["plain at 0.001"].done and display.rows["plain at 0.01"].done
    assert sum(row.done for row in display.rows.values()) == 9  # six to choose by, three results
    monkeypatch.setattr(grafting, "run_job", lambda job, _: pytest.fail(f"{job.name} again"))
    again = graft(request, tmp_path / "out")
    assert again["suites"]["loss"]["cells"][0] == headline
    other = request_of(to=["diff2"], seeds=1, steps=3)
    with pytest.raises(pytest.fail.Exception, match="plain seed 0"):  # another setting is another
        graft(other, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("label", ["plain", "diff2"])
def test_a_stopped_training_goes_on_to_the_same_bits(
    request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    job = trial(request_of(), tmp_path / "one", label)
    assert jobs.run_job(job)["loss"] > 0
    stopped = dataclasses.replace(job, folder=tmp_path / "two")
    asked = iter([False, False, True])
    whole = jobs.train
    stop = functools.partial(whole, should_stop=lambda: next(asked))
    monkeypatch.setattr(jobs, "train", stop)
    with pytest.raises(Interrupted):
        jobs.run_job(stopped)
    assert stopped.result() is None and not (stopped.folder / "model").exists()
    monkeypatch.setattr(jobs, "train", whole)
    jobs.run_job(stopped)
    one, two = weights(job.folder), weights(stopped.folder)
    assert all(torch.equal(one[n], two[n]) for n in one) and one.keys() == two.keys()
    assert not (stopped.folder / "checkpoints").exists()


@pytest.mark.slow
def test_the_plain_arm_is_the_model_itself(request_of: Any, models: Path, tmp_path: Path) -> None:
    job = trial(request_of(), tmp_path, "plain")
    begun = jobs.initial_model(job, torch.device("cpu"))
    assert type(begun) is transformers.LlamaForCausalLM
    source = AutoModelForCausalLM.from_pretrained(models / "llama").state_dict()
    assert all(torch.equal(t, source[n]) for n, t in begun.state_dict().items())
    # Its end is that of the graft that adds nothing, on the same batches.
    jobs.run_job(job)
    same = dataclasses.replace(job, variant="transformer++", folder=tmp_path / "same")
    jobs.run_job(same)
    one, two = weights(job.folder), weights(same.folder)
    assert all(
        torch.allclose(t, two[n.replace("self_attn", "self_attn.attention")], atol=1e-5)
        for n, t in one.items()
    )


@pytest.mark.slow
def test_a_training_that_diverges_is_counted(
    request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(job: Any, _: Any) -> dict[str, Any]:
        return {"loss": None} if job.label == "diff2" else jobs.run_job(job)

    monkeypatch.setattr(grafting, "run_job", outcome)
    found = graft(request_of(), tmp_path / "out")
    assert found["labels"] == ["plain"] and found["diverged"] == 1
    monkeypatch.setattr(grafting, "run_job", lambda job, _: {"loss": None})
    with pytest.raises(SoftmapError, match="every training diverged"):
        graft(request_of(steps=5), tmp_path / "out")
