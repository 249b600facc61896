"""``prepare``: text in, memory-mapped tokens out, once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from softmap.data.builders import bytes_tokenizer, load_tokenizer, train_bpe
from softmap.data.config import DataConfig, Progress, parse_spec
from softmap.data.shards import Corpus, ShardWriter, read_corpus
from softmap.data.sources import Source, open_source
from softmap.data.split import (
    BY_DOCUMENT,
    TRAIN,
    WITHIN_DOCUMENT,
    Sided,
    Splitter,
    is_fair,
    limit_bytes,
    split_within,
)
from softmap.data.tokenizer import Tokenizer
from softmap.errors import SoftmapError, one_line
from softmap.extras import need

FORMAT = 2  # of the folder; part of the fingerprint
MOST_NAMED = 10  # files that were skipped
SAMPLE_BYTES = 64 << 20  # the text that is held in memory: BPE is trained on its train documents
GROUP_BYTES = 4 << 20  # the text that is encoded at once, in parallel


def prepare(config: DataConfig, cache_dir: str | Path, progress: Progress | None = None) -> Corpus:
    """The corpus of a config, from ``cache_dir`` if nothing has changed, else built there.

    One pass over the source, in bounded memory: the first 64 MiB are held (more if one side of the
    split would be bare without it), the BPE tokenizer is trained on the train documents among
    them, and the rest is tokenized as it streams by. Several processes may prepare the same corpus
    at once: each builds its own temporary folder, the first rename counts.

    Args:
        progress: called as ``progress(stage, done, total)`` in bytes of text; stages are
            ``"reading"``, ``"training the tokenizer"`` and ``"tokenizing"``.

    Raises:
        SoftmapError: text or tokenizer that is missing, unreadable, empty or too small; a cache
            folder that cannot be written (a full disk too; nothing is left behind).
    """
    kind, argument = parse_spec(config.tokenizer)
    source = open_source(config)
    given = _given_tokenizer(kind, argument)
    folder = Path(cache_dir).expanduser() / fingerprint(config, source, given)
    if (corpus := read_corpus(folder)) is not None:
        return corpus
    try:
        _build(config, source, given, folder, progress or (lambda *_: None))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SoftmapError(
            f"cache folder {str(cache_dir)!r}: cannot be written ({reason})"
        ) from None
    if (corpus := read_corpus(folder)) is None:
        raise SoftmapError(f"cache folder {str(folder)!r} was changed while it was being written")
    return corpus


def fingerprint(config: DataConfig, source: Source, given: Tokenizer | None) -> str:
    """A name for the result: what the source is, how it is split, what cuts it into tokens."""
    import tokenizers

    facts = {
        "format": FORMAT,
        "source": source.identity,
        "config": [config.field, config.tokenizer, config.heldout, config.max_bytes],
        "tokenizer": given.digest if given else None,
        "tokenizers": tokenizers.__version__,
    }
    return blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


def _given_tokenizer(kind: str, argument: str) -> Tokenizer | None:
    """The tokenizer that is known before any text is; None for one that is to be trained."""
    need("a tokenizer", "tokenizers", "transformers", extra="lab")
    if kind == "hf":
        return load_tokenizer(argument)
    return bytes_tokenizer() if kind == "bytes" else None


def _build(
    config: DataConfig,
    source: Source,
    given: Tokenizer | None,
    folder: Path,
    progress: Progress,
) -> None:
    splitter = Splitter(config.heldout)
    stream = splitter(limit_bytes(source.documents(), config.max_bytes))
    sample, fair = _read_sample(stream, config.heldout, source.size, progress)
    if not sample:
        raise SoftmapError(f"{config.data}: no text in it{_skipped(source)}")
    if not fair:
        sample = split_within(sample, config.heldout)
    tokenizer = given or _train(sample, int(config.tokenizer.split(":")[1]), progress)
    with ShardWriter(folder, tokenizer.vocab_size) as writer:
        _write(writer, itertools.chain(sample, stream), tokenizer, source.size, progress)
        split = BY_DOCUMENT if fair else WITHIN_DOCUMENT
        found = {"split": split, "duplicates": splitter.duplicates}
        found |= {"skipped_files": len(source.skipped), "skipped": source.skipped[:MOST_NAMED]}
        writer.publish(tokenizer, _meta(config, source, tokenizer, writer) | found)


def _skipped(source: Source) -> str:
    if not source.skipped:
        return ""
    return f" ({skipped_files(len(source.skipped), source.skipped[:MOST_NAMED])})"


def skipped_files(count: int, names: list[str]) -> str:
    """What is said of files that were passed over; ``names`` are the first of them."""
    more = f" and {count - len(names)} more" if count > len(names) else ""
    files = "1 file is" if count == 1 else f"{count} files are"
    return f"{files} skipped as no utf-8 text: {', '.join(map(one_line, names))}{more}"


def _read_sample(
    stream: Iterator[Sided], heldout: float, size: int | None, progress: Progress
) -> tuple[list[Sided], bool]:
    """The documents to hold in memory, and whether the split by hash gave each side its due."""
    sample: list[Sided] = []
    sizes = [0, 0]
    for document in stream:
        sample.append(document)
        sizes[document.side] += document.bytes
        progress("reading", sum(sizes), size)
        if sum(sizes) >= SAMPLE_BYTES and is_fair(sizes, heldout):
            break
    return sample, is_fair(sizes, heldout)


def _train(sample: list[Sided], vocab_size: int, progress: Progress) -> Tokenizer:
    train = [document for document in sample if document.side == TRAIN]
    total, done = sum(document.bytes for document in train), 0

    def texts() -> Iterator[str]:
        nonlocal done
        for document in train:
            yield document.text
            done += document.bytes
            progress("training the tokenizer", done, total)

    return train_bpe(texts(), vocab_size)


def _write(
    writer: ShardWriter,
    documents: Iterable[Sided],
    tokenizer: Tokenizer,
    size: int | None,
    progress: Progress,
) -> None:
    done = 0
    for group in _groups(documents):
        ids = tokenizer.encode_batch([document.text for document in group])
        for document, tokens in zip(group, ids, strict=True):
            writer.add(document.side, [*tokens, tokenizer.eod], document.bytes)
            done += document.bytes
        progress("tokenizing", done, size)


def _groups(documents: Iterable[Sided]) -> Iterator[list[Sided]]:
    group: list[Sided] = []
    size = 0
    for document in documents:
        group.append(document)
        size += document.bytes
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _meta(
    config: DataConfig, source: Source, tokenizer: Tokenizer, writer: ShardWriter
) -> dict[str, Any]:
    counts = writer.counts
    return {
        "source": source.description,
        "field": config.field,
        "hash": writer.hash,
        "tokenizer": config.tokenizer,
        "vocab_size": tokenizer.vocab_size,
        "heldout": config.heldout,
        "max_bytes": config.max_bytes,
        "dtype": writer.dtype.str,
        **counts,
        "bytes_per_token": counts["heldout_bytes"] / counts["heldout_tokens"],
    }
