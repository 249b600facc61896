"""Run folders to evidence: statistics, charts, and one self-contained page.

    build(run_dir)    writes report.html, report.json, report.csv and charts/ into the run folder
    build_together(run_dirs, out)  the same for several runs on one page, in a folder of its own
    summary(run_dir)  the contents of report.json as a dict, nothing written

Reads files only (``run.json``, ``result.json``, ``train.jsonl``, ``eval-*.npz``, ``maps.npz``);
no model is loaded and no torch is imported. Works on a run that is still going: whatever variant
and seed has finished is compared, and what is missing is named.
"""

from __future__ import annotations

from softmap.extras import need

__needs__ = need(__name__, "altair", "scipy", "vl_convert")

from softmap.report.assemble import build, build_together, summary

__all__ = ["build", "build_together", "summary"]
