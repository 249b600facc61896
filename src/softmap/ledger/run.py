"""``softmap claims run``: trains what is missing, measures, and writes one file per claim."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import softmap
from softmap.claims._bases import Base
from softmap.claims._claim import SCALES, Asked, Claim, Grafted, Learned, Study, Timed
from softmap.claims._find import claim as find
from softmap.claims._find import names
from softmap.claims._rules import NO_VERDICT, of_row
from softmap.errors import SoftmapError, nearest_or_all, shown
from softmap.lab import files, machine
from softmap.lab.recipe import dump
from softmap.lab.trial import fingerprint
from softmap.ledger import asked, grafted, learned, results, scaled, timed, trained
from softmap.ledger.judge import Part, as_json
from softmap.ledger.workspace import Workspace

_KINDS: dict[str, Callable[[Any, Workspace], list[Part]]] = {
    "trained": trained.measure,
    "asked": asked.measure,
    "learned": learned.measure,
    "timed": timed.measure,
    "grafted": grafted.measure,
    "scaled": scaled.measure,
}


def chosen(ids: Sequence[str], scale: str, only: Sequence[str] = ()) -> list[Claim]:
    """Returns the claims of these ids; ``all`` are those tested at the scale, on bases of ``only``.

    Raises ``SoftmapError`` for an unknown id, scale or base, and for what is not tested there.
    """
    if scale not in SCALES:
        raise SoftmapError(f"--scale: no scale {shown(scale)}{nearest_or_all(scale, SCALES)}")
    tested = [c for c in map(find, names()) if not isinstance(c.scales[scale], str)]
    bases = {base.name for claim in tested for base, _ in stages(claim, scale)}
    for name in only:
        if name not in bases:
            raise SoftmapError(f"--base: no base {shown(name)}{nearest_or_all(name, bases)}")
    if list(ids) == ["all"]:
        return [claim for claim in tested if stages(claim, scale, only)]
    if not ids:
        raise SoftmapError("claims run: expected ids or all, found none (softmap claims list)")
    found = [find(name) for name in dict.fromkeys(ids)]
    for claim in found:
        if isinstance(why := claim.scales[scale], str):
            raise SoftmapError(f"{claim.id} is not tested at the scale {scale}: {why}")
        if not stages(claim, scale, only):
            raise SoftmapError(f"{claim.id} is not tested on the base {', '.join(only)}")
    return found


def stages(claim: Claim, scale: str, only: Sequence[str] = ()) -> list[tuple[Base, list[Study]]]:
    """Returns the studies by base, in their order, on all bases or on those of ``only``."""
    studies = claim.scales[scale]
    assert not isinstance(studies, str)
    found: dict[str, tuple[Base, list[Study]]] = {}
    for study in studies:
        if not only or study.base.name in only:
            found.setdefault(study.base.name, (study.base, []))[1].append(study)
    return list(found.values())


def run(
    claim: Claim, scale: str, workspace: Workspace, out: Path, only: Sequence[str] = ()
) -> Path:
    """Test a claim and write its result, which grows with every base that is done; returns its
    path.

    A result of the same studies, recipes and seeds is left as it is.
    """
    path, mine = results.file(out, claim.id, scale), stages(claim, scale, only)
    recipes = [dump(workspace.recipe(base, {})) for base, _ in mine]
    identity = fingerprint({"studies": repr(mine), "recipes": recipes, "seeds": workspace.seeds})
    if path.is_file() and results.read(path)["of"] == identity:
        workspace.tell(f"{claim.id}: already finished")
        return path
    done: list[dict[str, Any]] = []
    for number, (base, studies) in enumerate(mine, 1):
        done.append(_stage(claim, base, studies, workspace))
        whole = number == len(mine)
        found = _result(claim, scale, done, workspace) | {"of": identity if whole else ""}
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, found, seal=False)
        workspace.tell(f"{claim.id}: {found['verdict']}: {found['said']}")
    return path


def _stage(claim: Claim, base: Base, studies: list[Study], workspace: Workspace) -> dict[str, Any]:
    runs, seconds, told, rows = 0, 0.0, [], []
    for study in studies:
        number, spent = _prepared(study, workspace)
        began = time.monotonic()
        found = _KINDS[study.kind](study, workspace)
        runs, seconds = runs + number, seconds + spent + time.monotonic() - began
        rows += [row for part in found for row in part.rows]
        told.append(_study_facts(study, found))
    verdict = claim.rule(rows)
    return {
        "base": base.name, "says": base.says, "verdict": verdict.word, "said": verdict.said,
        "runs": runs, "seconds": round(seconds, 1), "studies": told,
    }  # fmt: skip


def _prepared(study: Study, workspace: Workspace) -> tuple[int, float]:
    """Train what the study's base lacks; returns the number of runs it reads, and their seconds."""
    if isinstance(study, Timed):
        return workspace.seeds, 0.0
    if isinstance(study, Learned):
        return workspace.seeds * len(study.models), 0.0
    if isinstance(study, Asked) and not study.trained:
        return sum(workspace.runs(name in study.references) for name in study.models), 0.0
    read = trained.prepare(study, workspace)
    if isinstance(study, Grafted):
        return workspace.seeds * len(study.variants), 0.0
    return len(read), sum(one.get("whole_seconds") or 0.0 for one in read)


def _study_facts(study: Study, parts: list[Part]) -> dict[str, Any]:
    told = ("suite", "task", "reads", "at", "within", "what")
    asks = {name: getattr(study, name) for name in told if getattr(study, name, "")}
    return {
        "kind": study.kind, **asks, "control": study.control,
        "measure": dataclasses.asdict(study.measure),
        "parts": [
            {
                "what": part.what,
                "values": {
                    name: {str(seed): float(f"{value:.6g}") for seed, value in own.items()}
                    for name, own in part.values.items()
                },
                "rows": [
                    as_json(row) | {"verdict": of_row(row) if row.expects else ""}
                    for row in part.rows
                ],
                "diverged": dict(part.diverged),
                "curve": part.curve,
                "notes": list(part.notes),
            }
            for part in parts
        ],
    }  # fmt: skip


def _result(
    claim: Claim, scale: str, done: list[dict[str, Any]], workspace: Workspace
) -> dict[str, Any]:
    """Returns the result; the last base with a verdict decides for the claim."""
    spoken = [stage for stage in done if stage["verdict"] != NO_VERDICT] or done
    return {
        "format": results.FORMAT,
        "claim": claim.id,
        "scale": scale,
        "verdict": spoken[-1]["verdict"],
        "said": spoken[-1]["said"],
        "stages": done,
        "runs": sum(stage["runs"] for stage in done),
        "seconds": round(sum(stage["seconds"] for stage in done), 1),
        "seeds": workspace.seeds,
        "settings": dict(workspace.settings),
        "command": workspace.command,
        "softmap": softmap.__version__,
        **machine.provenance(torch.device("cpu")),
    }
