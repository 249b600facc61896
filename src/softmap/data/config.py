"""What text to read, how to split it, and how to tokenize it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from softmap.errors import SoftmapError

Progress = Callable[[str, int, int | None], None]
"""``progress(stage, done, total)``, in bytes of text; ``total`` is None when nobody knows it."""


@dataclass(frozen=True)
class DataConfig:
    """A corpus as data.

    Args:
        data: ``"stdlib"`` (the source of the running Python's standard library, tests left out),
            a file or a folder (utf-8 text, ``.jsonl``, ``.jsonl.gz``, ``.parquet``), or
            ``"hf:NAME[:CONFIG][:SPLIT]"``: a data set of the Hub, or a local folder, streamed
            through ``datasets``. One part after the name is taken as a split when it is called
            train, validation, valid, dev or test, else as a config; write
            ``hf:NAME::SPLIT`` or ``hf:NAME:CONFIG:`` to say which.
        field: the field (column) of JSONL, Parquet and ``hf:`` records that holds the text.
        tokenizer: ``"bpe:SIZE"`` (byte-level BPE trained on the train documents), ``"bytes"``,
            or ``"hf:NAME_OR_FOLDER"``.
        heldout: share of the documents that is held out, strictly between 0 and 1.
        max_bytes: read at most this many bytes of text (utf-8), in the source's order.
    """

    data: str = "stdlib"
    field: str = "text"
    tokenizer: str = "bpe:1024"
    heldout: float = 0.05
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.heldout < 1:
            raise SoftmapError(f"heldout must lie strictly between 0 and 1, found {self.heldout}")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise SoftmapError(f"max_bytes must be at least 1, found {self.max_bytes}")
        if not self.data:
            raise SoftmapError("data must be 'stdlib', a path or 'hf:NAME', found an empty string")


def one_line(error: BaseException, limit: int = 200) -> str:
    """The type and the first line of an error, for a message that stays on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:limit]}" if lines else type(error).__name__


def missing_extra(package: str) -> SoftmapError:
    """The error for an optional dependency that is not installed."""
    return SoftmapError(f"{package} is not installed: pip install 'softmap[lab]'")
