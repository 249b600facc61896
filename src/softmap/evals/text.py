"""Held-out text, the same for all models, whatever their tokenizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from softmap.data import Corpus, order
from softmap.errors import SoftmapError

MOST = 1 << 21  #: the most characters that are read


@dataclass(frozen=True)
class Text:
    """Documents of held-out text, and their origin."""

    source: str
    documents: tuple[str, ...]
    _tokens: WeakKeyDictionary[Any, np.ndarray] = field(
        default_factory=WeakKeyDictionary, repr=False, compare=False
    )

    @classmethod
    def of(cls, corpus: Corpus) -> Text:
        """Returns the held-out side of a corpus, or its beginning if it is long."""
        tokens = np.asarray(corpus.heldout[: 2 * MOST])
        ends = np.flatnonzero(tokens == corpus.tokenizer.eod)
        starts = [0, *(ends[:-1] + 1)] if len(ends) else [0]
        stops = ends if len(ends) else [len(tokens)]
        documents, size = [], 0
        for start, stop in zip(starts, stops, strict=True):
            documents.append(corpus.tokenizer.decode(tokens[start:stop].tolist()))
            size += len(documents[-1])
            if size > MOST:
                break
        return cls(str(corpus.meta["source"]), tuple(documents))

    @cached_property
    def bytes(self) -> int:
        """The bytes of the text in utf-8."""
        return sum(len(document.encode()) for document in self.documents)

    def tokens(self, tokenizer: Any) -> np.ndarray:
        """Returns all documents as one array, each followed by the end-of-document token.

        It is computed once per tokenizer, since every suite of a model reads it.
        """
        if tokenizer not in self._tokens:
            encoded = tokenizer.encode_batch(list(self.documents))
            parts = [np.array([*ids, tokenizer.eod], np.int64) for ids in encoded]
            self._tokens[tokenizer] = np.concatenate(parts)
        return self._tokens[tokenizer]

    def windows(self, tokenizer: Any, context: int, count: int) -> np.ndarray:
        """Returns at most ``count`` windows (n, context + 1), spread evenly.

        Raises ``SoftmapError`` where the text is shorter than one.
        """
        tokens = self.tokens(tokenizer)
        if len(tokens) <= context:
            raise SoftmapError(
                f"{self.source}: expected held-out text of more than {context} tokens, found "
                f"{len(tokens)}"
            )
        return order.windows(tokens, context, count)

    def bytes_per_token(self, tokenizer: Any) -> float:
        """Returns the bytes per token of the whole text, ends of documents counted as tokens."""
        return self.bytes / len(self.tokens(tokenizer))
