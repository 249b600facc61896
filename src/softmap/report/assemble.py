"""From a run folder to its page, its data files and its pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import vl_convert

from softmap.errors import SoftmapError
from softmap.files import write
from softmap.report import compare, question_charts, questions, theme
from softmap.report.answers import Question
from softmap.report.charts import charts
from softmap.report.load import Run, load
from softmap.report.marks import marks
from softmap.report.page import VEGA_LITE, render
from softmap.report.style import Chart, Style
from softmap.report.table import as_csv
from softmap.report.together import load_together
from softmap.report.verdict import verdict

FORMAT = 2
COPIED = (
    "name",
    "created",
    "softmap_version",
    "commit",
    "command",
    "recipe",
    "versions",
    "device",
    "data",
    "model",
    "training",
    "control",
    "seeds",
    "seeds_by_variant",
    "runs",
    "differences",
    "resolve",
    "time",
    "peaks",
)
WRITTEN = ("report.html", "report.json", "report.csv", "charts")


def summary(run_dir: str | Path, question: Question | None = None) -> dict[str, Any]:
    """Returns what ``report.json`` holds, computed from the run's files; nothing is written.

    Keys: those of ``run.json`` that say how to repeat it; ``control_finished``; ``missing`` and
    ``diverged``, lists of variant and seed; ``lost``, variants whose runs all diverged;
    ``every_run``, its final loss and where its log lies, seen from the folder;
    ``statistics``, how the answers were reached; ``verdict`` with ``headline``, ``points``,
    ``incomplete`` and ``caveats``; and ``variants``: one dict per finished variant, the control
    first. There, in nats per token: ``loss``, its ``run_stderr`` between runs and ``text_stderr``
    over the held-out text; ``difference``, ``equal_time`` and ``equal_compute`` (an
    [`Answer`][softmap.report.answers.Answer]; None for the control or without one), ``more_runs``,
    ``trend``, ``equal_loss`` (ratios of tokens, FLOPs and time), ``compute_factor``, costs and
    their ratios to the control, ``budgets``, ``by_position`` and ``maps`` (statistics of the
    attention maps); and ``questions``: by suite what else was asked (``report.questions``).

    Args:
        question: level, margin, and the difference that plans are made for; see docs/statistics.md.

    Raises:
        SoftmapError: the folder is no run, nothing has finished, or a file of it is damaged.
    """
    return _summary(load(Path(run_dir)), Path(run_dir), question)


def build(run_dir: str | Path, question: Question | None = None) -> Path:
    """Write ``report.html``, ``report.json``, ``report.csv`` and ``charts/`` into the run folder.

    Every file is replaced in one step, the page last. Returns the path of the page.

    Raises:
        SoftmapError: as [`summary`][], or the folder cannot be written.
    """
    return _write(load(Path(run_dir)), Path(run_dir), question)


def build_together(run_dirs: Sequence[Path], out: Path, question: Question | None = None) -> Path:
    """Write the same files for several runs on one page into ``out``; see
    ``softmap.report.together``.

    Raises:
        SoftmapError: as [`build`][], for runs that cannot be compared, and for ``out`` where
            something else lies.
    """
    run = load_together(run_dirs)
    strange = (
        [path.name for path in out.iterdir() if path.name not in WRITTEN] if out.is_dir() else []
    )
    if strange:
        raise SoftmapError(
            f"{out}: expected an empty folder or one with a page, found {strange[0]!r}"
        )
    return _write(run, out, question)


def _write(run: Run, directory: Path, question: Question | None) -> Path:
    report = _summary(run, directory, question)
    drawn = charts(run, report["variants"])
    asked = question_charts.charts(Style(run.labels, marks(run.plain_labels)), report["questions"])
    data = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    table = as_csv(report["variants"])
    page = render(run, report, drawn, asked, table)
    write(directory / "report.json", data)
    write(directory / "report.csv", table)
    colours = [theme.HUES["light"][mark.hue] for mark in marks(run.plain_labels)]
    for chart in [*drawn, *chain.from_iterable(asked.values())]:
        _pictures(chart, colours, directory / "charts")
    write(directory / "report.html", page)
    return directory / "report.html"


def _summary(run: Run, directory: Path, question: Question | None) -> dict[str, Any]:
    rows, statistics = compare.evidence(run, question)
    return {
        "format": FORMAT,
        **{key: run.info.get(key) for key in COPIED},
        "control_finished": run.control in run.trials,
        "missing": [{"variant": label, "seed": seed} for label, seed in run.missing],
        "diverged": [
            {"variant": label, "seed": seed, **found}
            for label, seeds in run.diverged.items()
            for seed, found in sorted(seeds.items())
        ],
        "lost": {v: len(s) for v, s in run.diverged.items() if v not in run.trials},
        "every_run": _every_run(run, directory),
        "statistics": statistics,
        "verdict": verdict(run, rows, statistics),
        "variants": rows,
        "questions": questions.of_run(run),
    }


def _every_run(run: Run, directory: Path) -> list[dict[str, Any]]:
    """Returns each run that ended: its final loss or where it diverged, and the path of its log
    relative to the page.
    """
    found: list[dict[str, Any]] = []
    for label in run.labels:
        ended = {**run.trials.get(label, {}), **run.diverged.get(label, {})}
        for seed in sorted(ended):
            trial, log = run.trials.get(label, {}).get(seed), run.logs.get((label, seed))
            found.append(
                {
                    "variant": label,
                    "seed": seed,
                    "loss": trial.budgets[-1].loss if trial else None,
                    "diverged": run.diverged.get(label, {}).get(seed),
                    "log": os.path.relpath(log, directory) if log else None,
                }
            )
    return found


def _pictures(chart: Chart, colours: Sequence[str], folder: Path) -> None:
    """Write the chart with its title, in light colours on white, as SVG and as PNG (2 pixels a
    point).
    """
    title = {"text": chart.title, "subtitle": _lines(chart.caption)}
    spec = chart.spec | {"width": 640, "title": title, "padding": 16}
    config = theme.config(colours, theme.INKS["light"], theme.PRINT_FONTS)
    config |= {"background": "#ffffff"}
    options: dict[str, Any] = {"vl_version": VEGA_LITE, "config": config}
    svg = vl_convert.vegalite_to_svg(spec, **options)
    write(folder / f"{chart.key}.svg", svg)
    write(folder / f"{chart.key}.png", vl_convert.svg_to_png(svg, scale=2))


def _lines(text: str, width: int = 105) -> list[str]:
    """Returns a caption broken into lines, since Vega does not wrap titles."""
    return [line.strip() for line in re.findall(rf".{{1,{width}}}(?:\s+|$)", text)]
