"""False verdicts and widths for several weights of the pool, simulated: the table behind PRIOR.

    python benchmarks/pooling.py --draws 2000

Every family is k variants and a control of equal means, with the standard deviations of its line;
so each "lower" or "higher" is false. docs/statistics.md quotes the output.
"""

from __future__ import annotations

import argparse

import numpy as np

from softmap.report import spread
from softmap.report.answers import HIGHER, LOWER, Comparison

PRIORS = (1e9, 4.0, 2.0, 1.0)
FAMILIES = {
    "equal, 7 x 2 runs": ([2] * 7, [0.02] * 7),
    "equal, 4 x 3 runs": ([3] * 4, [0.02] * 4),
    "equal, 4 x 5 runs": ([5] * 4, [0.02] * 4),
    "equal, control 5, others 2": ([5, 2, 2, 2, 2], [0.02] * 5),
    "as measured (0.029, 0.036, 0.015, 0.015), 2 runs": ([2] * 4, [0.029, 0.036, 0.015, 0.015]),
    "as measured (0.029, 0.036, 0.015, 0.015), 5 runs": ([5] * 4, [0.029, 0.036, 0.015, 0.015]),
    "control twice as wide, 4 x 5 runs": ([5] * 4, [0.04, 0.02, 0.02, 0.02]),
    "one variant twice as wide, 5 x 3 runs": ([3] * 5, [0.02, 0.04, 0.02, 0.02, 0.02]),
    "one variant three times as wide, 7 x 2 runs": ([2] * 7, [0.02, 0.06] + [0.02] * 5),
    "one variant ten times as wide, 5 x 3 runs": ([3] * 5, [0.02, 0.2, 0.02, 0.02, 0.02]),
}


def family(sizes: list[int], sds: list[float], draws: int) -> tuple[float, float]:
    """Share of families with a false verdict, and the median half-width of the first variant."""
    random, false, widths = np.random.default_rng(0), 0, []
    for _ in range(draws):
        pairs = enumerate(zip(sizes, sds, strict=True))
        runs = {str(i): random.normal(0, sd, n) for i, (n, sd) in pairs}
        answers = Comparison(runs, "0").answers()
        false += any(a.answer in (LOWER, HIGHER) for a in answers.values())
        widths += [(a.high or 0) - a.mean for a in answers.values()]
    return false / draws, float(np.median(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2000)
    args = parser.parse_args()
    print("| family |" + "".join(f" {prior:g} |" for prior in PRIORS))
    for name, (sizes, sds) in FAMILIES.items():
        cells = []
        for spread.PRIOR in PRIORS:
            rate, width = family(sizes, sds, args.draws)
            cells.append(f" {100 * rate:.1f} %, {width:.3f} |")
        print(f"| {name} |{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
