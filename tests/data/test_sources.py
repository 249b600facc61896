from __future__ import annotations

import gzip
import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from softmap.data import DataConfig, records, sources
from softmap.data.records import parse_hf
from softmap.data.sources import open_source
from softmap.errors import SoftmapError


def documents(data: Path | str, **options: object) -> list[tuple[str, str]]:
    return list(open_source(DataConfig(data=str(data), **options)).documents())  # type: ignore[arg-type]


def fails(call: Callable[[], object], *parts: object) -> None:
    """The call raises one line that holds every part."""
    with pytest.raises(SoftmapError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def test_a_folder_is_read_in_the_order_of_paths(folder: Path) -> None:
    names = [name for name, _ in documents(folder)]
    assert len(names) == 60
    assert names == sorted(names)
    assert names[0] == "a/01.txt"


def test_hidden_version_control_and_binary_files_are_left_out(tmp_path: Path) -> None:
    for name in (".git/config", ".hidden", "CVS/Root", "seen.txt", "deep/er/seen.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    (tmp_path / "picture").write_bytes(b"PNG\0\0")
    (tmp_path / "latin1").write_bytes("Müller".encode("latin-1"))
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    source = open_source(DataConfig(data=str(tmp_path)))
    assert [name for name, _ in source.documents()] == ["deep/er/seen.md", "seen.txt"]
    assert source.skipped == ["latin1", "picture"]


def test_compressed_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\ufeffä\n".encode()))
    # Two parts, as `cat` makes of two files: what the last says of its size is not the whole.
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"one\n" * 9) + gzip.compress(b""))
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(b"\0binary"))
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b""))
    source = open_source(DataConfig(data=str(tmp_path)))
    assert list(source.documents()) == [("a.txt.gz", "ä\n"), ("b.md.gz", "one\n" * 9)]
    assert source.skipped == ["c.tar.gz"] and source.size is None
    limited = open_source(DataConfig(data=str(tmp_path / "b.md.gz"), max_bytes=6))
    assert list(limited.documents()) == [("b.md.gz", "one\non")]


def test_large_compressed_text_comes_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "WHOLE", 50)
    monkeypatch.setattr(sources, "PART", 20)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one line\n" * 30))
    found = documents(tmp_path / "a.txt.gz")
    assert len(found) > 5 and "".join(text for _, text in found) == "one line\n" * 30
    assert all(text.endswith("\n") for _, text in found)


@pytest.mark.parametrize(
    "damage", [b"no gzip", gzip.compress(b"text " * 99)[:-12]], ids=["none", "cut"]
)
def test_damaged_compressed_text(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "t.txt.gz").write_bytes(damage)
    fails(lambda: documents(tmp_path / "t.txt.gz"), "t.txt.gz", "cannot be read")


def test_text_is_kept_as_it_is_but_for_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffä\r\n\tb\u2028".encode())
    assert documents(path) == [("t.txt", "ä\r\n\tb\u2028")]


def test_max_bytes_cuts_a_file_at_a_character(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("aé" * 10)  # 1 + 2 bytes
    assert documents(path, max_bytes=5) == [("t.txt", "aéa")]


def test_the_standard_library_comes_without_tests_and_built_files() -> None:
    source = open_source(DataConfig())
    names = {name for name, _ in source.documents()}
    assert {"ast.py", "json/decoder.py"} <= names
    assert all(name.endswith(".py") for name in names)
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert not any(part.startswith(("_sysconfigdata", "config-")) for part in parts)
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    assert dict(source.documents())["ast.py"] == (stdlib / "ast.py").read_bytes().decode()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"r{suffix}"
    lines = '{"body": "one"}\n\n{"body": null}\n{"body": "zwei ü"}\n'.encode()
    path.write_bytes(gzip.compress(lines) if suffix.endswith("gz") else lines)
    expected = [(f"{path.name}:1", "one"), (f"{path.name}:4", "zwei ü")]
    assert documents(path, field="body") == expected
    assert documents(tmp_path, field="body") == expected


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    rows = [f"row {i}" for i in range(2500)]
    table = pyarrow.table({"body": [*rows, None], "n": range(2501)})
    pyarrow.parquet.write_table(table, path, row_group_size=100)
    assert documents(path, field="body") == [(f"r.parquet:{i + 1}", t) for i, t in enumerate(rows)]


def test_datasets_loads_a_local_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [{"body": f"{split} {i}", "other": i} for i in range(3)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = [(f"train:{i}", f"train {i}") for i in range(3)]
    assert documents(f"hf:{tmp_path}", field="body") == expected
    assert documents(f"hf:{tmp_path}:test", field="body")[2] == ("test:2", "test 2")
    fails(lambda: documents(f"hf:{tmp_path}", field="bod"), "'bod'", "'body'", "body, other")
    fails(lambda: documents(f"hf:{tmp_path}::nope", field="body"), "cannot be loaded", "nope")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("name", ("name", None, "train")),
        ("a/b:validation", ("a/b", None, "validation")),
        ("a/b:en", ("a/b", "en", "train")),
        ("a/b:en:test", ("a/b", "en", "test")),
        ("a/b::odd", ("a/b", None, "odd")),
        ("a/b:test:", ("a/b", "test", "train")),
    ],
)
def test_hf_names(spec: str, expected: tuple[str, str | None, str]) -> None:
    assert parse_hf(spec) == expected


def test_what_is_not_there(tmp_path: Path) -> None:
    fails(lambda: documents(tmp_path / "nowhere"), "nowhere", "a file or a folder")
    fails(lambda: documents("hf:"), "hf:NAME[:CONFIG][:SPLIT]")
    fails(lambda: documents("hf:a:b:c:d"), "hf:a:b:c:d")
    fails(lambda: documents("hf:nobody/nothing"), "hf:nobody/nothing", "cannot be loaded")


def test_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(range(256)))
    fails(lambda: documents(path), path, "binary")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "t.txt").write_text("text")
    (tmp_path / "t.jsonl").write_text("{}")
    monkeypatch.setattr(Path, "open", deny)  # root may read everything: chmod would prove nothing
    fails(lambda: documents(tmp_path / "t.txt"), "t.txt", "Permission denied")
    fails(lambda: documents(tmp_path / "t.jsonl"), "t.jsonl", "Permission denied")
    stdlib = open_source(DataConfig())
    assert list(stdlib.documents()) == []
    assert len(stdlib.skipped) > 100


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"body": "x"', ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ('["x"]', ["expected a JSON object", "list"]),
        ('{"text": "x", "id": 1}', ["no field 'body'", "id, text"]),
        ('{"body": 3}', ["must be a string", "int"]),
    ],
)
def test_bad_jsonl_names_file_and_line(tmp_path: Path, line: str, parts: list[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"body": "good"}}\n{line}\n')
    fails(lambda: documents(path, field="body"), f"{path}:2", *parts)


def test_damaged_record_files(tmp_path: Path) -> None:
    def bad(name: str, content: bytes, *parts: str) -> None:
        (tmp_path / name).write_bytes(content)
        fails(lambda: documents(tmp_path / name), name, *parts)

    bad("a.jsonl", b'{"text": "\xff"}', "utf-8")
    packed = gzip.compress(b'{"text": "x"}\n' * 1000)
    bad("b.jsonl.gz", b"no gzip", "cannot be read")
    bad("c.jsonl.gz", packed[:-12], "cannot be read")
    bad("d.jsonl.gz", packed[:20] + b"\xff" * 20 + packed[40:], "cannot be read")
    bad("e.parquet", b"PAR1 no", "cannot be read as Parquet")


def test_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), path)
    fails(lambda: documents(path), "no field 'text'", "body, n")
    fails(lambda: documents(path, field="n"), "must be a string", "int")


def test_bad_configs() -> None:
    for share in (0, 1, -0.1, float("nan")):
        fails(lambda share=share: DataConfig(heldout=share), "heldout", share)
    fails(lambda: DataConfig(max_bytes=0), "max_bytes")
    fails(lambda: DataConfig(data=""), "data")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that a test can write; what is read at once is held to them."""
    monkeypatch.setattr(sources, "WHOLE", 100)
    monkeypatch.setattr(sources, "PART", 40)
    monkeypatch.setattr(records, "LONGEST", 200)


@pytest.mark.parametrize("line", ["aé\n" * 60, "é" * 130, "a" * 39 + "é" * 80 + "\n\n" + "b" * 99])
def test_a_large_text_file_comes_in_parts(tmp_path: Path, small: None, line: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbf" + line.encode())
    found = documents(path)
    assert "".join(text for _, text in found) == line
    assert len(found) > 3 and all(len(text.encode()) <= 80 for _, text in found)
    assert [name for name, _ in found[:3]] == ["t.txt", "t.txt:2", "t.txt:3"]
    if line.startswith("aé\n"):
        assert all(text.endswith("\n") for _, text in found)
    first = line.encode()[:101].decode(errors="ignore")  # after three bytes of the mark
    assert "".join(text for _, text in documents(path, max_bytes=104)) == first
    path.write_text("é" * 50)
    assert documents(path) == [("t.txt", "é" * 50)]


def test_a_large_file_that_ends_in_other_bytes(tmp_path: Path, small: None) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"a\n" * 60 + b"\xff" * 50)
    fails(lambda: documents(path), path, "expected utf-8 text", "after 120 bytes")
    fails(lambda: documents(tmp_path), path, "expected utf-8 text", "after 120 bytes")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_line_that_is_longer_than_memory(tmp_path: Path, small: None, suffix: str) -> None:
    path = tmp_path / f"r{suffix}"
    lines = b'{"text": "one"}\n{"text": "' + b"x" * 10**6 + b'"}\n'
    path.write_bytes(gzip.compress(lines) if suffix.endswith("gz") else lines)
    fails(lambda: documents(path), f"{path}:2", "at most 200 bytes")


def test_a_record_that_is_longer_than_memory(tmp_path: Path, small: None) -> None:
    path = tmp_path / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y" * 201]}), path)
    fails(lambda: documents(path), f"{path} row 2", "at most 200 characters", "found 201")
