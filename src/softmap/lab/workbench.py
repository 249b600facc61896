"""What all trials of a run share: text, held-out windows, settings, machine."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import softmap
from softmap.data import Corpus, order, prepare, skipped_files
from softmap.errors import SoftmapError
from softmap.evals.maps import passage
from softmap.evals.question import Setting
from softmap.evals.text import Text
from softmap.lab import machine
from softmap.lab.explain import chosen
from softmap.lab.plan import Plan, PlannedModel
from softmap.lab.preflight import choose_device, dtype_of
from softmap.lab.progress import Display, OnStep
from softmap.lab.recipe import Recipe
from softmap.lab.sections import FREE
from softmap.lab.start import check_start, start_hash

CACHE = ".cache"  #: the subfolder of all runs' folder with texts as tokens

Work = Callable[["Workbench", OnStep], dict[str, Any]]  #: a trial's work on the shared workbench
WithWorkbench = Callable[[Work, OnStep], dict[str, Any]]  #: a bench, as it is or packed


@dataclass(frozen=True)
class Workbench:
    """What all trials of a run share.

    Attributes:
        windows: (n, context + 1) held-out windows.
        passage: token ids whose maps are drawn.
        settings: everything that a result depends on and that is the same for all trials.
    """

    recipe: Recipe
    corpus: Corpus
    windows: np.ndarray
    passage: list[int]
    device: torch.device
    settings: dict[str, Any]

    @property
    def document_end(self) -> int | None:
        """The token between separated documents, as :func:`document_end` returns it."""
        return document_end(self.recipe, self.corpus)

    @functools.cached_property
    def setting(self) -> Setting:
        """The setting in which the suites of ``evaluation.suites`` are asked."""
        context, vocabulary = self.recipe.model.context, self.corpus.tokenizer.vocab_size
        return Setting(context, vocabulary, text=Text.of(self.corpus))

    def described(self, mine: PlannedModel, plan: Plan) -> str:
        """Returns a line on one of the plan's models."""
        total, context = mine.parameters["total"], self.recipe.model.context
        impl = chosen(mine.config, context, self.device, dtype_of(self.recipe))
        return (
            f"{mine.label}: {total:,} parameters ({100 * (total / plan.target - 1):+.2f} %), "
            f"MLP width {mine.config.intermediate_size}, peak {mine.peak_lr:g} "
            f"({mine.peak_source}), {impl}"
        )

    def __call__(self, work: Work, on_step: OnStep) -> dict[str, Any]:
        """Returns ``work`` done on this workbench, as a [`PackedWorkbench`][] does in another
        process.
        """
        return work(self, on_step)

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Returns what ``run.json`` says of the run's text, model and schedule."""
        given, shape = self.recipe.training, dataclasses.asdict(self.recipe.model)
        batch = given.batch_size * self.recipe.model.context
        kept = ("schedule", "steps", "precision", "decay_fraction", "decay_shape", "weight_decay")
        training = {name: getattr(given, name) for name in kept}
        return {
            "softmap_version": softmap.__version__,
            "commit": machine.commit(),
            "control": plan.control,
            "versions": machine.versions(),
            "data": dict(self.corpus.meta),
            "model": {**shape, "target_parameters": plan.target},
            "training": {
                **training,
                "budgets_tokens": [step * batch for step in given.budget_steps()],
                "batch_tokens": batch,
                "warmup": round(given.warmup * given.steps),
            },
            "passage": {
                "tokens": [self.corpus.tokenizer.token_str(token) for token in self.passage],
                "text": self.corpus.tokenizer.decode(self.passage),
            },
        }


def corpus(recipe: Recipe, out: Path, display: Display) -> Corpus:
    """Returns the recipe's text as tokens, made once and kept in ``out/.cache``.

    Raises ``SoftmapError`` where it is too short for one batch.
    """
    found = prepare(recipe.data, out / CACHE, display.preparing)
    if count := found.meta.get("skipped_files"):
        display.note(skipped_files(count, found.meta["skipped"]))
    context = recipe.model.context
    order.require(len(found.train), context, recipe.training.batch_size, "the training text")
    for one, text in zip(recipe.data.singly(), order.parts_of(found.train), strict=True):
        order.require(len(text), context, what=f"the training text of {one.name}")
    order.require(len(found.heldout), context, what="the held-out text")
    return found


def document_end(recipe: Recipe, corpus: Corpus) -> int | None:
    """Returns the token between documents that are separated; None where the recipe joins them."""
    return corpus.tokenizer.eod if recipe.training.separate_documents else None


def make(recipe: Recipe, plan: Plan, corpus: Corpus) -> Workbench:
    """Returns the workbench of a recipe on its text."""
    device = choose_device(recipe.training.device)
    check_start(recipe.training.start, plan.models, corpus)
    windows = order.windows(corpus.heldout, recipe.model.context, recipe.evaluation.windows)
    length = min(recipe.evaluation.passage_tokens, recipe.model.context)
    tokens = passage(corpus.heldout, corpus.tokenizer, length)
    settings = _settings(recipe, plan, corpus, len(windows), device)
    return Workbench(recipe, corpus, windows, tokens, device, settings)


def _settings(
    recipe: Recipe, plan: Plan, corpus: Corpus, windows: int, device: torch.device
) -> dict[str, Any]:
    model, suites = dataclasses.asdict(recipe.model), recipe.evaluation.suites
    start = recipe.training.start
    return {
        "softmap": softmap.__version__,
        "data": corpus.meta["hash"],
        "vocab_size": corpus.tokenizer.vocab_size,
        **{f"model.{name}": value for name, value in model.items()},
        **{f"training.{name}": value for name, value in recipe.training.settings(FREE).items()},
        "training.budgets": recipe.training.shares,
        "evaluation.windows": windows,
        "evaluation.passage_tokens": recipe.evaluation.passage_tokens,
        "control": plan.control,
        "target_parameters": plan.target,
        "device": device.type,
        **({"evaluation.suites": suites} if suites else {}),
        **({"training.start": start_hash(start)} if start else {}),
    }


@dataclass(frozen=True)
class PackedWorkbench:
    """A workbench for another process, which reads the text from the cache itself."""

    pickled: bytes
    cache: Path

    @classmethod
    def of(cls, shared: Workbench, out: Path) -> PackedWorkbench:
        """Returns the packed workbench; ``out`` is as for [`corpus`][]."""
        without = dataclasses.replace(shared, corpus=None)  # type: ignore[arg-type]
        return cls(pickle.dumps(without), out / CACHE)

    def __call__(self, work: Work, on_step: OnStep) -> dict[str, Any]:
        """Returns ``work`` done on the unpacked workbench."""
        return work(_unpacked(self), on_step)  # cached: a process often gets the same one again


@functools.lru_cache(maxsize=1)
def _unpacked(packed: PackedWorkbench) -> Workbench:
    found: Workbench = pickle.loads(packed.pickled)  # pickled by us, sent through a pipe
    text = prepare(found.recipe.data, packed.cache)
    if text.meta["hash"] != found.settings["data"]:
        raise SoftmapError(f"{found.recipe.data.name}: the text was changed during the run")
    return dataclasses.replace(found, corpus=text)
