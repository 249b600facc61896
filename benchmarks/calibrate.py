"""Does the page keep its promises? False verdicts, coverage and power, on runs of one variant.

    python benchmarks/calibrate.py runs/demo-40 --out results/calibration.json
    python benchmarks/calibrate.py results/calibration.json
    python benchmarks/calibrate.py --simulate 0.029 0.036 0.015 --runs 40

Losses come from the folders of runs, from a file of an earlier call, or from a file of final
held-out losses by variant, ``{"transformer++": [3.69, ...], ...}``; or normal losses with given
standard deviations are drawn. Each variant in turn is split against
itself (A/A): n of its runs play the control, n others a variant, for n = 2, 3 and 5. There is no
difference, so every "lower" or "higher" is false. With ``+others`` n runs of every further variant
join the family, moved to the same mean, so that only their spreads differ; ``known`` is the same
family with all other runs as earlier ones, whose spread counts. A shift added to the variant's runs
is to be found as often as planned.

Splits of one set of runs overlap: the interval of a rate is a jackknife's over the runs
(``disjoint`` says how many splits share no run).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from softmap.errors import SoftmapError, reason
from softmap.report import planning
from softmap.report.answers import HIGHER, LOWER, Comparison

SIZES = (2, 3, 5)
REPORT = "report.json"
Losses = dict[str, np.ndarray]


def calibrate(losses: Losses, draws: int, shift: float, seed: int = 0) -> list[dict[str, Any]]:
    """One row per variant, size and family, as far as the runs reach."""
    rows = []
    for label, runs in losses.items():
        others = {v: y - y.mean() + runs.mean() for v, y in losses.items() if v != label}
        for n in (n for n in SIZES if 2 * n <= len(runs)):
            rows.append(_row(label, runs, {}, n, draws, shift, seed))
            if others and all(len(y) >= n for y in others.values()):
                rows.append(_row(label, runs, others, n, draws, shift, seed))
                if len(runs) > 2 * n and all(len(y) > n for y in others.values()):
                    rows.append(_row(label, runs, others, n, draws, shift, seed, known=True))
    return rows


def _row(
    label: str,
    runs: np.ndarray,
    others: Losses,
    n: int,
    draws: int,
    shift: float,
    seed: int,
    known: bool = False,
) -> dict[str, Any]:
    splits = list(_splits(len(runs), n, draws, seed))
    drawn = np.random.default_rng(seed)
    families = [{v: drawn.permutation(y) for v, y in others.items()} for _ in splits]
    pairs = list(zip(splits, families, strict=True))
    false = np.array([_verdict(runs, split, family, 0.0, known) for split, family in pairs])
    found = np.array([_verdict(runs, split, family, shift, known)[0] for split, family in pairs])
    design = planning.fresh(n, 1 + len(others))
    return {
        "variant": label,
        "family": "known" if known else "+others" if others else "alone",
        "runs_a_side": n,
        "splits": len(splits),
        "disjoint": len(runs) // (2 * n),
        "false_verdicts": _rate(false[:, 2], splits, len(runs)),
        "false_verdicts_of_the_split": _rate(np.abs(false[:, 0]), splits, len(runs)),
        "coverage_of_the_family": _rate(1 - false[:, 2], splits, len(runs)),
        "median_half_width": float(np.median(false[:, 1])),
        "shift": shift,
        "found": _rate(found == 1, splits, len(runs)),
        "predicted": planning.power(design, float(np.std(runs, ddof=1)), shift),
    }


def _verdict(
    runs: np.ndarray, split: np.ndarray, others: Losses, shift: float, known: bool
) -> tuple[float, float, float]:
    """Sign of the split's answer, its half-width, and whether any answer of the family is one.

    Of the others' runs, in random order, the first ones are the family's. known: all runs that are
    in no place of the family are earlier ones.
    """
    half = len(split) // 2
    family = {"control": runs[split[:half]], "split": runs[split[half:]] + shift}
    family |= {v: y[:half] for v, y in others.items()}
    rest = np.delete(runs, split)
    earlier = {"control": rest, "split": rest} | {v: y[half:] for v, y in others.items()}
    answers = Comparison(family, "control", earlier=earlier if known else None).answers()
    mine = answers["split"]
    wrong = any(a.answer in (LOWER, HIGHER) for a in answers.values())
    return float(mine.sign), (mine.high or math.nan) - mine.mean, float(wrong)


def _splits(runs: int, n: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Places of 2 n runs, the first half against the second; random, none twice."""
    random, seen = np.random.default_rng(seed), set()
    most = math.comb(runs, n) * math.comb(runs - n, n)
    for _ in range(20 * draws):
        split = random.permutation(runs)[: 2 * n]
        key = (frozenset(split[:n]), frozenset(split[n:]))
        if key not in seen:
            seen.add(key)
            yield split
        if len(seen) >= min(draws, most):
            return


def _rate(hits: np.ndarray, splits: list[np.ndarray], runs: int) -> dict[str, float]:
    """A rate with its 95 % interval by a jackknife over the runs."""
    rate = float(np.mean(hits))
    member = np.array([np.isin(np.arange(runs), split) for split in splits])
    left = [float(np.mean(hits[~member[:, run]])) for run in range(runs) if (~member[:, run]).any()]
    error = math.sqrt((runs - 1) / runs * sum((x - np.mean(left)) ** 2 for x in left))
    return {"rate": rate, "low": max(0.0, rate - 2 * error), "high": min(1.0, rate + 2 * error)}


def read(path: Path) -> Losses:
    """The losses of a run's folder or of a file, checked."""
    try:
        found = json.loads((path / REPORT if path.is_dir() else path).read_text(encoding="utf-8"))
        if path.is_dir():
            found = {v["variant"]: v["budgets"][-1]["loss_by_seed"] for v in found["variants"]}
        found = found.get("losses", found)
        losses = {str(v): np.array(y, dtype=np.float64) for v, y in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise SoftmapError(f"{path}: expected losses by variant, found {reason(error)}") from None
    for label, runs in losses.items():
        if runs.ndim != 1 or len(runs) < 2 * min(SIZES) or not np.isfinite(runs).all():
            raise SoftmapError(
                f"{path}: {label}: expected at least {2 * min(SIZES)} finite losses, found "
                f"{runs.size} values"
            )
    if not losses:
        raise SoftmapError(f"{path}: expected at least one variant, found none")
    return losses


def made(path: Path) -> Any:
    """How the runs of a folder were made, or what an earlier call said of it."""
    if not path.is_dir():
        return json.loads(path.read_text(encoding="utf-8")).get("runs")
    report = json.loads((path / REPORT).read_text(encoding="utf-8"))
    return {name: report[name] for name in ("command", "commit", "versions", "device", "recipe")}


def simulate(sds: list[float], runs: int) -> Losses:
    """Normal losses, one variant for each standard deviation."""
    random = np.random.default_rng(1)
    return {f"sd {sd:g} ({i})": random.normal(3.5, sd, runs) for i, sd in enumerate(sds)}


def _line(row: dict[str, Any]) -> str:
    def shown(key: str) -> str:
        found = row[key]
        return f"{100 * found['rate']:5.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"

    return (
        f"{row['variant'][:18]:18} {row['family']:8} {row['runs_a_side']} a side  "
        f"false {shown('false_verdicts')}  +-{row['median_half_width']:.3f}  "
        f"{row['shift']:g} found {shown('found')}, planned {100 * row['predicted']:.0f}%"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("losses", type=Path, nargs="*")
    parser.add_argument("--simulate", type=float, nargs="+", metavar="SD")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--shift", type=float, default=0.05)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if bool(args.losses) == bool(args.simulate):
        parser.error("expected folders of runs or files of losses, or --simulate")
    return _guarded(lambda: _main(args))


def _main(args: argparse.Namespace) -> None:
    losses = simulate(args.simulate, args.runs) if args.simulate else {}
    for path in args.losses:
        losses |= read(path)
    rows = calibrate(losses, args.draws, args.shift)
    print("\n".join(_line(row) for row in rows))
    if args.out:
        facts = {
            "simulated": bool(args.simulate),
            "command": " ".join(["python", *sys.argv]),
            "runs": [made(path) for path in args.losses],
            "losses": {v: list(y) for v, y in losses.items()},
        }
        args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


def _guarded(work: Callable[[], None]) -> int:
    try:
        work()
    except SoftmapError as error:
        print(f"calibrate: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
