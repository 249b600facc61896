"""Documents from record files: JSONL, Parquet, and whatever ``datasets`` can stream."""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from softmap.data.config import is_unicode
from softmap.errors import SoftmapError, nearest, reason
from softmap.extras import need

Document = tuple[str, str]
"""(name, text)"""

LONGEST = 64 << 20  #: bytes of a line of JSONL, characters of a record's text: held in memory
MAGIC = b"PAR1"
SPLITS = ("train", "validation", "valid", "dev", "test")


def _no_field(where: str, field: str, available: Iterable[str]) -> SoftmapError:
    names = sorted(map(str, available))
    listed = ", ".join(names) or "none"
    return SoftmapError(f"{where}: no field {field!r}{nearest(field, names)}; it has: {listed}")


def _value(record: dict[str, Any], field: str, where: str) -> str | None:
    """Returns the text of a record; None for a null, which stands for 'no document'."""
    if field not in record:
        raise _no_field(where, field, record)
    value = record[field]
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise SoftmapError(f"{where}: field {field!r} must be a string, found {kind}")
    if value is not None and len(value) > LONGEST:
        raise SoftmapError(
            f"{where}: expected at most {LONGEST:,} characters in {field!r}, found {len(value):,}"
        )
    if value is not None and not is_unicode(value):
        raise SoftmapError(
            f"{where}: field {field!r} holds half of a surrogate pair: no valid text"
        )
    return value


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SoftmapError(f"{where}: expected utf-8 JSON lines, found other bytes") from None
    except (ValueError, RecursionError) as error:
        raise SoftmapError(f"{where}: not JSON ({reason(error)})") from None
    if not isinstance(record, dict):
        found = type(record).__name__
        raise SoftmapError(f"{where}: expected a JSON object, found {found}")
    return record


def read_jsonl(path: Path, name: str, field: str) -> Iterator[Document]:
    """Yields one document per line of a ``.jsonl`` or ``.jsonl.gz`` file; blank lines are skipped.

    Raises:
        SoftmapError: with ``file:line`` for a line that is not a JSON object, lacks ``field`` or is
            longer than ``LONGEST``.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as raw:
            for number, line in enumerate(_lines(raw, path), 1):
                where = f"{path}:{number}"
                if line.strip():
                    text = _value(_parse(line, where), field, where)
                    if text is not None:
                        yield f"{name}:{number}", text
    except (OSError, EOFError, zlib.error) as error:
        raise SoftmapError(f"{path}: cannot be read ({reason(error)})") from None


def _lines(raw: Any, path: Path) -> Iterator[bytes]:
    """Yields the lines of a file; raises ``SoftmapError`` for one longer than ``LONGEST``."""
    number = 1
    while line := raw.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise SoftmapError(
                f"{path}:{number}: expected lines of at most {LONGEST:,} bytes, found a longer one"
            )
        yield line
        number += 1


def read_parquet(path: Path, name: str, field: str) -> Iterator[Document]:
    """Yields one document per row of a Parquet file, with one row group in memory at a time.

    Checksums of pages are verified where they exist (not all writers make them).

    Raises:
        SoftmapError: the file is damaged (after a row that is named), or has no string column
            ``field``.
    """
    need("Parquet", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        _check_head(path)
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if field not in file.schema_arrow.names:
                raise _no_field(str(path), field, file.schema_arrow.names)
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(1024, row_groups=[group], columns=[field]):
                    for value in batch.column(0).to_pylist():
                        row += 1
                        text = _value({field: value}, field, f"{path} row {row}")
                        if text is not None:
                            yield f"{name}:{row}", text
    except SoftmapError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # text that is not utf-8 too
        where = f"{path} after row {row}" if row else str(path)
        raise SoftmapError(f"{where}: cannot be read as Parquet ({reason(error)})") from None


def _check_head(path: Path) -> None:
    with path.open("rb") as raw:
        head = raw.read(len(MAGIC))
    if head != MAGIC:  # pyarrow looks at the end of the file alone
        raise ValueError(f"expected {MAGIC!r} first, found {head!r}")


def parse_hf(spec: str) -> tuple[str, str | None, str]:
    """Returns ``"NAME[:CONFIG][:SPLIT]"`` as (name, config or None, split; train by default)."""
    name, *rest = spec.split(":")
    if not name or len(rest) > 2:
        raise SoftmapError(f"data: expected 'hf:NAME[:CONFIG][:SPLIT]', found 'hf:{spec}'")
    if len(rest) == 1:
        rest = ["", rest[0]] if rest[0] in SPLITS else [rest[0], ""]
    config, split = rest or ["", ""]
    return name, config or None, split or "train"


def read_hf(spec: str, field: str) -> Iterator[Document]:
    """Yields documents of a Hub data set or of a local folder, streamed by ``datasets`` shard by
    shard.

    Raises:
        SoftmapError: in one line, whatever kept ``datasets`` from loading or reading it, with the
            shard's file and the row where one is broken.
    """
    need("a data set of the Hub", "datasets")
    import datasets

    where, shard, row, number = f"hf:{spec}", "", 0, 0
    try:
        with _silent(datasets):
            rows, shards = _streamed(datasets, spec)
            if rows.column_names is not None:
                if field not in rows.column_names:
                    raise _no_field(where, field, rows.column_names)
                rows = rows.select_columns([field])
            for index, shard in enumerate(shards):
                records = rows.shard(len(shards), index)
                for row, record in enumerate(records, 1):
                    text = _value(record, field, f"{where}: {shard} row {row}")
                    if text is not None:
                        yield f"{parse_hf(spec)[2]}:{number}", text
                    number += 1
                row = 0
    except SoftmapError:
        raise
    except Exception as error:  # datasets raises its own, the Hub's, the network's and pyarrow's
        _read_again(Path(shard), field)
        place = f": {shard} after row {row}" if shard else ""
        raise SoftmapError(f"{where}{place}: cannot be loaded ({reason(error)})") from None


@contextlib.contextmanager
def _silent(datasets: Any) -> Iterator[None]:
    """Silence the logging of ``datasets``, which also logs what it raises."""
    before = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(before)


def _streamed(datasets: Any, spec: str) -> tuple[Any, list[str]]:
    """Returns a data set as ``datasets`` streams it, and the names of its shards: their files."""
    name, config, split = parse_hf(spec)
    builder = datasets.load_dataset_builder(name, config)
    if hasattr(builder.config, "fragment_scan_options"):  # Parquet; else it ignores checksums
        from pyarrow.dataset import ParquetFragmentScanOptions

        scan = ParquetFragmentScanOptions(page_checksum_verification=True)
        builder.config.fragment_scan_options = scan
    rows = builder.as_streaming_dataset(split=split)
    files = list(map(str, (builder.config.data_files or {}).get(split, ())))
    count = rows.num_shards
    known = files if len(files) == count else [f"shard {n + 1} of {count}" for n in range(count)]
    return rows, known


def _read_again(path: Path, field: str) -> None:
    """Raise the error of our own readers for a local file, if they find one.

    ``datasets`` reads a block of many lines at once; our readers name the line.
    """
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        read = read_parquet if path.suffix == ".parquet" else read_jsonl
        for _ in read(path, path.name, field):
            pass
