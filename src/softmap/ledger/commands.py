"""The commands of ``softmap claims``: dataclasses whose fields are the flags.

Heavy modules are imported inside ``run``, as in ``softmap.cli``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from softmap.errors import SoftmapError
from softmap.fields import Range, check_flags
from softmap.lab.names import check_path, split_values

Count = Annotated[int, Range(1, 1000)]
RESULTS = Path("runs/claims/results")


@dataclass
class List:
    """List all claims with their latest verdict at each scale."""

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="[FOLDER ...]")] = ()
    """Folders with results; by default runs/claims/results."""

    def run(self, argv: Sequence[str]) -> None:
        """Print a line for each claim."""
        from softmap.ledger.results import latest
        from softmap.ledger.table import listed

        _check(self.folders)
        for line in listed(latest(self.folders or [RESULTS])):
            print(line)


@dataclass
class Run:
    """Put claims to the test: train what is missing, measure, and write one file per claim.

    Claims share their trainings. After Ctrl-C the same command continues.

    For example:
      softmap claims run dape-extra sas-remove
      softmap claims run all --dry-run
      softmap claims run diff-tokens --base small --seeds 3
    """

    ids: Annotated[Positional[tuple[str, ...]], arg(metavar="ID [ID ...]")] = ()
    """Claims by name, in the order in which they are tested; all means every claim."""
    scale: str = "cpu"
    """cpu, gpu or paper."""
    base: tuple[str, ...] = ()
    """Only on these bases, such as small."""
    seeds: Count = 5
    """Runs of an arm; twice as many for one that others are compared with."""
    jobs: Count | None = None
    """Trainings at once; by default one per core, or per worker of the cluster."""
    cluster: str | None = None
    """A Dask cluster that trains: its scheduler's address or file, or local:N; docs/cluster.md."""
    dry_run: bool = False
    """Print what would be trained and how long it would take, and stop."""
    out: Path = RESULTS
    """Folder of the results."""
    runs: Path = Path("runs/claims")
    """Folder of the trained models."""
    set: tuple[str, ...] = ()
    """Other values of all recipes, as training.steps=50; use another --runs for them."""

    def run(self, argv: Sequence[str]) -> None:
        """Test the claims and write a file for each."""
        from softmap.lab.cluster import connected
        from softmap.ledger.run import chosen

        _check([self.out, self.runs])
        claims = chosen(self.ids, self.scale, self.base)
        with connected(self.cluster, self.jobs, self.runs) as cluster:
            self._run(claims, self._place(argv, cluster))

    def _run(self, claims: Sequence[Any], workspace: Any) -> None:
        from softmap.ledger.forecast import forecast
        from softmap.ledger.run import run

        for line in forecast(claims, self.scale, workspace, workspace.engine.jobs, self.base):
            print(line, file=sys.stderr)
        failed = []
        for claim in () if self.dry_run else claims:
            try:
                print(run(claim, self.scale, workspace, self.out, self.base), flush=True)
            except SoftmapError as error:  # the rest of a long list continues
                if len(claims) == 1:
                    raise
                print(f"{claim.id}: {error}", file=sys.stderr)
                failed.append(claim.id)
        if failed:
            raise SoftmapError(f"claims run: not finished, see above: {', '.join(failed)}")

    def _place(self, argv: Sequence[str], cluster: Any) -> Any:
        from softmap.lab.progress import choose
        from softmap.ledger.workspace import Workspace

        return Workspace(
            self.runs / self.scale, self.seeds, self.jobs, split_values(self.set),
            "softmap " + shlex.join(argv), choose, lambda text: print(text, file=sys.stderr),
            cluster,
        )  # fmt: skip


@dataclass
class Report:
    """Write the ledger, one page of all claims, and print it as a table.

    For example:
      softmap claims report
      softmap claims report results/claims --page claims.html
    """

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="[FOLDER ...]")] = ()
    """Folders with results, the newest of which count; by default runs/claims/results."""
    page: Path | None = None
    """Where the page is written; by default ledger.html beside the first folder."""

    def run(self, argv: Sequence[str]) -> None:
        """Write the page, print the table and the page's path."""
        from softmap.ledger.page import write_page
        from softmap.ledger.results import required
        from softmap.ledger.table import lines

        folders = self.folders or (RESULTS,)
        _check([*folders, *([self.page] if self.page else [])])
        found = required(folders)
        for line in lines(found):
            print(line)
        print(write_page(self.page or folders[0].parent / "ledger.html", found))


def _check(paths: Sequence[Path]) -> None:
    for path in paths:
        check_path("claims", path)


KINDS: dict[str, type] = {"list": List, "run": Run, "report": Report}
_Kinds: Any = Union[  # noqa: UP007  # made at run time
    tuple(Annotated[kind, subcommand(name)] for name, kind in KINDS.items())
]


@dataclass
class Claims:
    """What the papers claim: list it, put it to the test, and write the ledger."""

    what: Annotated[OmitArgPrefixes[OmitSubcommandPrefixes[_Kinds]], arg(name="")]

    def run(self, argv: Sequence[str]) -> None:
        """Run the chosen command."""
        check_flags(self.what)
        self.what.run(argv)
