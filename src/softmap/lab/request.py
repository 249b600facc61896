"""How a comparison is run, beside what its recipe says."""

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

#: What may be done about a folder with another run.
WAY_OUT = "--fresh throws it away, --name NAME keeps it"


@dataclass(frozen=True)
class Request:
    """What a call asks for.

    Attributes:
        out: the folder of all runs.
        command: what the user typed, for the page.
        fresh: throw away what an earlier run of the same name left.
        jobs: trials at once, each in a process of one thread; 1 trains them one after another in
            this process; None takes as many as there are cores, or GPUs.
        cluster: whose machines train instead of this one, as many at once as it has places.
        speed: measure speed and memory apart from training.
        resolve: add seeds until no interval is wider, nats each way.
        at_most: seeds of a variant that this may take.
        seconds: add seeds as long as they fit into this time.
        way_out: what may be done about a folder with another run.
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
                "intervals says how long it takes, or the time how wide they are"
            )

    @property
    def engine(self) -> Engine:
        """Where the trials run."""
        return Engine(self.jobs or 1, self.cluster)


def with_jobs(request: Request, plan: Plan, shared: Workbench) -> Request:
    """The request with its number of jobs, by default as many as suit the machine or cluster."""
    if request.cluster is not None:
        places = request.cluster.slots(shared.device.type == "cuda")
        return dataclasses.replace(request, jobs=max(1, places))
    if request.jobs is not None:
        return request
    needed = max(least_memory(planned, shared.recipe) for planned in plan.models)
    return dataclasses.replace(request, jobs=workers.default_jobs(shared.device, needed))
