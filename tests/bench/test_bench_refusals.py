"""Every option of ``softmap bench``: what is wrong is one line before anything is measured."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softmap.bench.case import Case, least_bytes
from softmap.bench.commands import KINDS
from softmap.cli import main
from softmap.fields import hints
from softmap.files import check_writable

RESULTS = Path(__file__).parents[2] / "results"
LONG = "a" * 300
NUMBERS = ["-1", "0", str(2**31), str(2**63), "9" * 30]
TEXTS = ["", "nonsense", "diff\0", ":", "\ud800"]
START = {
    "op": ["diff"], "step": [], "decode": ["diff"], "plot": ["none.json"], "pages": ["none.md"],
}  # fmt: skip


def options() -> Iterator[tuple[str, str, str]]:
    """(command, option, a value that is none), from the declared types of all options."""
    for command, kind in KINDS.items():
        for field in dataclasses.fields(kind):
            declared = str(hints(kind)[field.name])
            if "Path" in declared:
                values = ["", "a\0b", LONG]
            elif "float" in declared:
                values = ["nan", "inf", "-inf", "-1"]
            elif "int" in declared:
                values = NUMBERS
            elif "bool" in declared:
                values = []
            else:
                values = TEXTS
            yield from ((command, field.name, value) for value in values)


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("measured")

    for run in ("op.OpBenchmark", "step.StepBenchmark", "decode.DecodeBenchmark"):
        monkeypatch.setattr(f"softmap.bench.{run}.measure", measured)
    monkeypatch.chdir(tmp_path)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["bench", *argv]) == 2, argv
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("softmap: error:")]
    assert len(said) == 1 and lines[-1] == said[0], lines
    assert os.listdir() == []
    return said[0]


@pytest.mark.parametrize(("command", "option", "value"), list(options()), ids=repr)
def test_each_option(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = "--" + option.replace("_", "-")
    argv = [command, *START[command], f"{flag}={value}"]
    if option in ("variants", "files"):
        argv = [command, value]
    refused(argv, capsys)


#: Within every range, beyond any memory.
LARGE = {
    "op": ["--batch=2147483647", "--tokens=1073741824", "--heads=16384", "--head-dim=1048576",
           "--batch=2147483647 --heads=16384 --tokens=1073741824 --head-dim=1048576"],
    "step": ["--set=model.context=16777216", "--set=model.hidden_size=1048576",
             "--set=training.batch_size=1048576", "--set=data.tokenizer=bpe:1048576 "
             "training.batch_size=100000"],
    "decode": ["--hidden-size=1048576", "--batch=2147483647", "--prompt=1073741824",
               "--new=1073741824", "--lengths=1073741824", "--vocab=2147483647"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        pytest.param(c, flags, marks=[pytest.mark.slow] if flags != given[0] else [])
        for c, given in LARGE.items()
        for flags in given
    ],
)
def test_what_no_memory_holds(
    command: str, flags: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softmap.lab.preflight.memory", lambda device: 2 * 10**9)
    assert "needs at least" in refused([command, *START[command], *flags.split()], capsys)


def test_least_bytes_are_those_of_the_tensors() -> None:
    case = Case("talking-heads", batch=2, heads=4, tokens=6, head_dim=8, direction="forward")
    numbers = 2 * 6 * 32  # of one tensor of tokens; two matrices of 4 x 4
    assert least_bytes(case) == 4 * (numbers + 3 * numbers + 2 * 16 + 2 * 16)
    both = case.resized(direction="both", dtype="bfloat16")
    assert least_bytes(both) == 2 * (numbers + 2 * (3 * numbers + 4 * 16))


OUTS = {
    "a folder": "folder", "below a file": "file/a.json", "too long": LONG, "a device": "device",
    "below a missing folder, too long": f"gone/{LONG}/a.json", "below a loop": "loop/a.json",
    "no room for a temporary name": "a" * 250,
}  # fmt: skip


@pytest.mark.parametrize("out", OUTS.values(), ids=list(OUTS))
def test_where_no_file_can_be(
    out: str, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("place")
    (place / "folder").mkdir()
    (place / "file").write_text("text")
    (place / "loop").symlink_to("loop")
    (place / "device").symlink_to("/dev/null")
    before = sorted(os.listdir(place))
    for argv in (["op", "diff"], ["step"], ["decode", "diff"]):
        assert out[:20] in refused([*argv, "--out", str(place / out)], capsys)
    assert sorted(os.listdir(place)) == before and os.listdir(place / "folder") == []


@pytest.mark.parametrize("argv", [["op", "diff", "--tokens"], ["op"], ["plot"]], ids=str)
def test_nothing_given(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least one" in refused(argv, capsys)


def test_the_place_of_the_result_is_kept_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "er" / "a.json")
    assert os.listdir(tmp_path) == []
    (tmp_path / "a.json").write_text("old")
    check_writable(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_case_leaves_nothing(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "softmap.bench.drive._check_out", lambda *_: os.kill(os.getpid(), number) or time.sleep(9)
    )
    assert main(["bench", "op", "diff", "--out", "new/a.json"]) == 128 + number
    assert os.listdir() == []


def test_memory_that_runs_out_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nto allocate")

    monkeypatch.setattr("softmap.bench.decode.DecodeBenchmark.measure", full)
    assert "out of memory" in refused(["decode", "diff"], capsys)


def test_plots_are_all_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = RESULTS / "op-cpu-scaling.json", RESULTS / "step-cpu.json"
    argv = ["plot", str(good), str(bad), "--out", "images"]
    assert "several --tokens" in refused(argv, capsys)


BROKEN = {
    "no cases": {"cases": None}, "no rows": {"cases": [{}]}, "cases of text": {"cases": ["op"]},
    "rows of nothing": {"cases": [{"variant": "a", "rows": [None]}]}, "a text": {"cases": "text"},
    "another format": {"format": 2}, "another kind": {"kind": ["op"]},
}  # fmt: skip


@pytest.mark.parametrize("change", BROKEN.values(), ids=list(BROKEN))
def test_results_that_are_none_of_ours(
    change: dict[str, object], capsys: pytest.CaptureFixture[str], tmp_path_factory: Any
) -> None:
    place = tmp_path_factory.mktemp("place")
    good = json.loads((RESULTS / "op-cpu-scaling.json").read_text())
    (place / "a.json").write_text(json.dumps(good | change))
    (place / "a.md").write_text("<!-- bench: op a.json -->\n<!-- /bench -->\n")
    for argv in (["plot", str(place / "a.json")], ["pages", str(place / "a.md")]):
        assert "a.json" in refused(argv, capsys)


def test_a_page_that_is_no_text(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = tmp_path_factory.mktemp("place") / "a.md"
    page.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused(["pages", str(page)], capsys)
