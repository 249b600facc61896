"""``softmap train --dry-run``: the model without storage, laid out over ranks, and its plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from softmap.cost import Assumptions, of_device, parse
from softmap.hf import SoftmapForCausalLM
from softmap.lab.one import of_one
from softmap.lab.planning import cost_table, plan_of, with_gpu_precision
from softmap.lab.recipe import Recipe
from softmap.train import Layout, Parallel
from softmap.train.processes import ranks


def dry_run(recipe: Recipe, variant: str | None, gpus: str | None) -> list[str]:
    """Lines for people; nothing is read and nothing written.

    gpus: such as ``64xh100``, by default as many as torchrun has started processes, of this
    machine's kind where facts of it are known. Raises ``SoftmapError`` as the training would for a
    recipe that fits no such layout; that it does not fit into memory is a line.
    """
    count, gpu = parse(gpus or f"{ranks()}x{_here()}")
    recipe = with_gpu_precision(of_one(recipe, variant))
    plan = plan_of(recipe)
    found = cost_table(recipe, plan, count, gpu, Assumptions())
    mine = plan.models[-1]
    with torch.device("meta"):
        model = SoftmapForCausalLM(mine.config)
    with imagined(recipe.parallel, count) as parallel:
        if count == 1 or recipe.parallel.copy_size(count) > 1:  # DDP leaves a model as it is
            parallel.wrap(model, compile=False, precision=recipe.training.precision)
        first = f"dry run of {mine.label}: {_laid_out(model)}"
    return [first, *found.lines()]


@contextmanager
def imagined(layout: Layout, count: int) -> Iterator[Parallel]:
    """The first of so many processes, of which there is no other: collectives do nothing."""
    from softmap.train.parallel import Processes

    if count == 1:
        yield Parallel(torch.device("meta"), layout)
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield Processes(torch.device("cpu"), layout, 0, count)
    finally:
        torch.distributed.destroy_process_group()


def held(model: nn.Module) -> int:
    """How many of a model's parameters (numbers) lie on this rank."""
    return sum(_local(p).numel() for p in model.parameters())


def _local(p: Any) -> torch.Tensor:
    found: torch.Tensor = p.to_local() if hasattr(p, "to_local") else p
    return found


def _laid_out(model: nn.Module) -> str:
    total = sum(p.numel() for p in model.parameters())
    return f"{total:,} parameters laid out, {held(model):,} of them on rank 0"


def _here() -> str:
    """The kind of this machine's GPU, or what is planned for where none is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    found = of_device(name)
    return found.name if found else "h100"
