"""Where trainings run: in this process, in processes of this machine, or on a cluster's machines.

Whoever trains asks an engine for a pool and submits calls to it; nobody else knows which it is.
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
    """jobs: trainings at once. cluster: whose machines train; without one this machine does, and a
    single job in this process itself, with all threads."""

    jobs: int = 1
    cluster: Cluster | None = None

    @property
    def here(self) -> bool:
        """One training after another, in this process."""
        return self.cluster is None and self.jobs == 1

    @property
    def threads(self) -> int:
        """Of a training."""
        return torch.get_num_threads() if self.here else THREADS

    def facts(self) -> dict[str, int | str]:
        """How many trainings run at once, with how many threads each, and on which cluster."""
        where = {"cluster": self.cluster.text} if self.cluster else {}
        return {"jobs": self.jobs, "threads": self.threads, **where}

    def check(self, folder: Path, note: Callable[[str], None]) -> None:
        """Raise ``SoftmapError`` where a pool for this folder could not be had."""
        if self.cluster is not None:
            self.pool(folder, None, note).shutdown()

    def pool(
        self,
        folder: Path,
        device: torch.device | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Pool:
        """Processes, each with a GPU of its own where the device asks for them.

        Args:
            folder: what they write to, which this process holds.
            note: told what has to be waited for.

        Raises ``SoftmapError`` for a cluster whose machines cannot take part.
        """
        if self.cluster is not None:
            return self.cluster.pool(folder, device, note)
        return Workers(self.jobs, gpus(device))
