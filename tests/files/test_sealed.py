"""JSON that is read strictly, seals that find a change, checksums of folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict

import pytest

from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.files import sealed, whole_folder


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (b'{"a": ', "Expecting value"),
        (b"\xff\xfe", "utf-8"),
        ("\ufeff{}".encode(), "BOM"),
        (b'{"a": NaN}', "the number NaN, which is not finite"),
        (b'{"a": -Infinity}', "not finite"),
        (b'{"a": 1e400}', "the number 1e400, which is not finite"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "integer string"),
    ],
)
def test_json_is_strict(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(SoftmapError, match=r"a\.json: broken file: expected JSON") as error:
        sealed.read_json(tmp_path / "a.json")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "loop", "folder", "none"):
        with pytest.raises(SoftmapError, match=f"{name}: expected a file, found"):
            sealed.read_json(tmp_path / name)


def test_a_seal_finds_every_change_of_a_byte(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"é": [1.5, None, True, {"2": 10**15}], "b": "text"}
    sealed.write_sealed(path, {**value, 3: 0})
    value["3"] = 0  # as JSON has it
    assert sealed.read_sealed(path) == value
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            found = sealed.read_sealed(path)
        except SoftmapError:
            continue
        # The seal's own name, or a space: what was written is still there.
        assert {key: found[key] for key in value} == value


def test_a_file_without_a_seal_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert sealed.read_sealed(tmp_path / "a.json") == {"a": 1}


def test_a_folders_files_are_held_against_its_checksums(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "in/b"):
        (tmp_path / name).write_text(name)
    sealed.seal_folder(tmp_path)
    sealed.verify_folder(tmp_path)
    (tmp_path / "in" / "b").write_text("in/c")
    with pytest.raises(SoftmapError, match=r"in/b: expected SHA-256 .*checksums\.json"):
        sealed.verify_folder(tmp_path)
    sealed.verify_folder(tmp_path, "a")
    (tmp_path / "a").unlink()
    with pytest.raises(SoftmapError, match="a: expected 1 bytes, found no file"):
        sealed.verify_folder(tmp_path, "a")


@pytest.mark.parametrize(
    "files", [{"../a": [1, ""]}, {"/a": [1, ""]}, {"a": 1}, {"a": ["1", 1]}, 5]
)
def test_checksums_that_lead_elsewhere(tmp_path: Path, files: object) -> None:
    (tmp_path / sealed.CHECKSUMS).write_text(json.dumps({"files": files}))
    with pytest.raises(SoftmapError, match="expected sizes and hashes"):
        sealed.verify_folder(tmp_path)


class Inner(TypedDict):
    y: float


class Shape(TypedDict):
    n: int
    x: float | None
    list: list[str]
    inside: Inner | None


GOOD = {"n": 1, "x": 2, "list": ["a"], "inside": {"y": 0.5}, "more": []}


def test_shapes() -> None:
    check("it", GOOD, Shape)
    check("it", {"n": 0, "list": []}, Shape)
    for change, says in (
        ({"n": True}, "it: n: expected a whole number, found True"),
        ({"n": 2**63}, "it: n: expected a whole number"),
        ({"n": None}, "it: n: expected a whole number, found None"),
        ({"x": "1"}, "it: x: expected a number or nothing, found '1'"),
        ({"x": float("inf")}, "it: x: expected a number"),
        ({"list": "a"}, "it: list: expected a list"),
        ({"list": ["a", 1]}, r"it: list\[1\]: expected text, found 1"),
        ({"inside": []}, "it: inside: expected a mapping or nothing, found"),
        ({"inside": {}}, "it: inside: y: expected a number, found None"),
    ):
        with pytest.raises(SoftmapError, match=says):
            check("it", GOOD | change, Shape)


def test_a_folder_that_is_replaced_is_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in each rename in turn; nothing else is left over."""
    target, real = tmp_path / "model", os.replace
    with whole_folder(target) as folder:
        (folder / "old").touch()
    for fault in (1, 2):
        calls = 0

        def replace(*paths: object, fault: int = fault) -> None:
            nonlocal calls
            calls += 1
            if calls == fault:
                raise KeyboardInterrupt
            real(*paths)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt), whole_folder(target, replace=True) as folder:
            (folder / "new").touch()
        assert os.listdir(tmp_path) == ["model"] and os.listdir(target) == ["old"]
