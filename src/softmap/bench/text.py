"""Measured rows as lines for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from softmap.bench.failure import size

Row = dict[str, Any]


def columns(rows: list[list[str]], left: int = 1) -> Iterator[str]:
    """Yields lines with aligned columns, the first ``left`` of them left-aligned."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = [c.ljust(w) if n < left else c.rjust(w)
                 for n, (c, w) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        yield "  " + "  ".join(cells).rstrip()


HEAD = ["", "ms", "10-90 %", "x SDPA", "peak", "error", "of gradients"]


def op_lines(case: dict[str, Any], title: str) -> Iterator[str]:
    """Yields a table of the timed candidates, then a line for each other one with the reason."""
    yield f"{case['variant']}  {title}; auto takes {case['auto']}"
    timed = [row for row in case["rows"] if row["status"] == "timed"]
    if timed:
        yield from columns([HEAD, *(_timed(row) for row in timed)])
    for note in _checked(case, timed):
        yield "  " + note
    for row in case["rows"]:
        if row["status"] != "timed":
            yield f"  {row['candidate']}: {untimed_reason(row)}"


def untimed_reason(row: Row) -> str:
    """Returns why a row has no speed."""
    text = f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]
    if row["status"] == "wrong":
        return f"NO SPEED, results are wrong: {row['reason']}"
    if row["status"] == "out of memory" and row.get("instead"):
        text += f"; {row['instead']} took {size(row['instead_bytes'])}"
    return text


def milliseconds(seconds: float) -> str:
    """Returns a time in milliseconds with three digits."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def largest_errors(row: Row) -> tuple[str, str]:
    """Returns the largest relative RMS error of the output and of any gradient."""
    outputs: list[float] = []
    gradients: list[float] = []
    for name, error in row["parity"]["errors"].items():
        (outputs if name.startswith("output") else gradients).append(error["rms"])
    return (f"{max(outputs):.0e}", f"{max(gradients):.0e}" if gradients else "")


def _timed(row: Row) -> list[str]:
    time, ratio = row["seconds"], row["over_sdpa"]
    name = row["candidate"] + (" (baseline)" if row["candidate"] == row["sdpa"] else "")
    return [
        name,
        milliseconds(time["median"]),
        f"{milliseconds(time['low'])}-{milliseconds(time['high'])}",
        "" if ratio is None else f"{ratio['median']:.2f}",
        "" if row["peak_bytes"] is None else size(row["peak_bytes"]),
        *largest_errors(row),
    ]


def _checked(case: dict[str, Any], timed: list[Row]) -> Iterator[str]:
    """Yields a note on the size at which parity was checked, if it is not the timed one."""
    sizes = {(r["parity"]["batch"], r["parity"]["tokens"]) for r in timed}
    for batch, tokens in sorted(sizes - {(case["batch"], case["tokens"])}):
        yield (
            f"parity checked at B{batch} T{tokens}, where the dense float64 map fits; the last "
            "rows' output at the timed size too"
        )


def step_lines(case: dict[str, Any]) -> Iterator[str]:
    """Yields the table of training steps of whole models."""
    yield (
        f"one training step, recipe {case['recipe']}, {case['batch_tokens']} tokens, "
        f"{case['precision']}"
    )
    yield from _model_lines(case, [], lambda row: [])


def decode_lines(case: dict[str, Any]) -> Iterator[str]:
    """Yields the table of decoding with the cache."""
    yield (
        f"decoding {case['prompt']} + {case['new']} tokens, batch {case['batch']}, "
        f"{case['layers']} layers of width {case['hidden_size']}, {case['dtype']}"
    )
    lengths = [str(n) for n in case["lengths"]]

    def more(row: Row) -> list[str]:
        return [milliseconds(row["token_seconds"][n]["median"]) for n in lengths]

    yield from _model_lines(case, [f"ms/token at {n}" for n in lengths], more)


def _model_lines(
    case: dict[str, Any], names: list[str], more: Callable[[Row], list[str]]
) -> Iterator[str]:
    head = ["", "backend", "tokens/s", "10-90 %", f"x {case['control']}", *names, "error"]
    timed = [row for row in case["rows"] if "tokens_per_second" in row]
    table = [head]
    for row in timed:
        speed, ratio = row["tokens_per_second"], row["over_control"]
        table.append([
            row["variant"], row["impl"], f"{speed['median']:,.0f}",
            f"{speed['low']:,.0f}-{speed['high']:,.0f}",
            f"{ratio['median']:.2f}" if ratio else "", *more(row), f"{row['parity']['rms']:.0e}",
        ])  # fmt: skip
    if timed:
        yield from columns(table, left=2)
    for row in case["rows"]:
        if row not in timed:
            yield f"  {row['variant']}: {row['reason'] or 'not measured'}{_allowed(row)}"


def _allowed(row: Row) -> str:
    found = row["parity"]
    if found is None or found["ok"]:
        return ""
    return f" (relative error {found['rms']:.1e}, allowed {found['allowed']:.1e}): NO SPEED"
