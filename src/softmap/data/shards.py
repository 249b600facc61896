"""Token shards on disk: one folder per prepared corpus, written under a temporary name."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from filelock import FileLock

from softmap.data import verified
from softmap.data.builders import load_tokenizer_dir
from softmap.data.order import Mixture, Tokens
from softmap.data.split import HELDOUT, TRAIN, SplitDocument
from softmap.data.tokenizer import Tokenizer
from softmap.fields import check
from softmap.files.sealed import read_sealed, write_sealed

SIDES = {TRAIN: "train", HELDOUT: "heldout"}
STALE_SECONDS = 24 * 3600
_COUNTED = ("tokens", "documents", "bytes")


class _Meta(TypedDict):
    source: str
    field: str
    hash: str
    tokenizer: str
    vocab_size: int
    heldout: float
    max_bytes: int | None
    weights: list[int] | None
    dtype: str
    bytes_per_token: float
    train_tokens: int
    train_documents: int
    train_bytes: int
    heldout_tokens: int
    heldout_documents: int
    heldout_bytes: int


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus. Each document is followed by ``tokenizer.eod``.

    Attributes:
        train, heldout: 1-D memory maps of uint16, or of uint32 for vocabularies over 65536;
            ``train`` of several sources is a mixture of them.
        tokenizer: the tokenizer that made them.
        meta: facts for JSON: source, hash (of the tokens of both sides and the weights of a
            mixture), tokenizer, vocab_size, split, and for both sides SIDE_tokens, SIDE_documents,
            SIDE_bytes (utf-8 text); bytes_per_token is that of the held-out text, end-of-document
            tokens counted.
    """

    train: Tokens | Mixture
    heldout: np.memmap
    tokenizer: Tokenizer
    meta: dict[str, Any]


class ShardWriter:
    """Writes a corpus folder piece by piece; nothing has the final name before ``publish``.

    Use it as a context manager: leaving it without ``publish`` removes what was written.
    """

    def __init__(self, final: Path, vocab_size: int, weights: Sequence[int] = (1,)) -> None:
        self.final = final
        self.weights = weights
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self.counts = {f"{side}_{what}": 0 for side in SIDES.values() for what in _COUNTED}
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(final)
        # Not mkdtemp: its folders belong to one user, and a cache may be shared.
        self.folder = final.parent / f".{final.name}-{uuid.uuid4().hex}"
        self.folder.mkdir()
        self._files = [(self.folder / name).open("wb") for name in _names(len(weights))]
        self._hashes = [verified.hasher() for _ in self._files]

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            _close_quietly(file)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, document: SplitDocument, ids: list[int]) -> None:
        """Append the tokens of one document."""
        data = np.asarray(ids, self.dtype).tobytes()
        place = document.part if document.side == TRAIN else -1
        self._files[place].write(data)
        self._hashes[place].update(data)
        for what, count in zip(_COUNTED, (len(ids), 1, document.bytes), strict=True):
            self.counts[f"{SIDES[document.side]}_{what}"] += count

    def publish(self, tokenizer: Tokenizer, meta: dict[str, Any]) -> None:
        """Complete the folder and rename it into place, unless another process was faster."""
        for file in self._files:
            _sync(file)
            file.close()
        tokenizer.save(self.folder / "tokenizer")
        write_sealed(self.folder / "meta.json", meta | {"checks": _checks(tokenizer, self.final)})
        _rename(self.folder, self.final)

    @property
    def hash(self) -> str:
        """The hash of the token ids of both sides, and of the weights of a mixture."""
        return verified.joined(self.dtype, self._hashes, self.weights)


def _names(parts: int) -> list[str]:
    """Returns the files of a corpus: the training text of each part, and the held-out text of
    all.
    """
    more = [f"train-{part}.bin" for part in range(1, parts)]
    return ["train.bin", *more, "heldout.bin"]


def read_corpus(folder: Path) -> Corpus | None:
    """Returns the corpus in a folder; None if it is missing or not as it was written."""
    try:
        meta = read_sealed(folder / "meta.json")
        check("meta.json", meta, _Meta)
        weights = meta.get("weights") or [1]
        names, dtype = _names(len(weights)), np.dtype(meta["dtype"])
        tokenizer = load_tokenizer_dir(folder / "tokenizer")
        if not _is_of(tokenizer, meta, folder) or not verified.holds(folder, names, meta):
            return None
        *parts, heldout = (np.memmap(folder / name, dtype, "r") for name in names)
    except (OSError, ValueError, TypeError):  # a SoftmapError is a ValueError
        return None
    train = Mixture(tuple(parts), tuple(weights)) if len(parts) > 1 else parts[0]
    return Corpus(train, heldout, tokenizer, {k: v for k, v in meta.items() if k != "checks"})


def _is_of(tokenizer: Tokenizer, meta: dict[str, Any], folder: Path) -> bool:
    """Returns whether the shards belong to this tokenizer and folder (older ones do not say)."""
    checks = meta.get("checks") or {}
    return tokenizer.vocab_size == meta["vocab_size"] and checks in ({}, _checks(tokenizer, folder))


def _checks(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    return {"tokenizer": tokenizer.digest, "eod": tokenizer.eod, "folder": folder.name}


def _rename(folder: Path, final: Path) -> None:
    """Rename into place, unless another process has already put the same corpus there.

    This happens under a lock: between one process's look at a damaged folder and its repair, a
    second one could finish the same repair and have it discarded.
    """
    with FileLock(final.with_name(".lock")):
        if read_corpus(final) is None:
            _discard(final)
            os.rename(folder, final)


def _discard(final: Path) -> None:
    """Remove what is there; it is moved aside first so that no one sees it half removed."""
    if not final.exists():
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        os.rename(final, aside / "damaged")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(final: Path) -> None:
    """Remove what a killed process left of this corpus; no live process takes a day."""
    for folder in final.parent.glob(f".{final.name}-*"):
        if folder.stat().st_mtime < time.time() - STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _close_quietly(file: Any) -> None:
    # On a full disk closing flushes, and fails, once more; the first error is the one to report.
    try:
        file.close()
    except OSError:
        return
