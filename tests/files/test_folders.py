"""A folder is replaced whole or not at all, wherever the process is killed or an error strikes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from softmap.files import sweep, whole_folder

# A process of its own: an audit hook, which sees every call that changes a folder, never goes away.
EACH_STEP = """
import os, signal, sys
from pathlib import Path
from softmap.files import sweep, whole_folder

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "open"}

def replace(target, at, strike):
    count = 0
    def hook(event, _):
        nonlocal count
        if event in STEPS:
            count += 1
            if count == at:
                strike()
    sys.addaudithook(hook)
    with whole_folder(target, replace=True) as folder:
        (folder / "model").mkdir()
        (folder / "new").write_text("new")

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def fails():
    raise OSError("struck")

def content(folder):
    return sorted(path.name for path in folder.rglob("*"))

place, strike = Path(sys.argv[1]), globals()[sys.argv[2]]
target = place / "model"
seen = set()
for at in range(1, 500):
    if not target.exists():
        target.mkdir()
    for path in target.rglob("*"):
        path.rmdir() if path.is_dir() else path.unlink()
    (target / "old").write_text("old")
    (target / "older").write_text("old")
    child = os.fork()
    if child == 0:
        try:
            replace(target, at, strike)
        except Exception:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if strike is fails:
        assert content(target) in (["old", "older"], ["model", "new"]), (at, content(target))
    sweep(place)
    assert os.listdir(place) == ["model"], (at, os.listdir(place))
    seen.add(tuple(content(target)))
    assert content(target) in (["old", "older"], ["model", "new"]), (at, content(target))
    if status == 0 and strike is killed:
        break
    if at > 60 and strike is fails:
        break
else:
    raise AssertionError("never done")
assert seen == {("old", "older"), ("model", "new")} and at > 10
print(at)
"""


@pytest.mark.parametrize("strike", ["killed", "fails"])
def test_at_every_step_there_is_the_old_or_the_new(tmp_path: Path, strike: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH_STEP, str(tmp_path), strike], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_old_folder_gets_its_name_back_unless_it_is_taken(tmp_path: Path) -> None:
    for name in (".a.b.12-ab.old.tmp", ".c.12-ab.old.tmp", "..1.old.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    (tmp_path / "c").mkdir()
    sweep(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "a.b", "a.b/old", "c",
    ]  # fmt: skip


def test_the_next_write_finds_it_too(tmp_path: Path) -> None:
    (tmp_path / ".a.12-ab.old.tmp").mkdir()
    (tmp_path / ".a.12-ab.old.tmp" / "old").touch()
    with pytest.raises(KeyError), whole_folder(tmp_path / "a", replace=True):
        raise KeyError
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "old"]
