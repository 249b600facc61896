"""Optional receivers of a run's metrics beside ``train.jsonl``; none can stop a training."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from softmap.errors import SoftmapError, reason
from softmap.train.jsonl import Metrics

TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
PROJECT = "softmap"  #: the trackers' project of all runs
T = TypeVar("T")


class Tracker(Protocol):
    """A receiver of metrics; each call has at least ``step``."""

    def log(self, metrics: Metrics) -> None:
        """Take the metrics of one logged step."""

    def close(self) -> None:
        """End the run at the receiver."""


class _TensorBoard:
    def __init__(self, module: Any, folder: Path, run: str) -> None:
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))

    def log(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, int(metrics["step"]))

    def close(self) -> None:
        self._writer.close()


class _WandbLike:
    """Sends metrics to wandb, or to trackio, which has the same calls."""

    def __init__(self, module: Any, folder: Path, run: str) -> None:
        where: dict[str, Any] = {"name": f"{run} {_key(folder)}"}
        if module.__name__ == "wandb":
            where = {"name": run, "id": _key(folder), "dir": str(folder)}
        self._run = module.init(project=PROJECT, resume="allow", **where)

    def log(self, metrics: Metrics) -> None:
        values = {name: value for name, value in metrics.items() if name != "step"}
        self._run.log(values, step=int(metrics["step"]))

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, module: Any, folder: Path, run: str) -> None:
        self._client, mark = module.MlflowClient(), {PROJECT: _key(folder)}
        place = self._experiment()
        found = self._client.search_runs([place], f"tags.{PROJECT} = '{mark[PROJECT]}'")
        first = found[0] if found else self._client.create_run(place, run_name=run, tags=mark)
        self._run = first.info.run_id

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(PROJECT)
        return found.experiment_id if found else self._client.create_experiment(PROJECT)

    def log(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run, name, value, step=int(metrics["step"]))

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _key(folder: Path) -> str:
    """Returns a key of the training's folder, by which a continued training finds its run again."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


class SafeTracker:
    """A tracker that stops no training: a failure becomes a warning and ends its metrics."""

    def __init__(self, name: str, begin: Callable[[], Tracker]) -> None:
        """Open the tracker by calling ``begin``."""
        self._name = name
        self._tracker: Tracker | None = None
        self._tracker = self._tried(begin)

    def log(self, metrics: Metrics) -> None:
        """Send one step's numbers, if the tracker still works."""
        if (tracker := self._tracker) is not None:
            self._tried(lambda: tracker.log(metrics))

    def close(self) -> None:
        """End the tracker's run, if it still works."""
        if (tracker := self._tracker) is not None:
            self._tried(tracker.close)

    def _tried(self, do: Callable[[], T]) -> T | None:
        try:
            return do()
        except Exception as error:  # a client's, a service's or the network's own
            self._tracker = None
            text = f"tracker {self._name}: {reason(error)}; it gets no more metrics"
            warnings.warn(f"{text}, the training continues", RuntimeWarning, stacklevel=3)
            return None


_MODULES: dict[str, tuple[str, Callable[[Any, Path, str], Tracker]]] = {
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
    "wandb": ("wandb", _WandbLike),
    "trackio": ("trackio", _WandbLike),
    "mlflow": ("mlflow", _MLflow),
}


def open_tracker(name: TrackerName, *, folder: Path, run: str) -> Tracker:
    """Returns a tracker for the training in ``folder``, called ``run``; its package is imported
    only now.

    TensorBoard and W&B write to the folder, the others to where their own variables say. A
    continued training continues its run, and may send some steps a second time. Raises SoftmapError
    for a package that is not installed; what fails later is a warning.
    """
    check_trackers([name])
    module, kind = _MODULES[name]
    return SafeTracker(name, lambda: kind(importlib.import_module(module), folder, run))


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise SoftmapError for trackers whose packages are not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SoftmapError(
                f"tracker {name}: expected its package to be installed (pip install {name}), found "
                "none"
            )
