"""Which recipe resolves most in a minute? The spread between runs that a second of training buys.

    python benchmarks/spread.py 16x128=runs/a 8x256=runs/b --out results/recipe-spread.json

Every run folder holds several seeds of each variant, trained by one recipe. The variance of a mean
over the runs that fit into a time is ``sd^2 * seconds / time``: ``sd^2 * seconds`` is the price of
a recipe, and the lower the better, as long as the question is the same one. The seconds are those
of training on the machine as it was; the interval of a standard deviation is that of normal losses
(chi-squared), so eight runs tell 0.02 from 0.04, and not from 0.03.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2

FACTS = ("command", "commit", "versions", "device")


def rows(label: str, folder: Path) -> list[dict[str, Any]]:
    """One for each variant of the run that was trained at least twice."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found = []
    for variant in report["variants"]:
        last = variant["budgets"][-1]
        losses = np.array(last["loss_by_seed"])
        if len(losses) < 2:
            continue
        sd, degrees = float(losses.std(ddof=1)), len(losses) - 1
        low, high = (sd * math.sqrt(degrees / chi2.ppf(p, degrees)) for p in (0.975, 0.025))
        seconds = variant["train_seconds"]
        found.append({
            "recipe": label, "variant": variant["variant"], "tokens": last["tokens"],
            "parameters": variant["parameters"], "losses": losses.round(5).tolist(),
            "mean": float(losses.mean()), "sd": sd, "sd_low": low, "sd_high": high,
            "seconds": seconds, "price": sd**2 * seconds,
            **{name: report[name] for name in FACTS},
        })  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="LABEL=FOLDER")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = []
    for given in args.runs:
        label, _, folder = given.rpartition("=")
        try:
            found += rows(label or folder, Path(folder))
        except (OSError, ValueError, LookupError) as error:
            print(f"spread: error: {folder}: expected a run with a page, {error}", file=sys.stderr)
            return 2
    for row in found:
        print(
            f"{row['recipe']:14} {row['variant']:20} {len(row['losses'])} runs  "
            f"{row['mean']:.3f}  sd {row['sd']:.4f} [{row['sd_low']:.4f}, {row['sd_high']:.4f}]  "
            f"{row['seconds']:.0f} s  price {1e6 * row['price']:.0f}"
        )
    if args.out:
        args.out.write_text(json.dumps({"rows": found}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
