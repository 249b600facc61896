"""``prepare``: text in, memory-mapped tokens out, once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
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
    SplitDocument,
    Splitter,
    interleaved,
    is_fair,
    limit_bytes,
    split_within,
)
from softmap.data.tokenizer import Tokenizer
from softmap.errors import SoftmapError, one_line
from softmap.extras import need

FORMAT = 2  # of the folder; part of the fingerprint
MOST_NAMED = 10  # skipped files that are listed
SAMPLE_BYTES = 64 << 20  # the text that is held in memory: BPE is trained on its train documents
GROUP_BYTES = 4 << 20  # the text that is encoded at once, in parallel


def prepare(config: DataConfig, cache_dir: str | Path, progress: Progress | None = None) -> Corpus:
    """Returns the corpus of a config, from ``cache_dir`` if nothing has changed, else built there.

    It passes over the source once, in bounded memory: the first 64 MiB are held (more if a side of
    the split would otherwise be nearly empty), the BPE tokenizer is trained on the train documents
    among them, and the rest is tokenized as it is read. Several processes may prepare the same
    corpus at once: each builds its own temporary folder, and the first rename wins.

    Args:
        progress: called as ``progress(stage, done, total)`` in bytes of text; stages are
            ``"reading"``, ``"training the tokenizer"`` and ``"tokenizing"``.

    Raises:
        SoftmapError: text or tokenizer that is missing, unreadable, empty or too small; a cache
            folder that cannot be written (a full disk too; nothing is left behind).
    """
    kind, argument = parse_spec(config.tokenizer)
    sources = [open_source(one) for one in config.singly()]
    given = _given_tokenizer(kind, argument)
    folder = Path(cache_dir).expanduser() / fingerprint(config, sources, given)
    if (corpus := read_corpus(folder)) is not None:
        return corpus
    try:
        _build(config, sources, given, folder, progress or (lambda *_: None))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SoftmapError(
            f"cache folder {str(cache_dir)!r}: cannot be written ({reason})"
        ) from None
    if (corpus := read_corpus(folder)) is None:
        raise SoftmapError(f"cache folder {str(folder)!r} was changed while it was being written")
    return corpus


def fingerprint(config: DataConfig, sources: Sequence[Source], given: Tokenizer | None) -> str:
    """Returns a name for the result, from the sources, how they are split and how they are
    tokenized.
    """
    import tokenizers

    of_each = list(zip(sources, config.singly(), strict=True))
    mixed = [[source.identity, one.field] for source, one in of_each], config.weights
    facts = {
        "format": FORMAT,
        "source": mixed if len(sources) > 1 else sources[0].identity,
        "config": [of_each[0][1].field, config.tokenizer, config.heldout, config.max_bytes],
        "tokenizer": given.digest if given else None,
        "tokenizers": tokenizers.__version__,
    }
    return blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


def _given_tokenizer(kind: str, argument: str) -> Tokenizer | None:
    """Returns the tokenizer that exists before any text is read; None for one that is to be
    trained.
    """
    need("a tokenizer", "tokenizers", "transformers", extra="lab")
    if kind == "hf":
        return load_tokenizer(argument)
    return bytes_tokenizer() if kind == "bytes" else None


def _build(
    config: DataConfig,
    sources: Sequence[Source],
    given: Tokenizer | None,
    folder: Path,
    progress: Progress,
) -> None:
    splitter, weights, configs = Splitter(config.heldout), config.weights, config.singly()
    streams = [
        splitter(limit_bytes(source.documents(), one.max_bytes))
        for source, one in zip(sources, configs, strict=True)
    ]
    stream, size = interleaved(streams, weights), _size(sources)
    sample, unfair = _read_sample(stream, config.heldout, len(sources), size, progress)
    for part, source in enumerate(sources):
        if not any(document.part == part for document in sample):
            raise SoftmapError(f"{configs[part].name}: no text in it{_skipped(source)}")
    for part in unfair:
        sample = split_within(sample, config.heldout, part)
    tokenizer = given or _train(sample, int(config.tokenizer.split(":")[1]), progress)
    with ShardWriter(folder, tokenizer.vocab_size, weights) as writer:
        _write(writer, itertools.chain(sample, stream), tokenizer, size, progress)
        skipped = [name for source in sources for name in source.skipped]
        split = WITHIN_DOCUMENT if unfair else BY_DOCUMENT
        found = {"split": split, "duplicates": splitter.duplicates}
        found |= {"skipped_files": len(skipped), "skipped": skipped[:MOST_NAMED]}
        writer.publish(tokenizer, _meta(config, sources, tokenizer, writer) | found)


def _size(sources: Sequence[Source]) -> int | None:
    """Returns the bytes of text of all sources, None where that of one is not known."""
    sizes = [source.size for source in sources]
    return None if None in sizes else sum(size for size in sizes if size)


def _skipped(source: Source) -> str:
    if not source.skipped:
        return ""
    return f" ({skipped_files(len(source.skipped), source.skipped[:MOST_NAMED])})"


def skipped_files(count: int, names: list[str]) -> str:
    """Returns a sentence on skipped files; ``names`` are the first of them."""
    more = f" and {count - len(names)} more" if count > len(names) else ""
    files = "1 file that is" if count == 1 else f"{count} files that are"
    return f"skipped {files} not utf-8 text: {', '.join(map(one_line, names))}{more}"


def _read_sample(
    stream: Iterator[SplitDocument],
    heldout: float,
    parts: int,
    size: int | None,
    progress: Progress,
) -> tuple[list[SplitDocument], list[int]]:
    """Returns the documents to hold in memory, and the parts that the split by hash leaves too
    uneven.
    """
    sample: list[SplitDocument] = []
    sizes, done = [[0, 0] for _ in range(parts)], 0
    for document in stream:
        sample.append(document)
        sizes[document.part][document.side] += document.bytes
        done += document.bytes
        progress("reading", done, size)
        if done >= SAMPLE_BYTES and all(is_fair(one, heldout) for one in sizes):
            break
    return sample, [part for part, one in enumerate(sizes) if not is_fair(one, heldout)]


def _train(sample: list[SplitDocument], vocab_size: int, progress: Progress) -> Tokenizer:
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
    documents: Iterable[SplitDocument],
    tokenizer: Tokenizer,
    size: int | None,
    progress: Progress,
) -> None:
    done = 0
    for group in _groups(documents):
        ids = tokenizer.encode_batch([document.text for document in group])
        for document, tokens in zip(group, ids, strict=True):
            if not document.spare:
                writer.add(document, [*tokens, tokenizer.eod])
            done += document.bytes
        progress("tokenizing", done, size)


def _groups(documents: Iterable[SplitDocument]) -> Iterator[list[SplitDocument]]:
    group: list[SplitDocument] = []
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
    config: DataConfig, sources: Sequence[Source], tokenizer: Tokenizer, writer: ShardWriter
) -> dict[str, Any]:
    counts = writer.counts
    mixed = len(sources) > 1
    return {
        "source": config.name if mixed else sources[0].description,
        "field": config.singly()[0].field,
        **({"weights": config.weights} if mixed else {}),
        "hash": writer.hash,
        "tokenizer": config.tokenizer,
        "vocab_size": tokenizer.vocab_size,
        "heldout": config.heldout,
        "max_bytes": config.max_bytes,
        "dtype": writer.dtype.str,
        **counts,
        "bytes_per_token": counts["heldout_bytes"] / counts["heldout_tokens"],
    }
