"""Every file of a finished run, damaged: what is read gives the same as before, or one line."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softmap.cli import main
from softmap.files import sealed

TRIAL = "variants/diff/seed0"
FILES = [
    "run.json",
    *(f"{TRIAL}/{name}" for name in (
        "result.json", "trial.json", "budget-0.json", "budgets.json", "train.jsonl", "eval-2.npz",
        "maps.npz", "model/config.json", "model/model.safetensors", "model/tokenizer.json",
        "model/tokenizer_config.json", "model/generation_config.json", "model/checksums.json",
    )),
]  # fmt: skip


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flip": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "junk": lambda path: path.write_bytes(bytes(range(255, 0, -1)) * 3),
    "list": lambda path: path.write_text("[1]"),
    "text": lambda path: path.write_text('{"variant": {}, "files": 3, "budgets": [{}]}'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "not finite": lambda path: path.write_text('{"loss": NaN, "a": 1e999}'),
    "folder": _folder,
    "loop": _loop,
}


@pytest.fixture(scope="module")
def original(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run and its recipe, to be copied from."""
    folder = tmp_path_factory.mktemp("original")
    shutil.copytree(finished.parents[1], folder / "all")
    return folder / "all"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are looked at, pictures and the page's script are not."""
    monkeypatch.setattr("softmap.report.assemble._pictures", lambda *_: None)
    monkeypatch.setattr("softmap.report.page.bundle", lambda: "")


def commands(place: Path) -> dict[str, list[str]]:
    run = place / "runs" / "tiny"
    generate = ["generate", str(run), "--variant", "diff", "--max-new-tokens", "4"]
    compare = ["compare", str(place / "tiny.yaml"), "--out", str(place / "runs")]
    return {"report": ["report", str(run)], "generate": generate, "compare": compare}


def outcome(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status, and what the command gives: numbers, text, or its one line."""
    capsys.readouterr()
    status = main(commands(place)[name])
    said = capsys.readouterr()
    if status:
        assert status == 2 and said.err.count("softmap: error: ") == 1
        assert said.err.splitlines()[-1].startswith("softmap: error: ")
        return status, said.err
    if name == "generate":
        return status, said.out
    return status, json.dumps(_numbers(json.loads((place / "runs/tiny/report.json").read_text())))


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: summary[key] for key in ("variants", "verdict", "missing", "data", "training")}


@pytest.fixture(scope="module")
def intact() -> dict[str, str]:
    """What each command gave before anything was damaged."""
    return {}


def check(
    original: Path, place: Path, file: str, damage: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str], names: tuple[str, ...], intact: dict[str, str],
) -> list[tuple[int, str]]:  # fmt: skip
    for name in names:
        if name not in intact:
            intact[name] = outcome(name, original, capsys)[1]
    shutil.copytree(original, place, symlinks=True)
    damage(place / "runs" / "tiny" / file)
    found = [outcome(name, place, capsys) for name in names]
    for (status, text), name in zip(found, names, strict=True):
        assert text == intact[name] if status == 0 else str(place) in text
    return found


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((file, damage) for file in FILES for damage in ("flip", "text")),
        *((f"{TRIAL}/result.json", damage) for damage in DAMAGES),
        *((f"{TRIAL}/eval-2.npz", damage) for damage in ("cut", "empty", "folder", "loop")),
    ],
)
def test_the_same_or_one_line(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], intact: dict[str, str],
    file: str, damage: str,
) -> None:  # fmt: skip
    name = "generate" if "model/" in file else "report"
    ((status, said),) = check(
        original, tmp_path / "copy", file, DAMAGES[damage], capsys, (name,), intact
    )
    assert status == 2 and Path(file).name in said


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_every_command_on_every_damage(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], intact: dict[str, str],
    file: str, damage: str,
) -> None:  # fmt: skip
    names = ("report", "generate", "compare")
    check(original, tmp_path / "copy", file, DAMAGES[damage], capsys, names, intact)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(150))
def test_any_bytes_anywhere(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], intact: dict[str, str],
    seed: int,
) -> None:  # fmt: skip
    """Bytes put over others, or a cut where there are none."""
    draw = random.Random(seed)

    def damage(path: Path) -> None:
        before, data = path.read_bytes(), draw.randbytes(draw.randrange(9))
        start = draw.randrange(len(before))
        path.write_bytes(before[:start] + data + (before[start + len(data) :] if data else b""))

    names = ("report", "generate")
    check(original, tmp_path / "copy", draw.choice(FILES), damage, capsys, names, intact)


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside), other.rename(one), aside.rename(other)


def _of_another(path: Path) -> None:
    """Settings of another run, sealed as it would have sealed them."""
    info = sealed.read_sealed(path)
    sealed.write_sealed(path, info | {"settings": info["settings"] | {"training.steps": 99}})


SWAPS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "model": ("generate", "checksums.json: expected", lambda v: _swap(
        v / "diff/seed0/model", v / "transformerpp/seed0/model")),
    "unlisted model": ("generate", "checksums.json: expected", lambda v: (
        v / "diff/seed0/model/checksums.json").unlink()),
    "trial": ("generate", "expected the result of diff/seed0, found that of", lambda v: _swap(
        v / "diff/seed0", v / "transformerpp/seed0")),
    "seed": ("report", "expected the result of diff/seed1, found that of diff/seed0",
        lambda v: shutil.copytree(v / "diff/seed0", v / "diff/seed1")),
    "run": ("report", "expected training.steps 99 of run.json, found 12",
        lambda v: _of_another(v.parent / "run.json")),
}  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("swap", SWAPS)
def test_what_is_whole_but_of_another_is_not_used(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], swap: str
) -> None:
    place = Path(shutil.copytree(original, tmp_path / "copy"))
    command, message, change = SWAPS[swap]
    change(place / "runs/tiny/variants")
    status, said = outcome(command, place, capsys)
    assert status == 2 and message in said


def test_an_older_run_without_seals_is_read_by_its_shape(
    original: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = outcome("report", original, capsys)
    place = Path(shutil.copytree(original, tmp_path / "copy"))
    for path in (place / "runs").rglob("*.json"):
        value = json.loads(path.read_text())
        value.pop("sha256", None), value.pop("files", None), value.pop("model", None)
        path.write_text(json.dumps(value))
    assert outcome("report", place, capsys) == expected
    path = place / "runs" / "tiny" / TRIAL / "result.json"
    value = json.loads(path.read_text())
    for key, wrong in (("parameters", "many"), ("peak_lr", [1]), ("tokens_per_second", 10**400)):
        path.write_text(json.dumps(value | {key: wrong}))
        status, said = outcome("report", place, capsys)
        assert status == 2 and f"result.json: {key}: expected" in said
    value["budgets"][2]["loss"] += 0.01
    path.write_text(json.dumps(value))
    assert "expected the loss" in outcome("report", place, capsys)[1]


def test_what_a_kill_left_goes_with_the_next_call(
    original: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path(shutil.copytree(original, tmp_path / "copy"))
    trial = place / "runs" / "tiny" / TRIAL
    left = [trial / ".model.4711.tmp", trial / ".result.json.12-ab.tmp", trial / "checkpoints"]
    left += [place / "runs" / "tiny" / ".run.json.99.tmp"]
    for path in left[::2]:
        path.mkdir()
        (path / "half").touch()
    for path in left[1::2]:
        path.touch()
    living = trial / ".maps.npz.13.tmp"
    living.touch()
    with living.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert outcome("compare", place, capsys)[0] == 0
        assert not any(path.exists() for path in left) and living.exists()


def test_exported_files_have_the_modes_of_new_files(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    (tmp_path / "folder").mkdir()
    for path in finished.rglob("*"):
        like = tmp_path / ("folder" if path.is_dir() else "new")
        assert path.stat().st_mode == like.stat().st_mode, path
