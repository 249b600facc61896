"""Train and held-out side by a hash of each document's text, so that no text is on both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from softmap.data.records import Document
from softmap.errors import SoftmapError

TRAIN, HELDOUT = 0, 1
BY_DOCUMENT, WITHIN_DOCUMENT = "by document", "within document"
FAIR = 0.2  # each side should get at least this part of its nominal share


class SplitDocument(NamedTuple):
    """A document's text and the side of the split that it is on."""

    side: int
    text: str
    bytes: int
    part: int = 0  #: the index of its source in a mixture
    spare: bool = False  #: held out, but beyond its part's share of the held-out text


def side_of(text: str, heldout: float) -> int:
    """Returns ``HELDOUT`` with probability ``heldout`` over texts; it depends on the text alone."""
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return HELDOUT if int.from_bytes(digest, "big") < heldout * 2**64 else TRAIN


def limit_bytes(documents: Iterable[Document], limit: int | None) -> Iterator[Document]:
    """Yields the documents up to ``limit`` utf-8 bytes in all; the last one is cut at a
    character.
    """
    left = limit
    for name, text in documents:
        data = text.encode(errors="surrogatepass")
        if left is not None and len(data) >= left:
            yield name, data[:left].decode(errors="ignore")
            return
        left = None if left is None else left - len(data)
        yield name, text


class Splitter:
    """Assigns each document to its side; drops empty ones and exact repeats of an earlier one."""

    def __init__(self, heldout: float) -> None:
        self.heldout = heldout
        self.duplicates = 0
        self._seen: set[bytes] = set()

    def __call__(self, documents: Iterable[Document]) -> Iterator[SplitDocument]:
        """Yields the documents that are kept, each with its side."""
        for _, text in documents:
            # A lone surrogate (JSON can escape one) has no utf-8 form that a tokenizer accepts.
            data = text.encode(errors="replace")
            text = data.decode()
            digest = blake2b(data, digest_size=16).digest()
            if digest in self._seen:
                self.duplicates += 1
            elif text.strip():
                self._seen.add(digest)
                yield SplitDocument(side_of(text, self.heldout), text, len(data))


def interleaved(
    parts: Sequence[Iterator[SplitDocument]], weights: Sequence[int]
) -> Iterator[SplitDocument]:
    """Yields the documents of all parts, next from the part with the fewest bytes for its weight.

    Once a part has ended, held-out documents of the others are spare, so that the held-out text
    keeps the proportions of the weights.
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
    """Returns whether ``(train, held-out)`` bytes are each over a fifth of the side's nominal
    share.
    """
    total = sum(sizes)
    return sizes[HELDOUT] > FAIR * heldout * total and sizes[TRAIN] > FAIR * (1 - heldout) * total


def split_within(
    documents: list[SplitDocument], heldout: float, part: int = 0
) -> list[SplitDocument]:
    """Returns the documents with those of a small part split within its largest document.

    All of the part is for training, except the end of the largest document, cut at a line break.
    That end is the held-out share of the part's text, at most half of the document.

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
    train[largest] = _document(TRAIN, text[:cut], part)
    return [*train, _document(HELDOUT, text[cut:], part)]


def _document(side: int, text: str, part: int) -> SplitDocument:
    return SplitDocument(side, text, len(text.encode()), part)


def _line_border(text: str, near: int) -> int:
    """Returns the line break nearest to ``near`` that at most halves or doubles the rest, else
    ``near``.
    """
    near = min(near, len(text) - 1)
    rest = len(text) - near
    borders = [text.rfind("\n", 0, near) + 1, text.find("\n", near) + 1]
    close = [b for b in borders if 0 < b < len(text) and rest / 2 <= len(text) - b <= 2 * rest]
    return min(close, key=lambda border: abs(border - near), default=near)
