"""``softmap train`` on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from softmap.errors import SoftmapError
from softmap.fields import Range
from softmap.lab.names import split_values


@dataclass
class Train:
    """Train one model of a recipe, in this process or in many: runs/NAME/VARIANT/seedN/model.

    After Ctrl-C or SIGTERM the same command continues where it stopped. Under torchrun all
    processes train one model; see docs/distributed.md.

    For example:
      softmap train demo
      softmap train recipe.yaml --variant dcmha --seed 1 --set training.steps=5000
      torchrun --nproc-per-node 8 -m softmap train recipe.yaml --set parallel.shard=8
      softmap train 7b --dry-run --gpus 64xh100
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")] = "demo"
    """A recipe file, or the name of one that comes with softmap (demo, evening)."""
    variant: str | None = None
    """By default the recipe's control. Size and peak are those of a comparison."""
    seed: Annotated[int, Range(0, 2**32 - 1)] | None = None
    """By default the recipe's first."""
    name: str | None = None
    """Name of the folder for VARIANT/seedN; RECIPE-trained by default."""
    out: Path = Path("runs")
    """Folder of all runs."""
    set: tuple[str, ...] = ()
    """Any other value of the recipe, as key.path=value."""
    fresh: bool = False
    """Discard an earlier training of this name."""
    profile: bool = False
    """Trace a few steps: profile/rank0.json beside the model, for perfetto.dev."""
    dry_run: bool = False
    """Only distribute the model over the ranks, without storage, and print the plan; nothing is
    read or written. Under torchrun, or with --gpus."""
    gpus: str | None = None
    """For --dry-run: how many of which kind, such as 64xh100; by default torchrun's processes."""

    def run(self, argv: Sequence[str]) -> None:
        """Train the model and print its folder, or print how it would be distributed."""
        if self.gpus is not None and not self.dry_run:
            raise SoftmapError("--gpus belongs to --dry-run, expected both, found it alone")
        if self.dry_run:
            self._lay_out()
        else:
            self._train()

    def _lay_out(self) -> None:
        from softmap.lab import recipe as recipes
        from softmap.lab.dry import dry_run
        from softmap.train.processes import rank, report_once

        with report_once():
            recipe = recipes.load(self.recipe, split_values(self.set))
            lines = [] if rank() else dry_run(recipe, self.variant, self.gpus)
        for line in lines:
            print(line)

    def _train(self) -> None:
        from softmap.lab import recipe as recipes
        from softmap.lab.one import TrainRequest, train_one
        from softmap.lab.progress import Display, choose
        from softmap.train.processes import rank, report_once

        with report_once():
            recipe = recipes.load(self.recipe, split_values(self.set))
            place = (self.variant, self.seed, self.out, self.name)
            request = TrainRequest(*place, self.fresh, self.profile)
            model = train_one(recipe, request, Display() if rank() else choose())
        if not rank():
            print(model)
