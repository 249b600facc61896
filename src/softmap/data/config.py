"""Which text to read, how to split it, and how to tokenize it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from softmap.errors import SoftmapError, nearest, shown
from softmap.fields import Checked, Range

LARGEST_BPE = 2**20

Progress = Callable[[str, int, int | None], None]
"""``progress(stage, done, total)``, in bytes of text; ``total`` is None where it is unknown."""


@dataclass(frozen=True)
class Part(Checked):
    """One source of a mixture, with ``data`` and ``field`` as in :class:`DataConfig`.

    Attributes:
        weight: the number of this source's windows in each cycle of the training, which has as many
            windows as the sum of all weights.
    """

    data: str
    field: str = "text"
    weight: Annotated[int, Range(1, 1000)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_names(self)


@dataclass(frozen=True)
class DataConfig(Checked):
    """A corpus as data.

    Args:
        data: ``"stdlib"`` (the source of the running Python's standard library, tests left out),
            a file or a folder (utf-8 text, of which a file over 16 MiB is many documents of about
            1 MiB; ``.jsonl``; both also as ``.gz``; ``.parquet``; at most 64 MiB a record), or
            ``"hf:NAME[:CONFIG][:SPLIT]"``: a data set of the Hub, or a local folder, streamed
            through ``datasets``. One part after the name is taken as a split when it is called
            train, validation, valid, dev or test, else as a config; write
            ``hf:NAME::SPLIT`` or ``hf:NAME:CONFIG:`` to say which. Or a mixture of these, a list
            of :class:`Part`.
        field: the field (column) of JSONL, Parquet and ``hf:`` records that holds the text.
        tokenizer: ``"bpe:SIZE"`` (byte-level BPE trained on the train documents), ``"bytes"``,
            or ``"hf:NAME_OR_FOLDER"``.
        heldout: share of the documents that is held out, strictly between 0 and 1.
        max_bytes: read at most this many bytes of text (utf-8), in the source's order; in a
            mixture each source gets its share by weight.
    """

    data: str | list[Part] = "stdlib"
    field: str = "text"
    tokenizer: str = "bpe:1024"
    heldout: Annotated[float, Range(above=0, below=1)] = 0.05
    max_bytes: Annotated[int, Range(1, 2**60)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_names(self)
        parse_spec(self.tokenizer)

    @property
    def name(self) -> str:
        """The source, or the sources with their weights, in words."""
        if isinstance(self.data, str):
            return self.data
        return ", ".join(f"{part.data} ({part.weight})" for part in self.data)

    @property
    def weights(self) -> list[int]:
        """The weights of the sources."""
        return [1] if isinstance(self.data, str) else [part.weight for part in self.data]

    def singly(self) -> list[DataConfig]:
        """Returns a config for each source alone."""
        if isinstance(self.data, str):
            return [self]
        limit, total = self.max_bytes, sum(self.weights)
        return [
            replace(
                self, data=part.data, field=part.field,
                max_bytes=limit and max(1, limit * part.weight // total),
            )
            for part in self.data
        ]  # fmt: skip


def _check_names(given: Part | DataConfig) -> None:
    for name in ("data", "field"):
        value = getattr(given, name)
        text = isinstance(value, str)
        if not value or (text and ("\0" in value or not is_unicode(value))):
            raise SoftmapError(f"{name}: expected a name, found {shown(value)}")


def is_unicode(text: str) -> bool:
    """Returns whether text is valid Unicode: an argument that was not UTF-8 holds lone
    surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_spec(spec: str) -> tuple[str, str]:
    """Returns ``(kind, argument)`` of ``"bpe:SIZE"``, ``"bytes"`` or ``"hf:NAME_OR_FOLDER"``.

    Raises:
        SoftmapError: an unknown kind, a size that is no number or out of range (the least is 257:
            256 bytes and the end of a document), a missing name.
    """
    kind, _, argument = spec.partition(":")
    if kind == "bpe" and argument.isascii() and argument.isdecimal() and len(argument) < 20:
        if not 257 <= int(argument) <= LARGEST_BPE:
            raise SoftmapError(
                f"tokenizer: a BPE vocabulary has 257 to {LARGEST_BPE:,} tokens, found {argument}"
            )
        return kind, argument
    if (kind == "hf" and argument and is_unicode(argument)) or spec == "bytes":
        return kind, argument
    hint = nearest(kind, ["bpe", "bytes", "hf"]) if kind not in {"bpe", "bytes", "hf"} else ""
    expected = "'bpe:SIZE', 'bytes' or 'hf:NAME_OR_FOLDER'"
    raise SoftmapError(f"tokenizer: expected {expected}, found {shown(spec)}{hint}")
