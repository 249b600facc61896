"""Write the tables of docs/ledger.md from results/claims.

    python benchmarks/ledger_page.py

A test holds the page to the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softmap.claims._find import claim as find
from softmap.ledger.results import latest
from softmap.ledger.table import effect
from softmap.report.words import duration

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "ledger.md", ROOT / "results" / "claims"
BEGIN, END = "<!-- ledger -->\n", "<!-- end -->"


def filled(page: str) -> str:
    """Returns the page with a section for each result between its marks."""
    before, rest = page.split(BEGIN)
    found = latest([RESULTS])
    sections = "\n\n".join(["\n".join(overview(found)), *map(section, sorted(found.items()))])
    return f"{before}{BEGIN}\n{sections}\n\n{END}{rest.split(END, 1)[1]}"


def overview(found: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a table, a claim a row."""
    yield "| claim | scale | verdict | |"
    yield "| --- " * 4 + "|"
    for (name, scale), result in sorted(found.items()):
        link = f"[{name}](#{name}-{result['verdict'].replace(' ', '-')})"
        yield f"| {link} | {scale} | {result['verdict']} | {find(name).sentence} |"


def section(one: tuple[tuple[str, str], dict[str, Any]]) -> str:
    """Returns a result: the claim, its verdict, and a table for each measure."""
    (name, scale), result = one
    claim = find(name)
    cost = f"{result['runs']} runs, {duration(result['seconds'])} of one core"
    head = [
        f"### {name}: {result['verdict']}",
        f"{claim.sentence} ([{claim.paper}]({claim.source}); theirs: {claim.theirs})",
        f"Scale {scale}. {result['said']} {cost}.",
    ]
    return "\n\n".join(head + ["\n".join(lines) for lines in tables(result)])


def tables(result: dict[str, Any]) -> Iterator[list[str]]:
    """Yields the lines of a table for each study."""
    for stage in result["stages"]:
        for study in stage["studies"]:
            rows = [row for part in study["parts"] for row in part["rows"]]
            title = f"{study['measure']['title']}, {stage['base']}".replace("|", "\\|")
            yield [
                f"| {title} | beside | difference | expected | verdict |",
                "| --- " * 5 + "|",
                *(_row(row, study) for row in rows),
            ]


def _row(row: dict[str, Any], study: dict[str, Any]) -> str:
    arm = f"{row['arm']} {row['what']}".strip()
    cells = arm, row["against"], effect(row, study), row["expects"], row["verdict"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
