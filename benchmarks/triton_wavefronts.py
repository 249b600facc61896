"""Cycles of shared memory in a turn of each loop of a kernel, from its PTX, without a GPU.

Shared memory has 32 banks of four bytes and serves one wavefront a cycle: a word of each bank.
Where an instruction lets threads touch several words of one bank it takes as many cycles. The
addresses depend on the thread alone, but for a base, so the integer instructions before them are
evaluated here for every thread of a program. Shuffles count one each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from softmap.errors import SoftmapError

BANKS, WORD = 32, 4
OPS: dict[str, Callable[..., Tensor]] = {
    "mov": lambda a: a,
    "cvt": lambda a: a,
    "cvta": lambda a: a,
    "neg": lambda a: -a,
    "not": lambda a: ~a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
    "bfe": lambda a, at, n: _signed((a >> at) & ((1 << n) - 1), n),
    "selp": lambda a, b, p: torch.where(p != 0, a, b),
    "setp.eq": lambda a, b: a == b,
    "setp.ne": lambda a, b: a != b,
    "setp.lt": lambda a, b: a < b,
    "setp.le": lambda a, b: a <= b,
    "setp.gt": lambda a, b: a > b,
    "setp.ge": lambda a, b: a >= b,
}
LABEL = re.compile(r"^(\$L__BB\w+):")
JUMP = re.compile(r"^\s*(?:@!?%p\d+\s+)?bra(?:\.uni)?\s+(\$L__BB\w+);")
INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][a-z0-9_.]*)\s+(.*?);")
SHARED = re.compile(r"^(?:ld|st)\.shared|^(?:ld|st)matrix")


def wavefronts(ptx: str, threads: int) -> list[int]:
    """Of all warps of a program in a turn of each outer loop, inner loops counted once."""
    lines = ptx.split("\n")
    labels = {m[1]: n for n, line in enumerate(lines) if (m := LABEL.match(line))}
    jumps = [(labels[m[1]], n) for n, line in enumerate(lines) if (m := JUMP.match(line))]
    outer: list[tuple[int, int]] = []
    for first, last in sorted(jump for jump in jumps if jump[0] < jump[1]):
        if outer and first <= outer[-1][1]:
            outer[-1] = (outer[-1][0], max(last, outer[-1][1]))
        else:
            outer.append((first, last))
    found = _accesses(lines, threads)
    return [sum(n for at, n in found if first <= at <= last) for first, last in outer]


def _accesses(lines: list[str], threads: int) -> list[tuple[int, int]]:
    """(line, wavefronts) of every instruction that takes any."""
    known: dict[str, Tensor] = {"%tid.x": torch.arange(threads)}
    found = []
    for at, line in enumerate(lines):
        m = INSTRUCTION.match(line.split("//")[0])
        if m is None:
            continue
        op, names = m[1], [name.strip() for name in m[2].split(",")]
        if SHARED.match(op):
            found.append((at, _of_access(op, _address(m[2], known, threads))))
        elif op.startswith("shfl"):
            found.append((at, threads // 32))
        else:
            _evaluate(op, names, known, threads)
    return found


def _evaluate(op: str, names: list[str], known: dict[str, Tensor], threads: int) -> None:
    """What changes in a loop keeps its first value."""
    kind = ".".join(op.split(".")[:2]) if op.startswith("setp") else op.split(".")[0]
    halves = any("{" in name for name in names)
    if names[0] in known or halves or re.search(r"\.b?f\d", op):  # no address comes of those
        return
    if op.startswith("ld.param"):
        known[names[0]] = torch.zeros(threads, dtype=torch.long)
    elif kind in OPS:
        values = [_value(name, known, threads) for name in names[1:]]
        if all(v is not None for v in values):
            known[names[0]] = OPS[kind](*values).long()


def _value(name: str, known: dict[str, Tensor], threads: int) -> Tensor | None:
    if re.fullmatch(r"-?\d+", name):
        return torch.full((threads,), int(name))
    if name == "global_smem" or re.match(r"%n?ctaid", name):
        return torch.zeros(threads, dtype=torch.long)
    return known.get(name)


def _signed(a: Tensor, bits: Tensor) -> Tensor:
    return torch.where((a >> (bits - 1)) & 1 == 1, a - (1 << bits), a)


def _address(text: str, known: dict[str, Tensor], threads: int) -> Tensor:
    base, _, offset = text[text.index("[") + 1 : text.index("]")].partition("+")
    value = _value(base, known, threads)
    if value is None:
        raise SoftmapError(f"the address {base!r} is not known")
    return value + int(offset or 0)


def _of_access(op: str, address: Tensor) -> int:
    """A matrix is eight rows of 16 bytes; else as many threads at once as fill 128 bytes."""
    if "matrix" in op:
        count = int(re.search(r"\.x(\d)", op)[1])  # type: ignore[index]
        rows = address.view(-1, 32)[:, : 8 * count].reshape(-1, 8)
        return sum(_conflicts(row, 16) for row in rows)
    vector, bits = re.search(r"\.v(\d)", op), re.search(r"[bfsu](\d+)$", op)
    assert bits is not None
    size = int(bits[1]) // 8 * (int(vector[1]) if vector else 1)
    return sum(_conflicts(part, size) for part in address.view(-1, min(32, 128 // size)))


def _conflicts(address: Tensor, size: int) -> int:
    """The most words of one bank."""
    first = (address // WORD).tolist()
    words = {word + n for word in first for n in range(max(1, size // WORD))}
    return max(Counter(word % BANKS for word in words).values())
