"""Public sets read through ``datasets``, from tiny copies in the Hub's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import known
import pytest

from softmap.errors import SoftmapError
from softmap.evals import hub
from softmap.evals.catalogue import suite
from softmap.evals.question import Setting

datasets = pytest.importorskip("datasets")
TREC = {
    "text": ["How far is it ?", "What  is it ?", "Who is it ?"],
    "coarse_label": [2, 0, 1],
    "fine_label": [2, 1, 0],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def copy(folder: Path, columns: dict[str, list[Any]], labels: dict[str, list[str]]) -> Path:
    """Both sides as Parquet, with the names of classes where the Hub has them: in its schema."""
    made = datasets.Dataset.from_dict(columns)
    for name, names in labels.items():
        made = made.cast_column(name, datasets.ClassLabel(names=names))
    (folder / "data").mkdir(parents=True)
    for side in ("train", "test", "validation"):
        made.to_parquet(str(folder / "data" / f"{side}-00000-of-00001.parquet"))
    return folder


def test_trec_by_coarse_and_by_fine_labels(tmp_path: Path) -> None:
    names = {"coarse_label": ["DESC", "HUM", "NUM"], "fine_label": ["HUM:ind", "DESC:def", "NUM:x"]}
    folder = copy(tmp_path / "trec", TREC, names)
    shown, asked = hub.examples(f"trec={folder}")
    assert shown == asked == (
        ("How far is it ?", "NUM"), ("What is it ?", "DESC"), ("Who is it ?", "HUM"),
    )  # fmt: skip
    fine, _ = hub.examples(f"trec-fine={folder}")
    assert [label for _, label in fine] == ["NUM:x", "DESC:def", "HUM:ind"]


def test_intents_are_words_and_those_out_of_scope_are_left_out(tmp_path: Path) -> None:
    columns = {"text": ["pay it", "hm", "where am i"], "intent": [0, 1, 2]}
    folder = copy(tmp_path / "clinc", columns, {"intent": ["pay_bill", "oos", "current_location"]})
    shown, _ = hub.examples(f"clinc150={folder}")
    assert shown == (("pay it", "pay bill"), ("where am i", "current location"))
    columns = {"text": ["still waiting", "lost it"], "label": [1, 0]}
    folder = copy(tmp_path / "bank", columns, {"label": ["lost_card", "card_arrival"]})
    shown, _ = hub.examples(f"banking77={folder}")
    assert shown == (("still waiting", "card arrival"), ("lost it", "lost card"))


def test_questions_come_from_the_test_side(tmp_path: Path) -> None:
    folder = copy(tmp_path / "trec", TREC, {"coarse_label": ["DESC", "HUM", "NUM"]})
    for spec in ("shots", "order"):
        made: Any = suite(f"{spec}:trec={folder}")
        assert len(made.examples) == len(
            getattr(made, "questions" if spec == "shots" else "tested")
        )
    shots: Any = suite(f"shots:trec={folder}")
    prompt, label, labels = shots.prompt(Setting(64, 257).generator(0), 2)
    assert labels == ["DESC", "HUM", "NUM"] and label in labels and prompt.count("->") == 3


def test_documents_with_a_reference(tmp_path: Path) -> None:
    folder = copy(tmp_path / "xsum", {"document": ["Long."], "summary": ["Short."]}, {})
    assert hub.documents(f"xsum={folder}") == (
        ("Long.", "Summarise the document in one or two sentences.", "Short."),
    )
    context = {"title": ["A", "B"], "sentences": [["One. ", "Two."], ["Three."]]}
    columns = {"context": [context], "question": ["Which?"], "answer": ["That."]}
    folder = copy(tmp_path / "hotpot", columns, {})
    made: Any = suite(f"halluc:hotpot_qa={folder}")
    assert made.cases == (("A: One. Two.\nB: Three.", "Which?", "That."),)
    with pytest.raises(SoftmapError, match="needs a judge"):
        made.check(known.subject(known.Uniform()), Setting(64, 257))


@pytest.mark.parametrize("name", [*hub.EXAMPLES, *hub.DOCUMENTS])
def test_without_a_network_one_line_says_what_else_would_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(repository: str, **_: Any) -> None:
        raise ConnectionError(f"Couldn't reach\n'{repository}'")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    read = hub.examples if name in hub.EXAMPLES else hub.documents
    with pytest.raises(SoftmapError, match=r"cannot be loaded .*; a folder with a copy") as caught:
        read(name)
    assert "\n" not in str(caught.value)


def test_bad_copies_are_one_line(tmp_path: Path) -> None:
    folder = copy(tmp_path / "trec", {"text": ["a"], "label": [0]}, {})
    with pytest.raises(SoftmapError, match="expected a column 'coarse_label', found text, label"):
        hub.examples(f"trec={folder}")
    with pytest.raises(SoftmapError, match="none: expected a folder with the data set, found none"):
        hub.examples(f"trec={tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SoftmapError, match="cannot be loaded"):
        hub.examples(f"trec={tmp_path / 'empty'}")
