"""Train and held-out: by a hash of each document's text, so that no text is on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from softmap.data.records import Document
from softmap.errors import SoftmapError

TRAIN, HELDOUT = 0, 1
BY_DOCUMENT, WITHIN_DOCUMENT = "by document", "within document"
FAIR = 0.2  # each side should get at least this part of the share it is due


class Sided(NamedTuple):
    """A document's text and the side it is on."""

    side: int
    text: str
    bytes: int
    part: int = 0  #: which source of a mixture it is of
    spare: bool = False  #: held out, and beyond its part's share of what is held out


def side_of(text: str, heldout: float) -> int:
    """``HELDOUT`` with probability ``heldout`` over texts; depends on the text alone."""
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return HELDOUT if int.from_bytes(digest, "big") < heldout * 2**64 else TRAIN


def limit_bytes(documents: Iterable[Document], limit: int | None) -> Iterator[Document]:
    """The documents up to ``limit`` utf-8 bytes in all; the last one is cut at a character."""
    left = limit
    for name, text in documents:
        data = text.encode(errors="surrogatepass")
        if left is not None and len(data) >= left:
            yield name, data[:left].decode(errors="ignore")
            return
        left = None if left is None else left - len(data)
        yield name, text


class Splitter:
    """Sends each document to its side; drops empty ones and exact repeats of an earlier one."""

    def __init__(self, heldout: float) -> None:
        self.heldout = heldout
        self.duplicates = 0
        self._seen: set[bytes] = set()

    def __call__(self, documents: Iterable[Document]) -> Iterator[Sided]:
        """Yields the documents that are kept, each with its side."""
        for _, text in documents:
            # A lone surrogate (JSON can escape one) has no utf-8 form that a tokenizer takes.
            data = text.encode(errors="replace")
            text = data.decode()
            digest = blake2b(data, digest_size=16).digest()
            if digest in self._seen:
                self.duplicates += 1
            elif text.strip():
                self._seen.add(digest)
                yield Sided(side_of(text, self.heldout), text, len(data))


def interleaved(parts: Sequence[Iterator[Sided]], weights: Sequence[int]) -> Iterator[Sided]:
    """The documents of all parts: the next is of the one with the fewest bytes for its weight.

    Once a part has ended, held-out documents of the others are spare: what is held out keeps the
    proportions of the weights.
    """
    read = [0] * len(parts)
    left = list(range(len(parts)))
    while left:
        part = min(left, key=lambda n: read[n] / weights[n])
        document = next(parts[part], None)
        if document is None:
            left.remove(part)
            continue
        read[part] += document.bytes
        spare = document.side == HELDOUT and len(left) < len(parts)
        yield document._replace(part=part, spare=spare)


def is_fair(sizes: Sequence[int], heldout: float) -> bool:
    """Whether ``(train, held-out)`` bytes are each over a fifth of what that side is due."""
    total = sum(sizes)
    return sizes[HELDOUT] > FAIR * heldout * total and sizes[TRAIN] > FAIR * (1 - heldout) * total


def split_within(documents: list[Sided], heldout: float, part: int = 0) -> list[Sided]:
    """For a part of few documents: all of it to train, but the end of the largest one, cut at a
    line border.

    The end holds the held-out share of the whole text, at most half of that document.

    Raises:
        SoftmapError: no document has a second character.
    """
    mine = [i for i, document in enumerate(documents) if document.part == part]
    largest = max(mine, key=lambda i: documents[i].bytes)
    text = documents[largest].text
    share = heldout * sum(documents[i].bytes for i in mine) / documents[largest].bytes
    if len(text) < 2:
        raise SoftmapError("too little text to hold some out: one character")
    cut = _line_border(text, round(len(text) * (1 - min(share, 0.5))))
    train = [d._replace(side=TRAIN, spare=False) if d.part == part else d for d in documents]
    train[largest] = _sided(TRAIN, text[:cut], part)
    return [*train, _sided(HELDOUT, text[cut:], part)]


def _sided(side: int, text: str, part: int) -> Sided:
    return Sided(side, text, len(text.encode()), part)


def _line_border(text: str, near: int) -> int:
    """The line border nearest to ``near`` that at most halves or doubles the rest, or ``near``."""
    near = min(near, len(text) - 1)
    rest = len(text) - near
    borders = [text.rfind("\n", 0, near) + 1, text.find("\n", near) + 1]
    close = [b for b in borders if 0 < b < len(text) and rest / 2 <= len(text) - b <= 2 * rest]
    return min(close, key=lambda border: abs(border - near), default=near)
