"""What would make a training fit into memory, where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from softmap.cost.estimate import Assumptions
from softmap.cost.hardware import GIB, GPUS, Gpu
from softmap.cost.job import Job
from softmap.cost.memory import memory
from softmap.errors import SoftmapError

MOST_RANKS = 2**14  #: ranks that are tried


class Change(NamedTuple):
    """A change to a recipe, or to the call."""

    kind: str
    words: str
    of: Callable[[Job], Job]


def usable_memory(gpu: Gpu, given: Assumptions) -> float:
    """Returns the bytes of a GPU that a training may take."""
    return gpu.memory * (1 - given.reserve)


def shortage(label: str, job: Job, gpu: Gpu, given: Assumptions) -> str | None:
    """Returns one line for a training that does not fit: what it needs, what there is, what
    would help.
    """
    needed, there = memory(job).total, usable_memory(gpu, given)
    if needed <= there:
        return None
    found = remedies(job, gpu, given)
    return (
        f"{label}: does not fit: a rank needs {needed / GIB:,.1f} GiB, the {gpu.name} has "
        f"{there / GIB:,.1f} GiB ({given.reserve:.0%} of it kept back); {advice(found)}"
    )


def advice(found: list[str]) -> str:
    """Returns the changes that suffice, in words."""
    return f"would fit: {', or '.join(found)}" if found else "nothing that was tried would fit"


def remedies(job: Job, gpu: Gpu, given: Assumptions) -> list[str]:
    """Returns the mildest single change of each kind that suffices; else the first pair, or
    three.
    """
    there = usable_memory(gpu, given)
    every = [*changes(job), *more_ranks(job, gpu)]
    larger = (
        other.name for other in GPUS.values() if memory(job).total <= usable_memory(other, given)
    )
    if alone := _alone(job, every, there):
        return [*alone, *(f"a GPU such as the {name}" for name in larger)][:4]
    return next(_together(job, every, there), [])


def remedies_within(job: Job, there: float) -> list[str]:
    """Returns the changes with which the training fits into ``there`` bytes of its own device."""
    every = list(changes(job))
    return _alone(job, every, there) or next(_together(job, every, there), [])


def _alone(job: Job, every: list[Change], there: float) -> list[str]:
    found: dict[str, str] = {}
    for change in every:
        if change.kind not in found and _fits(change.of(job), there):
            found[change.kind] = change.words
    return list(found.values())


def _together(job: Job, every: list[Change], there: float) -> Iterator[list[str]]:
    for count in (2, 3):
        for several in combinations(every, count):
            if len({change.kind for change in several}) < count:
                continue
            changed = job
            for change in several:
                changed = change.of(changed)
            if _fits(changed, there):
                yield [" and ".join(change.words for change in several)]


def _fits(job: Job, there: float) -> bool:
    try:
        job.layout.check(job.ranks, job.batch_size, job.context)
    except SoftmapError:
        return False
    return memory(job).total <= there


def changes(job: Job) -> Iterator[Change]:
    """Yields the changes of a recipe to try, of each kind the mildest first."""
    layout = job.layout
    for micro in sorted((job.micro // n for n in (2, 4, 8, 16, 32, job.micro)), reverse=True):
        if 1 <= micro < job.micro:
            yield Change("micro", f"training.micro_batch_size={micro}", _with_micro_batch(micro))
    kinds = ("none", "selective", "block")
    for kind in kinds[kinds.index(layout.activations) + 1 :]:
        yield Change("activations", f"parallel.activations={kind}", _with_layout(activations=kind))
    if job.ranks > 1 and job.shard < job.ranks:
        yield Change("shard", "parallel.shard=all", _with_layout(shard="all"))
    for share in (2, 4, 8, 16):
        if share > layout.context and job.ranks % share == 0:
            yield Change("context", f"parallel.context={share}", _with_layout(context=share))


def more_ranks(job: Job, gpu: Gpu) -> Iterator[Change]:
    """Yields changes to two, four, ... times as many GPUs."""
    ranks = 2 * job.ranks
    while ranks <= MOST_RANKS:
        yield Change("ranks", f"{ranks}x{gpu.name}", _with_ranks(ranks))
        ranks *= 2


def _with_micro_batch(size: int) -> Callable[[Job], Job]:
    return lambda job: replace(job, micro_batch_size=size)


def _with_layout(**fields: object) -> Callable[[Job], Job]:
    return lambda job: replace(job, layout=replace(job.layout, **fields))  # type: ignore[arg-type]


def _with_ranks(ranks: int) -> Callable[[Job], Job]:
    """Returns a change to more ranks, which share the parameters where there was one rank."""

    def of(job: Job) -> Job:
        layout = replace(job.layout, shard="all") if job.ranks == 1 else job.layout
        return replace(job, ranks=ranks, layout=layout)

    return of
