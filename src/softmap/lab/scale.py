"""``softmap scale``: a scaling law of the loss, from existing runs or from a recipe with sizes.

A recipe with ``sizes`` is one comparison per size, ``runs/NAME-SIZE``, each an ordinary run; the
page of the sweep is ``runs/NAME/scaling.html``.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from softmap.errors import SoftmapError
from softmap.fields import Range
from softmap.lab.names import check_path, is_run, no_run, runs_folder, split_values


@dataclass
class Scale:
    """Fit L(N, D) = E + A / N^a + B / D^b over sizes, and give costs at equal loss.

    The sizes are finished comparisons, one run each, or those of a recipe, which are trained first
    (after Ctrl-C the same command continues).

    For example:
      softmap scale runs/small runs/middle runs/large
      softmap scale sizes --tune
    """

    given: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]|RECIPE")]
    """The folders of three or more runs; or a recipe with sizes."""
    out: Path | None = None
    """Folder for the page; by default beside the first run, or runs/NAME of the recipe."""
    tune: bool = False
    """For a recipe: first find every variant's peak at every size."""
    jobs: Annotated[int, Range(1, 1000)] | None = None
    """For a recipe: number of trainings at once, by default one for each core."""
    cluster: str | None = None
    """For a recipe: train on a Dask cluster, as for softmap compare."""
    set: tuple[str, ...] = ()
    """For a recipe: other values, as key.path=value."""

    def run(self, argv: Sequence[str]) -> None:
        """Train what is missing, fit the laws, print the table, and write the page."""
        import softmap
        from softmap.report.scaling.page import build
        from softmap.report.scaling.table import lines

        if not self.given:
            raise SoftmapError("scale: expected runs or a recipe with sizes, found none")
        if self.out is not None:
            check_path("--out", self.out)
        command = "softmap " + shlex.join(argv)
        folders, out = self._read() if is_run(Path(self.given[0])) else self._trained(command)
        page, found = build(folders, self.out or out, command, softmap.__version__)
        for line in lines(found):
            print(line)
        print(page)

    def _read(self) -> tuple[list[Path], Path]:
        """Returns the given runs, and the folder of their page."""
        folders = [Path(word) for word in self.given]
        for folder in folders:
            check_path("the run's folder", folder)
            if not is_run(folder):
                raise no_run(folder)
        if self.tune or self.set or self.jobs or self.cluster:
            raise SoftmapError(
                "--tune, --set, --jobs and --cluster train a recipe, found finished runs"
            )
        return folders, runs_folder(folders[0]) / "-and-".join(f.resolve().name for f in folders)

    def _trained(self, command: str) -> tuple[list[Path], Path]:
        """Returns the trained runs of a recipe's sizes, and the folder of the sweep."""
        from softmap.lab import recipe as recipes

        if len(self.given) > 1:
            raise no_run(Path(self.given[0]))
        recipe = recipes.load(self.given[0], split_values(self.set))
        runs = Path("runs")
        from softmap.lab.cluster import connected

        with connected(self.cluster, self.jobs, runs) as cluster:
            folders = [self._train(one, runs, command, cluster) for one in each_size(recipe)]
        return folders, runs / recipe.name

    def _train(self, recipe: Any, runs: Path, command: str, cluster: Any) -> Path:
        from softmap.lab.compare import compare
        from softmap.lab.progress import choose
        from softmap.lab.request import Request
        from softmap.lab.tune import tune

        request = Request(runs, command, jobs=self.jobs, cluster=cluster, speed=True)
        if self.tune:
            tune(recipe, request, choose())
        return compare(recipe, request, choose()).parent


def each_size(recipe: Any) -> Iterator[Any]:
    """Returns an ordinary recipe for each of the sizes.

    Raises ``SoftmapError`` where there are fewer than three, before any is trained.
    """
    from softmap.lab.preflight import preflight, with_precision

    if len(recipe.sizes) < 3:
        raise SoftmapError(
            f"{recipe.path}: softmap scale needs a recipe with 3 sizes or more (sizes: "
            f"[{{hidden_size: 32}}, ...]), found {len(recipe.sizes)}"
        )
    made = [of_size(recipe, size) for size in recipe.sizes]
    if len({one.name for one in made}) < len(made):
        raise SoftmapError("sizes: expected each size once, found two alike")
    for one in made:
        preflight(with_precision(one), lambda _: None)
    return iter(made)


def of_size(recipe: Any, size: Any) -> Any:
    """Returns the recipe with one of its sizes as its model."""
    shape = {k: v for k, v in dataclasses.asdict(size).items() if v is not None}
    steps = shape.pop("steps", recipe.training.steps)
    model = dataclasses.replace(recipe.model, **shape)
    name = f"{recipe.name}-{model.hidden_size}x{model.num_hidden_layers}"
    training = dataclasses.replace(recipe.training, steps=steps)
    return dataclasses.replace(recipe, name=name, model=model, training=training, sizes=[])
