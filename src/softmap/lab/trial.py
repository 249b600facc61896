"""One trial: one variant with one seed, trained, evaluated, measured and recorded.

Its folder has ``trial.json`` (its identity, written first), ``train.jsonl`` and checkpoints while
it trains, ``eval-<i>.npz`` and ``budget-<i>.json`` as each decay ends, ``maps.npz``, ``model/``,
``answers.json`` where the recipe asks for more than the loss, and ``result.json``, written last:
once that file exists, the trial is finished. A training that diverged is also finished: its result
says so instead of what was measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers.utils import logging

from softmap.cost import of_device
from softmap.data import Corpus, order
from softmap.errors import SoftmapError
from softmap.evals.loss import mean_and_stderr, token_losses
from softmap.evals.maps import passage_maps
from softmap.evals.points import AFTER, BEFORE, keep
from softmap.evals.points import FOLDER as POINTS
from softmap.fields import check
from softmap.files import sealed
from softmap.hf import SoftmapForCausalLM
from softmap.lab import files, machine
from softmap.lab.card import model_card
from softmap.lab.explain import chosen
from softmap.lab.interrupts import Interrupted
from softmap.lab.peak_memory import PeakMemory
from softmap.lab.plan import PlannedModel, training_options
from softmap.lab.preflight import dtype_of
from softmap.lab.progress import OnStep
from softmap.lab.questions import ask
from softmap.lab.recipe import Recipe
from softmap.lab.start import load_start
from softmap.lab.workbench import Workbench, document_end
from softmap.report.load import BudgetFile, read_log, read_result
from softmap.train import NonFiniteLoss, Parallel, TrainingOptions, mean_rate, spent, train

WARM_UP = 20  #: steps whose speed says more about caches and allocations than about the model


class _MeasuredBudget(BudgetFile):
    peak_memory_bytes: int


@dataclass(frozen=True)
class Trial:
    """A variant with one seed, and its folder."""

    planned: PlannedModel
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """The label and the seed, for messages."""
        return f"{self.planned.label} seed {self.seed}"

    def identity(self, shared: Workbench) -> dict[str, Any]:
        """Returns everything that the result depends on."""
        mine = self.planned
        own = {"own": mine.own.given()} if mine.own else {}
        return {
            **shared.settings,
            **own,
            "variant": mine.spec,
            "intermediate_size": mine.config.intermediate_size,
            "peak_lr": mine.peak_lr,
            "seed": self.seed,
        }

    def result(self) -> dict[str, Any] | None:
        """Returns the finished result, or None; raises ``SoftmapError`` where its file is
        damaged.
        """
        path = self.folder / "result.json"
        if not os.path.lexists(path):
            return None
        try:
            return read_result(path)
        except SoftmapError as error:
            raise SoftmapError(f"{error}; remove {self.folder} to train it again") from None


def fingerprint(identity: dict[str, Any]) -> str:
    """Returns a short hash of a trial's identity."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build(planned: PlannedModel, seed: int, device: torch.device) -> Any:
    """Returns the freshly initialised model of the plan, a function of the seed."""
    torch.manual_seed(seed)
    model: torch.nn.Module = SoftmapForCausalLM(planned.config)
    return model.to(device)


def fit(
    model: Any,
    planned: PlannedModel,
    recipe: Recipe,
    corpus: Corpus,
    seed: int,
    folder: Path,
    parallel: Parallel | None = None,
    **hooks: Any,
) -> None:
    """Train a planned model on ``corpus``; continues from ``folder`` if it was begun there.

    The batches are a function of the seed and the step alone, the same for every variant and for
    any number of processes. Raises ``Interrupted`` when a signal stopped it; the checkpoint is on
    disk.

    Args:
        parallel: by default this process alone, by the recipe's layout.
    """
    given = _options(planned, recipe, seed)
    given = dataclasses.replace(
        given, run=planned.spec, data=corpus.meta["hash"],
        document_end=document_end(recipe, corpus),
    )  # fmt: skip

    parallel = parallel or Parallel(next(model.parameters()).device, recipe.parallel)
    rows = parallel.rows(given.batch_size)
    shape = {"batch_size": given.batch_size, "context": given.context}

    def batches(step: int) -> torch.Tensor:
        return torch.from_numpy(order.batch(corpus.train, seed=seed, step=step, rows=rows, **shape))

    load_start(model, recipe.training.start)
    fast = full_speed(planned, given, parallel)
    state = train(model, batches, given, folder, parallel=parallel, full_speed=fast, **hooks)
    if not state.finished:
        raise Interrupted(state.signal or signal.SIGINT)


def full_speed(planned: PlannedModel, given: TrainingOptions, parallel: Parallel) -> float | None:
    """Returns tokens per second at the peak of the GPUs, None where the device's peak is
    unknown.
    """
    if parallel.device.type != "cuda":
        return None
    gpu = of_device(torch.cuda.get_device_name(parallel.device))
    if gpu is None:
        return None
    flops = planned.costs(given.context)["flops_per_token"]
    return float(gpu.flops[given.precision] * parallel.ranks / flops)


def _options(planned: PlannedModel, recipe: Recipe, seed: int) -> TrainingOptions:
    name = f"{planned.label} seed {seed}"
    return training_options(recipe, planned.peak_lr, seed, name, planned.own)


class NonFiniteHeldOut(NonFiniteLoss):
    """Raised where the held-out loss was NaN or infinite but the training's was not."""

    def __init__(self, label: str, step: int, loss: float) -> None:
        self.found, self.label, self.step = f"held-out loss {loss:g}", label, step
        SoftmapError.__init__(
            self, f"{label}: expected a finite loss, found {self.found} at step {step}"
        )


def run_trial(
    trial: Trial,
    shared: Workbench,
    on_step: OnStep,
    parallel: Parallel | None = None,
    profile: bool = False,
) -> dict[str, Any]:
    """Train and measure one trial, continuing from where it stopped; returns its result.

    Args:
        parallel: the processes that train it together, each of which calls this; the first one
            writes.
        profile: whether a few steps are traced, to the trial's folder ``profile``.

    Where the training diverges, that is the result: ``diverged`` says at which step and what was
    found, and ``budgets`` is empty. Raises ``Interrupted`` when a signal stopped the training; its
    checkpoint is on disk.
    """
    parallel = parallel or Parallel(shared.device, shared.recipe.parallel)
    identity = trial.identity(shared)
    parallel.by_first(lambda: files.write_json(trial.folder / "trial.json", identity))
    began, before = time.perf_counter(), parallel.by_first(lambda: _seconds(trial))
    try:
        model = _trained(trial, shared, on_step, parallel, profile)
        _export(trial, shared, model, parallel)
        found = parallel.by_first(lambda: _measured(trial, shared))
    except NonFiniteLoss as error:
        found = {"diverged": {"step": error.step, "reason": error.found}, "budgets": []}
    found["whole_seconds"] = before + time.perf_counter() - began
    return parallel.by_first(lambda: _written(trial, shared, found))


def _written(trial: Trial, shared: Workbench, found: dict[str, Any]) -> dict[str, Any]:
    result = _described(trial, shared) | found | {"files": _sums(trial.folder)}
    files.write_json(trial.folder / "result.json", result)
    return result


def _trained(
    trial: Trial, shared: Workbench, on_step: OnStep, parallel: Parallel, profile: bool
) -> Any:
    with PeakMemory(shared.device) as memory:
        model = build(trial.planned, trial.seed, shared.device)
        evaluate = functools.partial(_evaluate, trial, shared, memory, parallel)
        keep = functools.partial(_keep, trial, shared, parallel)
        fit(
            model, trial.planned, shared.recipe, shared.corpus, trial.seed, trial.folder,
            parallel, on_step=on_step, on_budget=evaluate, on_decay=keep,
            profile=trial.folder / "profile" if profile else None,
        )  # fmt: skip
    return model


def _keep(
    trial: Trial,
    shared: Workbench,
    parallel: Parallel,
    index: int,
    model: Any,
    phase: str = BEFORE,
) -> None:
    """Keep a point where a decay begins or ends, if points are kept."""
    if shared.recipe.training.keep_points:
        whole = _whole(model, parallel)
        parallel.by_first(lambda: keep(whole, trial.folder / POINTS, index, phase))


def _evaluate(
    trial: Trial,
    shared: Workbench,
    memory: PeakMemory,
    parallel: Parallel,
    index: int,
    step: int,
    model: Any,
) -> None:
    """Compute held-out losses where a decay ends, and record what it took to get there."""
    memory.sample()
    _keep(trial, shared, parallel, index, model, AFTER)
    losses = _losses(model, shared, parallel)
    mean, _ = mean_and_stderr(losses)
    if not math.isfinite(mean):
        raise NonFiniteHeldOut(trial.name, step, mean)
    parallel.by_first(lambda: _keep_budget(trial, shared, memory, index, step, losses))
    memory.forget()


def _losses(model: Any, shared: Workbench, parallel: Parallel) -> np.ndarray:
    """Returns the token losses of the held-out windows, which are distributed over the ranks.

    Each rank gets the same number, since all take part in each other's forward passes.
    """
    size, count, end = shared.recipe.evaluation.batch_size, len(shared.windows), shared.document_end
    spread = np.arange(-(-count // parallel.ranks) * parallel.ranks).reshape(-1, parallel.ranks)
    mine = shared.windows[spread[:, parallel.rank] % count]
    every = parallel.together(lambda: token_losses(model, mine, batch_size=size, end=end))
    return np.stack(every, 1).reshape(spread.size, -1)[:count]


def _keep_budget(
    trial: Trial,
    shared: Workbench,
    memory: PeakMemory,
    index: int,
    step: int,
    losses: np.ndarray,
) -> None:
    recipe, file = shared.recipe, f"eval-{index}.npz"
    mean, stderr = mean_and_stderr(losses)
    files.write_arrays(trial.folder / file, losses=losses)
    tokens = step * recipe.training.batch_size * recipe.model.context
    segments = _options(trial.planned, recipe, trial.seed).plan()
    record = {
        "tokens": tokens,
        "spent": spent(segments, index) * tokens // step,
        "step": step,
        "seconds": _log(trial)[-1]["seconds"],
        "flops": tokens * trial.planned.costs(recipe.model.context)["flops_per_token"],
        "loss": mean,
        "stderr": stderr,
        "file": file,
        "peak_memory_bytes": memory.peak,
        "of": fingerprint(trial.identity(shared)),
        "files": sealed.checksums(trial.folder, [trial.folder / file]),
    }
    files.write_json(trial.folder / f"budget-{index}.json", record)


def _log(trial: Trial) -> list[dict[str, float]]:
    return read_log(trial.folder / "train.jsonl")


def _seconds(trial: Trial) -> float:
    """Returns what earlier calls have spent on the training."""
    with contextlib.suppress(SoftmapError, LookupError):  # none, or damage reported later
        return _log(trial)[-1]["seconds"]
    return 0.0


def _budgets(trial: Trial, count: int, mine: str) -> list[dict[str, Any]]:
    """Returns what was measured as each decay ended, for the trial with the fingerprint
    ``mine``.
    """
    paths = [trial.folder / f"budget-{index}.json" for index in range(count)]
    for path in paths:
        if not path.exists():
            raise SoftmapError(f"{path} is missing: restart the trial (--fresh)")
    return [_budget(path, mine) for path in paths]


def _budget(path: Path, mine: str) -> dict[str, Any]:
    found: dict[str, Any] = files.read_json(path)
    check(str(path), found, _MeasuredBudget)
    file = path.stem.replace("budget", "eval") + ".npz"
    if found.pop("of", mine) != mine or found["file"] != file:
        raise SoftmapError(
            f"{path}: expected the budget of {file}, found that of another trial or budget"
        )
    sealed.verify(path.parent, found.pop("files", {}), path)
    return found


def save_model(model: Any, folder: Path) -> None:
    """Save weights and configuration; raises ``SoftmapError`` where they cannot be written."""
    logging.disable_progress_bar()  # the run has its own display
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # raised for a full disk too
        raise SoftmapError(f"{folder}: cannot be written: {error}") from None


def _export(trial: Trial, shared: Workbench, model: Any, parallel: Parallel) -> None:
    def fill(folder: Path) -> None:
        save_model(whole, folder)
        shared.corpus.tokenizer.save(folder)
        files.write(folder / "README.md", card)
        sealed.seal_folder(folder)

    def write() -> None:
        files.write_arrays(trial.folder / "maps.npz", maps=maps)
        files.write_folder(trial.folder / "model", fill)
        if answers := ask(whole, shared, trial.name):
            files.write_json(trial.folder / "answers.json", answers)

    maps, whole = passage_maps(model, shared.passage), _whole(model, parallel)
    card = parallel.by_first(lambda: _card(trial, shared))
    parallel.by_first(write)


def _card(trial: Trial, shared: Workbench) -> str:
    given = dataclasses.replace(
        _options(trial.planned, shared.recipe, trial.seed), document_end=shared.document_end
    )
    mark, count = fingerprint(trial.identity(shared)), len(shared.recipe.training.budget_steps())
    return model_card(trial.planned, given, shared, _budgets(trial, count, mark))


def _whole(model: Any, parallel: Parallel) -> Any:
    """Returns the model with all of its tensors, on the first rank; other ranks' result is
    unusable.
    """
    if parallel.ranks == 1:
        return model
    tensors = _gathered(model, parallel)
    with torch.device("meta"):
        whole = SoftmapForCausalLM(model.config)
    if tensors:
        whole.load_state_dict(tensors, assign=True)
        whole.tie_weights()
    return whole


def _gathered(model: Any, parallel: Parallel) -> dict[str, torch.Tensor]:
    """Returns the model's tensors on the first rank's CPU, gathered one by one; none on the
    others.
    """
    found = {}
    for name, t in model.state_dict().items():
        whole = parallel.whole(t).cpu()
        if parallel.rank == 0:
            found[name] = whole
    return found


def _sums(folder: Path) -> sealed.Sums:
    """Returns sizes and hashes of the trial's other files; its folders have their own."""
    kept = [path for path in folder.iterdir() if path.is_file() and path.name != "result.json"]
    return sealed.checksums(folder, [path for path in kept if not path.name.startswith(".")])


def _described(trial: Trial, shared: Workbench) -> dict[str, Any]:
    """Returns the part of a result that every ended training has."""
    mine = trial.planned
    given = _options(mine, shared.recipe, trial.seed)
    log = _log(trial)
    median, spread = logged_speed(log)
    return {
        "variant": mine.label,
        "slug": mine.slug,
        "spec": mine.spec,
        "seed": trial.seed,
        "title": mine.title,
        "paper": mine.paper,
        "source": mine.source,
        "backbone": mine.config.model_config().resolved_backbone.changed(),
        "peak_lr": mine.peak_lr,
        "peak_lr_source": mine.peak_source,
        "peak_of": mine.key,
        "schedule": given.schedule,
        "mean_lr": mean_rate(given.plan()),
        **mine.costs(shared.recipe.model.context),
        "impl": chosen(
            mine.config, shared.recipe.model.context, shared.device, dtype_of(shared.recipe)
        ),
        "threads": torch.get_num_threads(),
        "tokens_per_second": median,
        "tokens_per_second_range": spread,
        "train_seconds": log[-1]["seconds"] if log else 0.0,
        "tokens": log[-1]["tokens"] if log else 0,
        "fingerprint": fingerprint(trial.identity(shared)),
        "finished": machine.now(),
    }


def logged_speed(
    log: Sequence[Mapping[str, float]],
) -> tuple[float | None, list[float] | None]:
    """Returns the median and the [10th, 90th] percentiles of the logged tokens per second.

    The first ``WARM_UP`` steps are left out, unless there are no others.
    """
    found = [line["tokens_per_second"] for line in log if line["step"] > WARM_UP]
    found = found or [line["tokens_per_second"] for line in log]
    if not found:
        return None, None
    low, middle, high = np.percentile(found, [10, 50, 90])
    return float(middle), [float(low), float(high)]


def _measured(trial: Trial, shared: Workbench) -> dict[str, Any]:
    """Returns the part of a result that only a finished training has."""
    mark = fingerprint(trial.identity(shared))
    budgets = _budgets(trial, len(shared.recipe.training.budget_steps()), mark)
    peak = max(budget.pop("peak_memory_bytes") for budget in budgets)
    return {
        "peak_memory_bytes": peak,
        "train_seconds": budgets[-1]["seconds"],
        "tokens": budgets[-1]["tokens"],
        "budgets": budgets,
        "model": sealed.checksums(trial.folder, [trial.folder / "model" / sealed.CHECKSUMS]),
    }
