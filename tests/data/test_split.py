from __future__ import annotations

import random
from hashlib import blake2b

import pytest

from softmap.data.split import (
    HELDOUT,
    TRAIN,
    SplitDocument,
    Splitter,
    is_fair,
    limit_bytes,
    side_of,
    split_within,
)
from softmap.errors import SoftmapError


def named(texts: list[str]) -> list[tuple[str, str]]:
    return [(f"d{i}", text) for i, text in enumerate(texts)]


def sided(side: int, text: str) -> SplitDocument:
    return SplitDocument(side, text, len(text.encode()))


def test_the_side_follows_from_the_hash_of_the_text() -> None:
    for text in ("a", "ä", "some longer text\n"):
        point = int(blake2b(text.encode(), digest_size=8).hexdigest(), 16) / 2**64
        assert side_of(text, point - 1e-9) == TRAIN
        assert side_of(text, point + 1e-9) == HELDOUT


def test_the_share_is_about_what_was_asked() -> None:
    held = sum(side_of(f"text {i}", 0.1) == HELDOUT for i in range(10_000))
    assert abs(held - 1000) < 5 * (10_000 * 0.1 * 0.9) ** 0.5


def test_names_and_order_do_not_matter() -> None:
    texts = [f"text {i}" for i in range(200)]
    shuffled = random.Random(0).sample(texts, len(texts))
    assert sorted(Splitter(0.3)(named(texts))) == sorted(Splitter(0.3)(named(shuffled)))


def test_repeats_and_empty_documents_are_dropped() -> None:
    splitter = Splitter(0.5)
    documents = list(splitter(named(["a", "b", "a", "", " \n", "b"])))
    assert [document.text for document in documents] == ["a", "b"]
    assert splitter.duplicates == 2


def test_lone_surrogates_become_encodable() -> None:
    (document,) = Splitter(0.5)(named(["a\ud800b"]))
    assert document.text == "a?b"
    assert document.bytes == 3


def test_limit_counts_bytes_and_cuts_the_last_document() -> None:
    documents = named(["abc", "äöü", "never"])
    assert list(limit_bytes(documents, None)) == documents
    assert list(limit_bytes(documents, 6)) == [("d0", "abc"), ("d1", "ä")]
    assert list(limit_bytes(documents, 3)) == [("d0", "abc")]


def test_fair_needs_a_fifth_of_the_due_share_on_each_side() -> None:
    # heldout = 0.5: each side is due 50 of 100 bytes, so it needs more than 10.
    assert [is_fair([100 - held, held], 0.5) for held in (0, 10, 11, 89, 90, 100)] == [
        False, False, True, True, False, False,
    ]  # fmt: skip
    assert not is_fair([0, 0], 0.5)


def test_within_a_document_the_end_is_held_out_from_a_line_border() -> None:
    text = "".join(f"line {i:02}\n" for i in range(100))  # 8 bytes a line
    parts = split_within([sided(TRAIN, text), sided(HELDOUT, "small\n")], 0.1)
    assert [part.side for part in parts] == [TRAIN, TRAIN, HELDOUT]
    assert parts[0].text + parts[2].text == text
    # 10 % of 806 bytes are 80.6: the nearest border leaves 80, ten lines.
    assert parts[2].text == text[-80:]
    assert parts[2].bytes == 80
    assert parts[1].text == "small\n"


def test_within_one_line_the_cut_is_at_a_character() -> None:
    head, tail = split_within([sided(TRAIN, "x" * 100)], 0.25)
    assert (len(head.text), len(tail.text)) == (75, 25)
    # The only line border is far from the cut: held out would be nearly everything.
    head, tail = split_within([sided(TRAIN, "\n" + "x" * 99)], 0.25)
    assert (len(head.text), len(tail.text)) == (75, 25)


def test_held_out_takes_at_most_half_of_a_document() -> None:
    *_, tail = split_within([sided(TRAIN, "x" * 100), sided(TRAIN, "y" * 90)], 0.9)
    assert tail.text == "x" * 50


def test_one_character_cannot_be_split() -> None:
    with pytest.raises(SoftmapError, match="too little text"):
        split_within([sided(TRAIN, "x")], 0.05)
    assert [p.text for p in split_within([sided(TRAIN, "xy")], 0.05)] == ["x", "y"]
