"""``softmap train --dry-run``: the model without storage, distributed over ranks, and its plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from softmap.cost import Assumptions, of_device, parse
from softmap.hf import SoftmapForCausalLM
from softmap.lab.one import of_one
from softmap.lab.planning import plan_costs, plan_of, with_gpu_precision
from softmap.lab.recipe import Recipe
from softmap.train import Layout, Parallel
from softmap.train.processes import ranks


def dry_run(recipe: Recipe, variant: str | None, gpus: str | None) -> list[str]:
    """Returns the plan in lines; nothing is read and nothing written.

    Args:
        gpus: such as ``64xh100``; by default one per process of torchrun, of this machine's kind if
            that is known.

    Raises ``SoftmapError`` as the training would for a recipe that fits no such layout; a model
    that does not fit into memory is reported in a line.
    """
    count, gpu = parse(gpus or f"{ranks()}x{_here()}")
    recipe = with_gpu_precision(of_one(recipe, variant))
    plan = plan_of(recipe)
    found = plan_costs(recipe, plan, count, gpu, Assumptions())
    mine = plan.models[-1]
    with torch.device("meta"):
        model = SoftmapForCausalLM(mine.config)
    with imagined(recipe.parallel, count) as parallel:
        if count == 1 or recipe.parallel.copy_size(count) > 1:  # DDP leaves a model as it is
            parallel.wrap(model, compile=False, precision=recipe.training.precision)
        first = f"dry run of {mine.label}: {_distributed(model)}"
    return [first, *found.lines()]


@contextmanager
def imagined(layout: Layout, count: int) -> Iterator[Parallel]:
    """Yield the first of ``count`` processes that do not exist: collectives do nothing."""
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
    """Returns the number of a model's parameters that are on this rank."""
    return sum(_local(p).numel() for p in model.parameters())


def _local(p: Any) -> torch.Tensor:
    found: torch.Tensor = p.to_local() if hasattr(p, "to_local") else p
    return found


def _distributed(model: nn.Module) -> str:
    total = sum(p.numel() for p in model.parameters())
    return f"{total:,} parameters, {held(model):,} of them on rank 0"


def _here() -> str:
    """Returns the kind of this machine's GPU, or the default kind where it is unknown."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    found = of_device(name)
    return found.name if found else "h100"
