"""How a comparison is run, beside its recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.lab import workers
from softmap.lab.cluster import Cluster
from softmap.lab.engine import Engine
from softmap.lab.names import check_path
from softmap.lab.plan import Plan
from softmap.lab.preflight import least_memory
from softmap.lab.sections import Count, Positive
from softmap.lab.seeds import MOST_SEEDS
from softmap.lab.workbench import Workbench

#: The user's choices where a folder holds another run.
WAY_OUT = "--fresh deletes it, --name NAME keeps it"


@dataclass(frozen=True)
class Request:
    """The values of a call.

    Attributes:
        out: the folder of all runs.
        command: the user's command, for the page.
        fresh: delete what an earlier run of the same name left.
        jobs: trials at once, each in a process of one thread; 1 trains them one after another in
            this process; None takes one per core or GPU.
        cluster: whose machines train instead of this one, as many at once as it has slots.
        speed: measure speed and memory separately from training.
        resolve: add seeds until no half-width of an interval is larger, in nats.
        at_most: the most seeds of a variant that this may use.
        seconds: add seeds as long as they fit into this time.
        way_out: the user's choices where a folder holds another run.
    """

    out: Path = Path("runs")
    command: str = "softmap compare"
    fresh: bool = False
    jobs: int | None = 1
    cluster: Cluster | None = None
    speed: bool = False
    resolve: float | None = None
    at_most: int = 50
    seconds: float | None = None
    way_out: str = WAY_OUT

    def __post_init__(self) -> None:
        check_path("out", self.out)
        check("jobs", self.jobs, Count | None)
        check("resolve", self.resolve, Positive | None)
        check("time", self.seconds, Positive | None)
        if not 2 <= self.at_most <= MOST_SEEDS:
            raise SoftmapError(f"at-most: expected 2 to {MOST_SEEDS}, found {self.at_most}")
        if self.resolve is not None and self.seconds is not None:
            raise SoftmapError(
                "--resolve and --time are both given, expected one of them: the width of the "
                "intervals determines the time, or the time determines the width"
            )

    @property
    def engine(self) -> Engine:
        """Where the trials run."""
        return Engine(self.jobs or 1, self.cluster)


def with_jobs(request: Request, plan: Plan, shared: Workbench) -> Request:
    """Returns the request with its number of jobs, by default as many as machine or cluster
    allow.
    """
    if request.cluster is not None:
        places = request.cluster.slots(shared.device.type == "cuda")
        return dataclasses.replace(request, jobs=max(1, places))
    if request.jobs is not None:
        return request
    needed = max(least_memory(planned, shared.recipe) for planned in plan.models)
    return dataclasses.replace(request, jobs=workers.default_jobs(shared.device, needed))
