"""What is checked before a graft is trained: model, text, variants, and what they change."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from softmap.data import Corpus, order, prepare
from softmap.errors import SoftmapError
from softmap.evals.catalogue import suite
from softmap.evals.question import Setting
from softmap.lab import recipe as recipes
from softmap.lab.grafting.job import PLAIN, tuning_split
from softmap.lab.grafting.source import GraftSource
from softmap.lab.grafting.start import WINDOWS, Start, starts
from softmap.lab.jobs import Tell
from softmap.lab.preflight import choose_device, refuse_textual, with_precision
from softmap.lab.recipe import Recipe

CONTEXT = 256  #: tokens per window, where the model can read that many

RECIPE = """\
training: {steps: 300, batch_size: 8, schedule: wsd, budgets: [1], decay_fraction: 0.2,
  warmup: 0.05}
"""


@dataclass(frozen=True)
class GraftRequest:
    """The values of the command.

    Attributes:
        layers: layers of transformers' models, None for all.
        peaks: rates to choose each arm's from, on text that the results are not trained on; a
            single one is used as it is.
        settings: settings of ``training``, by name.
    """

    source: GraftSource
    to: Sequence[str]
    layers: Sequence[int] | None = None
    data: str = "stdlib"
    field: str = "text"
    seeds: int = 3
    steps: int | None = None
    peaks: Sequence[float] = (1e-4,)
    context: int | None = None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    jobs: int | None = None
    suites: Sequence[str] = ("loss",)
    quick: bool = False
    cache: Path = Path("runs/.cache")
    command: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A request with its model, text and variants loaded and checked."""

    recipe: Recipe
    corpus: Corpus
    parameters: int
    starts: list[Start]


def prepare_graft(request: GraftRequest, tell: Tell = lambda _: None) -> Prepared:
    """Load the model and the text, put each variant in, and measure what that changes at step 0.

    Raises ``SoftmapError`` for whatever cannot be trained. Nothing is written but the text's tokens
    in the cache.
    """
    _check_arms(request.to)
    subject = request.source.subject(torch.device("cpu"))
    parameters = sum(p.numel() for p in subject.model.parameters())
    recipe = with_precision(_recipe(request, subject.context))
    device = choose_device(recipe.training.device)
    for name in request.suites:
        setting = Setting(recipe.model.context, subject.vocabulary)
        suite(name).check(subject, setting)
    del subject
    gc.collect()
    corpus = prepare(request.source.data(request.data, request.field), request.cache)
    context, rows = recipe.model.context, recipe.training.batch_size
    order.require(len(corpus.train), context, rows, f"{request.data}: the training text")
    order.require(len(corpus.heldout), context, what=f"{request.data}: the held-out text")
    if len(request.peaks) > 1:
        tuning_split(corpus, context, rows)
    windows = order.windows(corpus.heldout, context, WINDOWS)
    found = []
    for start in starts(request.source, request.to, request.layers, windows, device):
        found.append(start)
        for line in start.lines():
            tell(line)
    return Prepared(recipe, corpus, parameters, found)


def _check_arms(to: Sequence[str]) -> None:
    if not to:
        raise SoftmapError("--to: expected one or more variants, found none")
    for name in to:
        if to.count(name) > 1 or name == PLAIN:
            raise SoftmapError(f"--to: expected each variant once, found {name!r} again")


def _recipe(request: GraftRequest, longest: int) -> Recipe:
    """Returns the training of all arms, for a model that reads ``longest`` tokens."""
    _check_settings(request)
    context = request.context or min(CONTEXT, longest)
    if request.context is not None and 1 < longest < context:
        raise SoftmapError(f"--context: the model reads at most {longest} tokens, found {context}")
    given = dict(request.settings)
    if request.steps is not None:
        given["training.steps"] = str(request.steps)
    recipe = recipe_of(given, context)
    refuse_textual(recipe, "graft")
    return recipe


def recipe_of(settings: Mapping[str, str], context: int) -> Recipe:
    """Returns the recipe of a fine-tuning with these settings, on windows of ``context`` tokens."""
    return recipes.parse(RECIPE, Path("graft"), {**settings, "model.context": str(context)})


def _check_settings(request: GraftRequest) -> None:
    for key in request.settings:
        if not key.startswith("training."):
            raise SoftmapError(
                f"--set {key}: expected a value of training, such as training.batch_size=4; the "
                "model is fixed"
            )
        if key == "training.peak_lr":
            raise SoftmapError(f"--set {key}: expected --peak-lr or --peaks")
    if request.steps is not None and "training.steps" in request.settings:
        raise SoftmapError("--set training.steps: given with --steps, expected one of them")
