"""Where trainings run: in this process, in processes of this machine, or on a cluster's machines.

Training code gets a pool from an engine and submits calls to it; no other code knows which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from softmap.lab.cluster import Cluster
from softmap.lab.workers import THREADS, Pool, Workers, gpus


@dataclass(frozen=True)
class Engine:
    """The place of the trainings.

    Attributes:
        jobs: trainings at once.
        cluster: whose machines train; without one this machine does, and a single job runs in this
            process itself, with all threads.
    """

    jobs: int = 1
    cluster: Cluster | None = None

    @property
    def here(self) -> bool:
        """Whether trainings run one after another, in this process."""
        return self.cluster is None and self.jobs == 1

    @property
    def threads(self) -> int:
        """The number of threads of a training."""
        return torch.get_num_threads() if self.here else THREADS

    def facts(self) -> dict[str, int | str]:
        """Returns how many trainings run at once, with how many threads each, and on which
        cluster.
        """
        where = {"cluster": self.cluster.text} if self.cluster else {}
        return {"jobs": self.jobs, "threads": self.threads, **where}

    def check(self, folder: Path, note: Callable[[str], None]) -> None:
        """Raise ``SoftmapError`` where no pool can be made for this folder."""
        if self.cluster is not None:
            self.pool(folder, None, note).shutdown()

    def pool(
        self,
        folder: Path,
        device: torch.device | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Pool:
        """Returns a pool of processes, each with its own GPU if the device is one.

        Args:
            folder: the folder that they write to, which this process holds.
            note: called with a message where it has to wait.

        Raises ``SoftmapError`` for a cluster whose machines cannot take part.
        """
        if self.cluster is not None:
            return self.cluster.pool(folder, device, note)
        return Workers(self.jobs, gpus(device))
