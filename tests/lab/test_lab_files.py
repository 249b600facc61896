"""Files are whole or absent, whatever happens; one process writes a run."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softmap.errors import SoftmapError
from softmap.lab import files


def full_disk(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SoftmapError, match=r"a\.json: could not be written: No space left"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_takes_its_place_only_when_whole(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "one").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "model"
    files.write_folder(target, lambda folder: (folder / "old").touch())
    with pytest.raises(SoftmapError, match="model: could not be written: No space left"):
        files.write_folder(target, half)
    assert os.listdir(tmp_path) == ["model"] and os.listdir(target) == ["old"]
    files.write_folder(target, lambda folder: (folder / "new").touch())
    assert os.listdir(target) == ["new"]


def test_json_that_is_missing_broken_or_not_finite(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "none.json") is None
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(SoftmapError, match=r"torn\.json: broken file: expected JSON"):
        files.read_json(tmp_path / "torn.json")
    files.write_json(tmp_path / "nan.json", {"a": [float("nan"), 1.0]})
    assert files.read_json(tmp_path / "nan.json") == {"a": [None, 1.0]}


HOLD = """
import sys, time
from pathlib import Path
from softmap.lab import files
with files.lock(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "held").touch()
    time.sleep(60)
"""


def test_a_run_is_held_until_its_process_ends_even_by_kill(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)])
    try:
        while not (folder / "held").exists():
            assert holder.poll() is None
            time.sleep(0.02)
        with pytest.raises(SoftmapError, match=f"process {holder.pid} is writing"):  # noqa: SIM117
            with files.lock(folder):
                pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with files.lock(folder):
        assert (folder / ".lock").read_text() == str(os.getpid())


def test_the_lock_of_a_strangers_folder_leads_nowhere(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("text")
    for name, make in {
        "link": lambda path: path.symlink_to(precious), "pipe": os.mkfifo, "folder": Path.mkdir,
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        make(tmp_path / name / ".lock")
        with pytest.raises(SoftmapError, match=r"\.lock: expected a plain file, found"):  # noqa: SIM117
            with files.lock(tmp_path / name):
                pass
    assert precious.read_text() == "text"


def test_a_folder_in_which_nothing_was_written_goes_away(tmp_path: Path) -> None:
    with files.lock(tmp_path / "empty"):
        pass
    with files.lock(tmp_path / "used"):
        (tmp_path / "used" / "run.json").touch()
    assert os.listdir(tmp_path) == ["used"]
