"""One fine-tuning of a model: unchanged, or with a graft."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from softmap import files as whole
from softmap.data import Corpus, DataConfig, order, prepare
from softmap.evals.loss import token_losses
from softmap.files import sealed
from softmap.lab import files
from softmap.lab.grafting.source import GraftSource, put
from softmap.lab.interrupts import Interrupted
from softmap.lab.jobs import earlier_outcome
from softmap.lab.plan import training_options
from softmap.lab.preflight import choose_device
from softmap.lab.progress import OnStep
from softmap.lab.recipe import Recipe
from softmap.train import NonFiniteLoss, train

PLAIN = "plain"  #: the arm of the unchanged model
VALIDATION = 0.1  #: the share of the training text, at its end, on which peaks are compared
WINDOWS = 16  #: windows for the reported loss of a training

# Settings that change the speed, not the result.
_FREE = ("micro_batch_size", "compile", "device", "checkpoint_every", "log_every", "peak_lr")


@dataclass(frozen=True, eq=False)
class GraftJob:
    """A training of one arm with one seed at one peak.

    Attributes:
        variant: the variant that is put in, None for the unchanged model.
        tuning: whether the job only helps to choose a peak, on other text, and leaves no model.
        sums: checksums of the model's files.
        text: the hash of the text.
    """

    source: GraftSource
    label: str
    variant: str | None
    layers: Sequence[int] | None
    recipe: Recipe
    data: DataConfig
    cache: Path
    peak_lr: float
    seed: int
    tuning: bool
    sums: sealed.Sums
    text: str
    folder: Path

    @property
    def name(self) -> str:
        """The job's name in messages."""
        return f"{self.label} seed {self.seed} at {self.peak_lr:g}"

    def identity(self) -> dict[str, Any]:
        """Returns everything that the result depends on, in JSON's types."""
        found = {
            "model": self.sums, "variant": self.variant, "layers": self.layers, "text": self.text,
            "context": self.recipe.model.context, "peak_lr": self.peak_lr, "seed": self.seed,
            "tuning": self.tuning,
            "training": self.recipe.training.settings(_FREE),
        }  # fmt: skip
        return dict(json.loads(json.dumps(found, default=str)))

    def result(self) -> dict[str, Any] | None:
        """Returns the outcome of an earlier call, or None."""
        return earlier_outcome(self.folder / "grafted.json", self.identity())


def run_job(job: GraftJob, on_step: OnStep = lambda _: None) -> dict[str, Any]:
    """Train one model and keep it.

    Returns its loss on some held-out windows, None where it diverged.
    """
    logging.disable_progress_bar()
    device, context = choose_device(job.recipe.training.device), job.recipe.model.context
    given = training_options(job.recipe, job.peak_lr, job.seed, job.name)
    given = dataclasses.replace(given, run=f"graft {job.variant or PLAIN}", data=job.text)
    tokens, windows = _text(job, given.batch_size)
    model = initial_model(job, device)

    def batches(step: int) -> torch.Tensor:
        found = order.batch(
            tokens, seed=job.seed, step=step, batch_size=given.batch_size, context=context
        )
        return torch.from_numpy(found)

    try:
        state = train(model, batches, given, job.folder, on_step=on_step)
    except NonFiniteLoss:
        return _record(job, {"loss": None})
    if not state.finished:
        raise Interrupted(state.signal or 2)
    losses = token_losses(model.eval(), windows, batch_size=given.rows)
    if not job.tuning:
        _export(job, model)
    return _record(job, {"loss": float(losses.mean())})


def initial_model(job: GraftJob, device: torch.device) -> Any:
    """Returns the model before its first step; new weights are a function of the seed."""
    model = job.source.subject(device).model
    torch.manual_seed(job.seed)
    if job.variant is not None:
        put(model, job.variant, job.layers)
    return model


def _text(job: GraftJob, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens to train on, and windows for the reported loss."""
    corpus, context = prepare(job.data, job.cache), job.recipe.model.context
    if job.tuning:
        return tuning_split(corpus, context, rows)
    return order.parts_of(corpus.train)[0], order.windows(corpus.heldout, context, WINDOWS)


def tuning_split(corpus: Corpus, context: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training text without its end, and windows of that end.

    Raises ``SoftmapError`` where either is too short.
    """
    (tokens,) = order.parts_of(corpus.train)  # --data names one source
    cut = len(tokens) - max(context + 1, round(VALIDATION * len(tokens)))
    order.require(max(cut, 0), context, rows, "the training text without the part that tunes peaks")
    return tokens[:cut], order.windows(tokens[cut:], context, WINDOWS)


def _export(job: GraftJob, model: Any) -> None:
    def fill(folder: Path) -> None:
        with whole.writing(folder):
            model.save_pretrained(folder)
            job.source.copy_tokenizer(folder)
        sealed.seal_folder(folder)

    files.write_folder(job.folder / "model", fill)


def _record(job: GraftJob, out: dict[str, Any]) -> dict[str, Any]:
    files.write_json(job.folder / "grafted.json", out | {"identity": job.identity()}, seal=False)
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    return out
