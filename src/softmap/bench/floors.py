"""The arithmetic as Markdown tables: formulas, and the floors of machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from softmap.bench import arithmetic
from softmap.bench.case import Case, make_problem
from softmap.bench.formulas import OPERATORS, Operator, shown
from softmap.bench.machine import H100, Machine
from softmap.errors import SoftmapError

MACHINES = {"H100": H100}
#: The example of the floors: of the size that the bars of the project are set at.
EXAMPLE = Case(batch=8, heads=16, tokens=2048, head_dim=64, dtype="bfloat16", device="meta")


def formulas(which: str) -> Iterator[str]:
    """Operations at one visible (i, j), or numbers a token."""
    if which == "bytes":
        yield "| operator | numbers a token that enter | a key that decoding reads |"
        yield "| --- | --- | --- |"
        for o in OPERATORS:
            yield f"| {o.title} | {shown(o.inputs)} | {shown(o.cached)} |"
        return
    if which not in ("streamed", "held"):
        raise SoftmapError(f"formulas: expected streamed, held or bytes, found {which!r}")
    yield "| operator | forward: products | vector | exp | backward: products | vector | exp |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for o in OPERATORS:
        cells = [shown(f) for row in getattr(o, which) for f in row]
        yield f"| {o.title} | {' | '.join(cells)} |"


def floor_table(name: str) -> Iterator[str]:
    """Least times by unit, forward and backward together, and one decoded token."""
    if name not in MACHINES:
        raise SoftmapError(f"floors: expected one of {', '.join(MACHINES)}, found {name!r}")
    machine = MACHINES[name]
    yield (
        "| operator | products ms | vector ms | exp ms | memory ms | floor: the slowest unit | "
        "nothing overlaps | over softmax attention | decode, microseconds |"
    )
    yield "| --- |" + " ---: |" * 8
    base = _floor(OPERATORS[0], machine)
    for o in OPERATORS:
        yield _floor_line(o, machine, base)


def _floor(o: Operator, machine: Machine) -> float:
    problem = make_problem(EXAMPLE.resized(variant=o.variant))
    return machine.floor(arithmetic.work(problem, held=machine.held))


def _floor_line(o: Operator, machine: Machine, base: float) -> str:
    case = EXAMPLE.resized(variant=o.variant)
    work = arithmetic.work(make_problem(case), held=machine.held)
    token = case.resized(tokens=1, keys=case.tokens, direction="forward")
    decode = machine.floor(arithmetic.work(make_problem(token), held=True))
    units = [f"{1e3 * s:.3f}" for s in machine.seconds(work).values()]
    floor = machine.floor(work)
    cells = [
        *units, f"{1e3 * floor:.2f}", f"{1e3 * machine.unhidden(work):.2f}",
        f"{floor / base:.2f}", f"{1e6 * decode:.0f}",
    ]  # fmt: skip
    return f"| {o.title} | {' | '.join(cells)} |"


TABLES: dict[str, Callable[[str], Iterator[str]]] = {
    "formulas": formulas,
    "floors": floor_table,
}
