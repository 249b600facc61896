"""Public data sets of the Hub, read through ``datasets``, by name.

A name alone reads the Hub (or the local cache of ``datasets``); ``NAME=FOLDER`` reads a copy on
this machine, in the Hub's layout. Some sets are stored on the Hub as a script, which ``datasets``
no longer runs: for these the Hub's own conversion to Parquet is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError, reason
from softmap.extras import need

CONVERTED = "refs/convert/parquet"
Example = tuple[str, str]  # text, label
Case = tuple[str, str, str]  # document, question, reference


@dataclass(frozen=True)
class HubSet:
    """The location of a set: the repository, its configuration, and the columns that are read.

    Classification sets have ``text`` and ``label``, of which those in ``without`` are left out;
    sets of documents have a ``question`` in words or a column of that name, and their
    ``reference``.
    """

    repository: str
    columns: dict[str, str]
    config: str | None = None
    revision: str | None = None
    test: str = "test"
    question: str = ""
    without: tuple[str, ...] = ()


_SUMMARY = "Summarise the document in one or two sentences."
EXAMPLES = {
    "trec": HubSet(
        "CogComp/trec", {"text": "text", "label": "coarse_label"}, revision=CONVERTED
    ),
    "trec-fine": HubSet(
        "CogComp/trec", {"text": "text", "label": "fine_label"}, revision=CONVERTED
    ),
    "banking77": HubSet(
        "PolyAI/banking77", {"text": "text", "label": "label"}, revision=CONVERTED
    ),
    "clinc150": HubSet(
        "clinc/clinc_oos", {"text": "text", "label": "intent"}, "plus", without=("oos",)
    ),
}  # fmt: skip
DOCUMENTS = {
    "xsum": HubSet(
        "EdinburghNLP/xsum", {"document": "document", "reference": "summary"},
        revision=CONVERTED, question=_SUMMARY,
    ),
    "cnn_dailymail": HubSet(
        "abisee/cnn_dailymail", {"document": "article", "reference": "highlights"}, "3.0.0",
        question=_SUMMARY,
    ),
    "multi_news": HubSet(
        "alexfabbri/multi_news", {"document": "document", "reference": "summary"},
        revision=CONVERTED, question=_SUMMARY,
    ),
    "hotpot_qa": HubSet(
        "hotpotqa/hotpot_qa",
        {"document": "context", "question": "question", "reference": "answer"}, "distractor",
        test="validation",
    ),
}  # fmt: skip
MOST = 250  #: test items that are read, the first ones


def examples(name: str) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns (demonstrations, questions) of a set of [`EXAMPLES`][]: its training and its test
    side.

    Raises ``SoftmapError`` in one line for what cannot be read.
    """
    where, one = _of(name, EXAMPLES)
    sides = [_examples(_rows(where, one, split), one) for split in ("train", one.test)]
    return tuple(sides[0]), tuple(sides[1][:MOST])


def documents(name: str) -> tuple[Case, ...]:
    """Returns the first test items of a set of [`DOCUMENTS`][]."""
    where, one = _of(name, DOCUMENTS)
    rows = _rows(where, one, one.test)
    return tuple(_case(rows[n], one) for n in range(min(MOST, len(rows))))


def is_set(word: str, known: dict[str, HubSet]) -> bool:
    """Returns whether a suite's argument is the name of a set, alone or with a folder."""
    return word.partition("=")[0] in known


def _of(name: str, known: dict[str, HubSet]) -> tuple[Path | None, HubSet]:
    word, _, folder = name.partition("=")
    return (Path(folder) if folder else None), known[word]


def _rows(where: Path | None, one: HubSet, split: str) -> Any:
    """Returns a split as ``datasets`` has it, with its columns checked."""
    need("a data set of the Hub", "datasets")
    import datasets

    name = one.repository if where is None else str(where)
    if where is not None and not where.is_dir():
        raise SoftmapError(f"{where}: expected a folder with the data set, found none")
    given = {} if where is not None else {"name": one.config, "revision": one.revision}
    try:
        rows = datasets.load_dataset(name, split=split, **given)
    except Exception as error:  # datasets raises its own, the Hub's, the network's and pyarrow's
        raise SoftmapError(
            f"{name} ({split}): cannot be loaded ({reason(error)}); a folder with a copy is given "
            "as NAME=FOLDER, a file of JSON lines by its path"
        ) from None
    missing = [column for column in one.columns.values() if column not in rows.column_names]
    if missing:
        found = ", ".join(rows.column_names)
        raise SoftmapError(f"{name}: expected a column {missing[0]!r}, found {found}")
    return rows


def _examples(rows: Any, one: HubSet) -> list[Example]:
    label = one.columns["label"]
    words = getattr(rows.features[label], "names", None)
    found = []
    for row in rows:
        value = row[label]
        name = str(value if words is None else words[value])
        if name not in one.without:
            text = " ".join(row[one.columns["text"]].split())
            found.append((text, name.replace("_", " ")))
    return found


def _case(row: dict[str, Any], one: HubSet) -> Case:
    document = row[one.columns["document"]]
    question = row[one.columns["question"]] if "question" in one.columns else one.question
    return _joined(document), str(question), str(row[one.columns["reference"]])


def _joined(document: Any) -> str:
    """Returns a document's text; several paragraphs with titles (HotpotQA) get a line each."""
    if isinstance(document, str):
        return document
    pairs = zip(document["title"], document["sentences"], strict=True)
    return "\n".join(f"{title}: {''.join(sentences)}" for title, sentences in pairs)
