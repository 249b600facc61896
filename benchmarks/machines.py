"""Do two machines agree, or two disjoint sets of seeds? Each one's verdicts by its own runs.

    python benchmarks/machines.py runs/evening copied/evening --out results/machines.json
    python benchmarks/machines.py results/machines.json
    python benchmarks/machines.py results/machines.json --halves

A folder counts as far as its trainings have come. Variants with fewer than ``--least`` runs on
either machine are left out. ``same seed`` is the mean absolute difference of the final losses of
runs of one seed on both machines; ``other seed`` that of runs of unlike seeds. ``--halves``
compares every other seed of the first machine with the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softmap.report.answers import HIGHER, LOWER, UNRESOLVED, Answer, Comparison

Losses = dict[str, dict[str, list[float]]]  # by variant and seed, one at each budget


def machine(folder: Path) -> dict[str, Any]:
    """Where a folder's runs were trained, and how they ended."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    losses: Losses = {}
    for path in sorted(folder.glob("variants/*/seed*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found = [round(budget["loss"], 5) for budget in result["budgets"]]
        losses.setdefault(result["variant"], {})[str(result["seed"])] = found
    kept = ("name", "control", "command", "created", "commit", "versions", "device", "recipe")
    return {name: run[name] for name in kept} | {"losses": losses}


def halves(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of one machine as two sets that have no seed in common."""
    losses = found["losses"]
    return [
        found | {"losses": {v: dict(list(runs.items())[n::2]) for v, runs in losses.items()}}
        for n in (0, 1)
    ]


def verdicts(found: Mapping[str, Any], labels: list[str]) -> dict[str, Answer]:
    """Each variant against the control, by this machine's runs alone."""
    runs = {label: np.array([y[-1] for y in found["losses"][label].values()]) for label in labels}
    return Comparison(runs, found["control"]).answers()


def agreement(one: Answer, other: Answer) -> str:
    """What the verdicts of two machines say together."""
    words = {one.answer, other.answer}
    if words == {LOWER, HIGHER}:
        return "contradict"
    if len(words) == 1:
        return "agree"
    return "one is not resolved" if UNRESOLVED in words else "differ"


def apart(one: Mapping[str, list[float]], other: Mapping[str, list[float]]) -> tuple[float, float]:
    """Mean absolute difference of final losses between machines: of one seed, of unlike seeds."""
    pairs = [(a == b, abs(one[a][-1] - other[b][-1])) for a in one for b in other]
    same, unlike = ([d for alike, d in pairs if alike is kind] for kind in (True, False))
    return (float(np.mean(same)) if same else np.nan, float(np.mean(unlike)) if unlike else np.nan)


def table(machines: list[dict[str, Any]], least: int) -> Iterator[str]:
    """The verdicts side by side."""
    one, other = (m["losses"] for m in machines)
    control = machines[0]["control"]
    labels = [v for v in one if v in other and min(len(one[v]), len(other[v])) >= least]
    labels = [control, *(v for v in labels if v != control)]
    yield "| variant | first | second | together | same seed | other seed |"
    yield "| --- | --- | --- | --- | --- | --- |"
    first, second = (verdicts(m, labels) for m in machines)
    for label in labels:
        seeds = " | ".join(f"{x:.3f}" for x in apart(one[label], other[label]))
        if label == control:
            cells = [f"{len(x[label])} runs" for x in (one, other)] + [""]
        else:
            answers = (first[label], second[label])
            cells = [f"{a.answer} {a.mean:+.3f} ({a.low:+.3f} to {a.high:+.3f}), {a.runs} runs"
                     for a in answers] + [agreement(*answers)]  # fmt: skip
        yield f"| {label} | {' | '.join(cells)} | {seeds} |"


def main() -> None:
    """Read two folders, or a file of an earlier call, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", type=Path, nargs="+", help="two folders of runs, or one file")
    parser.add_argument("--least", type=int, default=2)
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    if len(flags.paths) == 1 and flags.paths[0].is_file():
        found = json.loads(flags.paths[0].read_text(encoding="utf-8"))["machines"]
    elif len(flags.paths) == 2:
        found = [machine(path) for path in flags.paths]
    else:
        parser.error("expected two folders of runs, or one file of an earlier call")
    print("\n".join(table(halves(found[0]) if flags.halves else found, flags.least)))
    if flags.out is not None:
        whole = {"what": __doc__, "machines": found}
        flags.out.write_text(json.dumps(whole, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
