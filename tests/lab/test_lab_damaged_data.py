"""Record files that are damaged or hold something else: ``compare`` refuses them in one line."""

from __future__ import annotations

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import lab_tiny
import pyarrow
import pyarrow.parquet
import pytest

from softmap.cli import main

TEXTS = [f"document {n} " + "again and again " * 20 for n in range(300)]


def parquet(values: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), file, **options)
    return file.getvalue()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


WHOLE = parquet(TEXTS, write_page_checksum=True, compression="none", use_dictionary=False)
PACKED = gzip.compress("".join(json.dumps({"text": t}) + "\n" for t in TEXTS).encode())
JUNK = random.Random(0).randbytes(500)
KINDS: dict[str, tuple[str, bytes, str]] = {
    "cut": (".parquet", WHOLE[: len(WHOLE) // 2], "as Parquet"),
    "no tail": (".parquet", WHOLE[:-4], "as Parquet"),
    "first magic": (".parquet", b"XXXX" + WHOLE[4:], "expected b'PAR1' first, found b'XXXX'"),
    "last magic": (".parquet", WHOLE[:-4] + b"XXXX", "as Parquet"),
    "nothing": (".parquet", b"", "as Parquet"),
    "junk": (".parquet", b"PAR1" + JUNK + b"PAR1", "as Parquet"),
    "a flipped bit": (".parquet", flipped(WHOLE, len(WHOLE) // 3), "as Parquet"),
    "whole numbers": (".parquet", parquet([1, 2]), "row 1: field 'text' must be a string"),
    "lists": (".parquet", parquet([["a"]]), "row 1: field 'text' must be a string"),
    "bytes": (".parquet", parquet([b"abc"]), "row 1: field 'text' must be a string"),
    "nulls": (".parquet", parquet([None, None]), "no text in it"),
    "no rows": (".parquet", parquet(pyarrow.array([], pyarrow.string())), "no text in it"),
    "gz cut": (".jsonl.gz", PACKED[: len(PACKED) // 2], "cannot be read"),
    "gz no tail": (".jsonl.gz", PACKED[:-4], "cannot be read"),
    "gz junk": (".jsonl.gz", JUNK, "cannot be read"),
    "gz junk at the end": (".jsonl.gz", PACKED + b"junk", "cannot be read"),
    "gz checksum": (".jsonl.gz", flipped(PACKED, len(PACKED) - 8), "cannot be read"),
    "not packed": (".jsonl.gz", gzip.decompress(PACKED), "cannot be read"),
    "zeros": (".jsonl", bytes(1000), "text.jsonl:1: not JSON"),
    "UTF-16": (".jsonl", "{}\n".encode("utf-16"), "text.jsonl:1: expected utf-8"),
}


@pytest.mark.parametrize(("suffix", "content", "says"), KINDS.values(), ids=list(KINDS))
def test_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, content: bytes, says: str
) -> None:
    recipe, file = lab_tiny.write_recipe(tmp_path), tmp_path / f"text{suffix}"
    file.write_bytes(content)
    out = tmp_path / "runs"
    assert main(["compare", str(recipe), "--data", str(file), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("softmap: error:")]
    assert said == lines[-1:] and str(file) in said[0] and says in said[0]
    assert not any(path.is_file() for path in out.rglob("*"))


def test_the_whole_file_is_read(tmp_path: Path) -> None:
    from softmap.data.records import read_parquet

    (tmp_path / "a.parquet").write_bytes(WHOLE)
    found = [text for _, text in read_parquet(tmp_path / "a.parquet", "a", "text")]
    assert found == TEXTS
