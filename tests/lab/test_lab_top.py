"""``softmap top``: what the files of a run's folder tell of its trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softmap.cli import main
from softmap.lab.roster import FILE, holding
from softmap.lab.top import look


def run(folder: Path) -> Path:
    """A run of five: one that ended, failed, was stopped, waits, and one that may be held."""
    states = {"ended": (True, None), "failed": (False, "its process died 3 times, last by SIGKILL")}
    names = ("waits", "stopped", "held", "failed", "ended")
    entries = [
        {"label": name, "seed": n, "folder": f"variants/{name}", "steps": 40}
        | dict(zip(("ended", "failed"), states.get(name, (False, None)), strict=True))
        for n, name in enumerate(names)
    ]
    for name in names[1:]:
        (folder / "variants" / name).mkdir(parents=True)
        log = {"step": 20, "loss": 2.5, "tokens_per_second": 12345.6}
        (folder / "variants" / name / "train.jsonl").write_text(json.dumps(log) + "\n")
    (folder / FILE).write_text(json.dumps({"trials": entries}))
    return folder


def test_states_follow_from_the_list_and_from_who_holds_a_folder(tmp_path: Path) -> None:
    folder = run(tmp_path)
    with holding(folder / "variants" / "held"):
        found = {row.label: row for row in look(folder)}
        assert [row.label for row in found.values()] == [
            "held", "waits", "stopped", "failed", "ended",
        ]  # fmt: skip
        assert found["held"].state == "training" and ":" in str(found["held"].worker)
    again = {row.label: row.state for row in look(folder)}
    assert again == {
        "waits": "waiting", "stopped": "stopped", "held": "stopped", "failed": "failed",
        "ended": "done",
    }  # fmt: skip


def test_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path)
    with holding(folder / "variants" / "held"):
        assert main(["top", str(folder), "--once"]) == 0
    header, held, *_, failed, ended, counts = capsys.readouterr().out.splitlines()
    assert header.split()[:6] == ["training", "seed", "state", "step", "loss", "tokens/s"]
    assert held.split()[:6] == ["held", "2", "training", "20/40", "2.500", "12,346"]
    assert failed.rstrip().endswith("its process died 3 times, last by SIGKILL")
    assert ended.split() == ["ended", "4", "done", "20/40", "2.500"]
    assert counts.strip() == "1 training, 1 waiting, 1 stopped, 1 failed, 1 done"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "expected trainings in it (trials.json), found none"),
        ("{", "trials.json"),
        ('{"trials": [{"label": 3}]}', "trials[0]"),
    ],
)
def test_other_folders_are_refused(
    tmp_path: Path, written: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if written is not None:
        (tmp_path / FILE).write_text(written)
    assert main(["top", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("softmap: error: ") and said in line
    assert main(["top", str(tmp_path / "none")]) == 2
    assert "expected a run" in capsys.readouterr().err
