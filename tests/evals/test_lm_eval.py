"""The real harness with tasks made here, offline: log-likelihood and generation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import known
import numpy as np
import pytest

from softmap.data.builders import bytes_tokenizer
from softmap.errors import SoftmapError
from softmap.evals.catalogue import suite
from softmap.evals.question import Setting
from softmap.evals.subject import Subject
from softmap.evals.suites.lm_eval import LmEval

pytestmark = pytest.mark.slow

pytest.importorskip("lm_eval")

CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{[a, b]}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
GENERATE = """\
task: tiny_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
QUESTIONS = ("x:", "a longer question:", "yes yes no:", "q" * 20 + ":", "?:")


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(
        tmp_path_factory.mktemp("tasks"),
        [{"q": q, "a": " ab" + q[0], "b": " zz"} for q in QUESTIONS],
    )


def written(folder: Path, lines: list[dict[str, str]]) -> str:
    """A folder with both tasks over these lines."""
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    for name, text in (("choice", CHOICE), ("generate", GENERATE)):
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    return str(folder)


def asked(model: Any, include: str, batch: int) -> list[dict[str, Any]]:
    who = Subject(model, bytes_tokenizer(), name="it", context=64)
    made = suite("lm_eval:tiny_choice,tiny_generate")
    setting = Setting(64, 257, include=include)
    made.check(who, setting)
    assert isinstance(made, LmEval)
    return list(dataclasses.replace(made, batch=batch).rows(who, setting))


def test_batches_and_padding_do_not_matter(
    include: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    model = known.tiny("diff+dape")
    one, four = (asked(model, include, batch) for batch in (1, 4))
    assert one == four
    assert {row["task"] for row in one} == {"tiny_choice", "tiny_generate"}
    assert len(one) == 10 and all(row["measure"] == "score" for row in one)


def test_the_harness_asks_this_very_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices by the losses of both, and generations that are said to be right, by our own hand."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    who = known.subject(known.tiny("diff"))
    said = [who.decode(who.continued([who.encode(q)], 6)[0]).split("\n")[0] for q in QUESTIONS]
    said[0] += "not"
    include = written(
        tmp_path,
        [{"q": q, "a": a, "b": " zz"} for q, a in zip(QUESTIONS, said, strict=True)],
    )
    rows = asked(who.model, include, 2)
    got = [row["value"] for row in rows if row["task"] == "tiny_generate"]
    assert got == [0, 1, 1, 1, 1]
    chosen = [total(who, q, a) < total(who, q, " zz") for q, a in zip(QUESTIONS, said, strict=True)]
    assert [row["value"] for row in rows if row["task"] == "tiny_choice"] == chosen


def total(who: Subject, question: str, answer: str) -> float:
    """The summed loss of an answer."""
    tokens, end = who.encode(question), who.encode(answer)
    return float(who.last_losses(np.array([*tokens, *end]), len(end)).sum()) if end else 0.0


@pytest.mark.slow
def test_unknown_tasks_and_none(include: str) -> None:
    who, setting = known.subject(known.tiny()), Setting(64, 257, include=include)
    with pytest.raises(SoftmapError, match=r"no task 'tiny_choise' \(did you mean 'tiny_choice'"):
        suite("lm_eval:tiny_choise").check(who, setting)


def test_a_task_must_be_named() -> None:
    with pytest.raises(SoftmapError, match="found no task"):
        suite("lm_eval").check(known.subject(known.tiny()), Setting(64, 257))
