"""Tables of Markdown pages, written between markers from results.

    <!-- bench: KIND ARGUMENT -->
    ...written by softmap bench pages...
    <!-- /bench -->

KIND is ``op``, ``step`` or ``decode``, ARGUMENT the result files, relative to the page. A table
whose file does not exist yet says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from softmap.bench import save
from softmap.bench.failure import size
from softmap.bench.text import largest_errors, milliseconds, untimed_reason
from softmap.errors import SoftmapError
from softmap.files.sealed import read_bytes

_BLOCK = re.compile(r"(<!-- bench: (\w+) ([^\n]*?) -->\n)(.*?)(<!-- /bench -->)", re.DOTALL)


def filled(path: Path) -> tuple[str, str]:
    """Returns a page as it is, and with every table rewritten."""
    try:
        page = read_bytes(path).decode()
    except UnicodeDecodeError:
        raise SoftmapError(f"{path}: expected a page in UTF-8, found other bytes") from None
    return page, fill(page, path.resolve().parent, str(path))


def fill(page: str, folder: Path, name: str = "the page") -> str:
    """Returns the page with every table rewritten; raises ``SoftmapError`` for an unknown
    marker.
    """
    if page.count("<!-- bench:") != len(_BLOCK.findall(page)):
        raise SoftmapError(f"{name}: a '<!-- bench: KIND ARGUMENT -->' without '<!-- /bench -->'")

    def written(block: re.Match[str]) -> str:
        table = "\n".join(_table(block[2], block[3].strip(), folder, name))
        return f"{block[1]}\n{table}\n\n{block[5]}"

    return _BLOCK.sub(written, page)


def _table(kind: str, argument: str, folder: Path, name: str) -> Iterator[str]:
    if kind not in _TABLES:
        raise SoftmapError(f"{name}: expected a table of {', '.join(_TABLES)}, found {kind!r}")
    return _of_results(kind, folder, argument.split())


def _of_results(kind: str, folder: Path, names: list[str]) -> Iterator[str]:
    """Yields a table for each file, with a sentence on its origin."""
    for n, name in enumerate(names):
        if n:
            yield ""
        if not (folder / name).exists():
            yield f"Not measured yet: `{Path(name).name}` does not exist."
            continue
        found = save.load(folder / name)
        if found["kind"] != kind:
            raise SoftmapError(f"{name}: expected a result of bench {kind}, found {found['kind']}")
        with save.drawing_from(folder / name):
            yield from [*_TABLES[kind](found), "", _source(found, name)]


def _source(found: dict[str, Any], argument: str) -> str:
    device, versions = found["device"], found["versions"]
    threads = f", threads: {device['threads']}" if device["kind"] == "cpu" else ""
    return (
        f"{device['name']}{threads}; torch {versions.get('torch')}; commit "
        f"{(found['commit'] or 'unknown')[:12]}; medians of at most {found['rounds']} interleaved "
        f"rounds, in brackets the 10th to 90th percentile. `{found['command']}` wrote "
        f"[{Path(argument).name}]({argument})."
    )


def _op(found: dict[str, Any]) -> Iterator[str]:
    yield from _head(
        ["variant", "shape", "what ran", "ms", "times SDPA", "peak memory",
         "error, of gradients"], 3,
    )  # fmt: skip
    for case in found["cases"]:
        shape = f"B{case['batch']} H{case['heads']} T{case['tokens']} d{case['head_dim']}"
        shape += "" if case["window"] is None else f" window {case['window']}"
        for row in case["rows"]:
            if row["status"] != "refused":
                yield _line([case["variant"], shape, row["candidate"], *_op_cells(row)])


def _op_cells(row: dict[str, Any]) -> list[str]:
    if row["status"] != "timed":
        return [untimed_reason(row), "", "", ""]
    time, ratio, peak = row["seconds"], row["over_sdpa"], row["peak_bytes"]
    return [
        milliseconds(time["median"]),
        "" if ratio is None else _with_spread(ratio),
        "" if peak is None else size(peak),
        ", ".join(filter(None, largest_errors(row))),
    ]


def _step(found: dict[str, Any]) -> Iterator[str]:
    yield from _head(["variant", "backend", "tokens/s", "times the control's"], 2)
    yield from _models(found, lambda case, row: [])


def _decode(found: dict[str, Any]) -> Iterator[str]:
    lengths = [str(n) for n in found["cases"][0]["lengths"]]
    names = [f"ms a token at {n}" for n in lengths]
    yield from _head(["variant", "backend", "tokens/s", "times the control's", *names], 2)
    yield from _models(
        found,
        lambda case, row: [milliseconds(row["token_seconds"][n]["median"]) for n in lengths],
    )


def _models(found: dict[str, Any], more: Callable[[Any, Any], list[str]]) -> Iterator[str]:
    for case in found["cases"]:
        for row in case["rows"]:
            cells = [row["variant"], row["impl"]]
            if "tokens_per_second" in row:
                ratio = row["over_control"]
                cells.append(f"{row['tokens_per_second']['median']:,.0f}")
                cells.append(_with_spread(ratio) if ratio else "")
                cells += more(case, row)
            else:
                cells += [row["reason"] or "not measured", ""]
            yield _line(cells)


_TABLES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "op": _op,
    "step": _step,
    "decode": _decode,
}


def _with_spread(ratio: dict[str, Any]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


def _head(names: list[str], left: int) -> Iterator[str]:
    yield _line(names)
    yield _line(["---" if n < left else "---:" for n in range(len(names))])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
