"""The folder of a run: what is in it, and whether what is to be added belongs there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.files import sweep
from softmap.lab import files
from softmap.lab.cluster import FOLDER as CLUSTER
from softmap.lab.request import WAY_OUT
from softmap.lab.roster import FILE as ROSTER
from softmap.lab.trial import Trial
from softmap.lab.workbench import Workbench
from softmap.report.load import read_run
from softmap.report.peaks import PEAKS
from softmap.report.speed import FILE as SPEED

TRIALS = (
    "variants", "charts", "run.json", "report.html", "report.json", "report.csv", SPEED, ROSTER,
    CLUSTER,
)  # fmt: skip
TUNING = "tuning"  #: folder that keeps the points of a tuning
OURS = (*TRIALS, TUNING, PEAKS)


def earlier(folder: Path) -> dict[str, Any] | None:
    """Returns the contents of ``run.json``, if there is one."""
    path = folder / "run.json"
    return read_run(path) if os.path.lexists(path) else None


def check_folder(folder: Path) -> None:
    """Raise ``SoftmapError`` for a folder with files of other origin, which is not written to."""
    for name in OURS:
        sweep(folder, f".{name}.[0-9]*.tmp")
    strange = [path.name for path in folder.iterdir() if path.name not in (*OURS, ".lock")]
    if strange and not (folder / "run.json").exists():
        raise SoftmapError(
            f"{folder}: expected a run or an empty folder, found {strange[0]!r}; "
            "use another --name or --out"
        )


def clear(folder: Path) -> None:
    """Delete the trials and pages of an earlier run; its tuned peaks stay."""
    for name in TRIALS:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_same(folder: Path, trials: list[Trial], shared: Workbench, way_out: str) -> None:
    """Raise ``SoftmapError`` unless the folder's trials have the settings of those to be added.

    Args:
        way_out: what the user can do where they differ.
    """
    before = earlier(folder)
    if before is not None:
        old, now = before.get("data") or {}, shared.corpus.meta
        texts = f"the text was {old.get('source')}, is {now['source']}: "
        changed = old.get("hash") not in (None, now["hash"])
        why = texts if changed else ""
        refuse_other(folder, before.get("settings") or {}, shared.settings, why, way_out)
    for trial in trials:
        trial.result()  # a damaged one is reported before anything is trained
        begun = files.read_json(trial.folder / "trial.json")
        refuse_other(trial.folder, begun, trial.identity(shared), "", way_out)


def refuse_other(
    folder: Path,
    before: dict[str, Any] | None,
    after: dict[str, Any],
    why: str = "",
    way_out: str = WAY_OUT,
) -> None:
    """Raise ``SoftmapError`` where the folder's contents, if any, were made with other settings."""
    if before is None:
        return
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if keys:
        changes = [f"{key} was {before.get(key)}, is {after.get(key)}" for key in keys[:3]]
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise SoftmapError(
            f"{folder} holds another run: {why}{'; '.join(changes)}{more}; {way_out}"
        )
