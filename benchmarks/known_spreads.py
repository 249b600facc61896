"""Put the losses of many runs beside the tuned peaks of their recipe: what its runs' spread is.

    python benchmarks/known_spreads.py runs/demo-many --into src/softmap/recipes/tuned/demo.json

A comparison with the same model, text, batch, training and peaks then knows how far its few runs
lie from their means (docs/statistics.md). The file must have the peaks that the runs were trained
with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.lab import files
from softmap.lab import recipe as recipes
from softmap.lab.peaks import trained_as, tuned_for
from softmap.report.family import losses
from softmap.report.load import Run, load

LEAST = 8  #: runs; fewer say little about a spread


def spreads(run: Run, folder: Path, tuned: dict[str, Any]) -> dict[str, Any]:
    """The file's entry. Raises ``SoftmapError`` for runs of another setting or with other peaks."""
    recipe = recipes.of_run(folder)
    if tuned_for(recipe) != tuned["tuned_for"]:
        raise SoftmapError(f"{folder}: expected runs of the setting that the peaks are of")
    found = {}
    for label, trials in run.trials.items():
        result = next(iter(trials.values())).result
        spec, peak = result["spec"] or label, result["peak_lr"]
        if peak != tuned["peaks"].get(spec, {}).get("peak_lr"):
            raise SoftmapError(f"{folder}: {spec}: expected the file's peak, found {peak}")
        if len(trials) >= LEAST:
            mine = losses([trials[seed] for seed in sorted(trials)])
            found[spec] = {"peak_lr": peak, "losses": mine.round(5).tolist()}
    facts = {name: run.info.get(name) for name in ("command", "commit", "versions", "device")}
    return {"training": trained_as(recipe), "runs": found, **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    args = parser.parse_args()
    try:
        tuned = files.read_json(args.into)
        if tuned is None:
            raise SoftmapError(f"{args.into}: expected a file of tuned peaks, found none")
        found = spreads(load(args.run), args.run, tuned)
        files.write_json(args.into, {**tuned, "spreads": found})
    except SoftmapError as error:
        sys.exit(f"known_spreads: {error}")
    for name, one in found["runs"].items():
        print(f"{name}: {len(one['losses'])} runs")


if __name__ == "__main__":
    main()
