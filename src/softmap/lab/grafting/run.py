"""Fine-tune a model as it is and with grafts, at equal steps and seeds, and compare them."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softmap.data import Corpus, order, prepare
from softmap.errors import SoftmapError
from softmap.evals.catalogue import suite
from softmap.evals.question import Setting
from softmap.lab import files, workers
from softmap.lab import recipe as recipes
from softmap.lab.asking.models import Model
from softmap.lab.asking.run import Asked, ask
from softmap.lab.grafting.job import PLAIN, Job, run_job, tuning_split
from softmap.lab.grafting.source import Source
from softmap.lab.grafting.start import WINDOWS, Start, starts
from softmap.lab.jobs import Tell, best_peaks, run_all
from softmap.lab.names import is_run
from softmap.lab.plan import options, slug
from softmap.lab.preflight import PER_PARAMETER, choose_device, settled
from softmap.lab.recipe import Recipe
from softmap.lab.trial import fingerprint

TUNING_SEED = 1000  #: of the trainings that choose a peak; no seed of the results
CONTEXT = 256  #: tokens a window, where the model can read them

RECIPE = """\
training: {steps: 300, batch_size: 8, schedule: wsd, budgets: [1], decay_fraction: 0.2,
  warmup: 0.05}
"""


@dataclass(frozen=True)
class Request:
    """What is asked for: the command's values.

    layers: of transformers' models, None for all. peaks: rates to choose each arm's from, on text
    that the results are not trained on; a single one is taken. settings: of ``training``, by name.
    """

    source: Source
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
    """A request whose model, text and variants have been looked at."""

    recipe: Recipe
    corpus: Corpus
    parameters: int
    starts: list[Start]


def look(request: Request, tell: Tell = lambda _: None) -> Prepared:
    """Load the model and the text, put each variant in, and measure what that changes at step 0.

    Raises ``SoftmapError`` for whatever cannot be trained. Nothing is written but the text's tokens
    in the cache.
    """
    _check_arms(request.to)
    subject = request.source.subject(torch.device("cpu"))
    parameters = sum(p.numel() for p in subject.model.parameters())
    recipe = settled(_recipe(request, subject.context))
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
    found = starts(request.source, request.to, request.layers, windows, device)
    for start in found:
        for line in start.lines():
            tell(line)
    return Prepared(recipe, corpus, parameters, found)


def graft(request: Request, folder: Path, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Fine-tune and ask; what :func:`softmap.lab.asking.run.ask` gives, with ``graft`` (what each
    has changed at step 0), ``peaks`` and ``diverged`` beside it.

    ``folder`` keeps each training: what was finished is not trained again, what was begun goes on.
    Raises ``SoftmapError`` for bad input before anything is trained, ``Interrupted`` after Ctrl-C.
    """
    if is_run(folder):
        raise SoftmapError(
            f"{folder}: expected a folder of its own, found a run; take another --name"
        )
    ready = look(request, tell)
    with files.lock(folder):
        tuning = _jobs(request, ready, folder, [TUNING_SEED], None)
        tried = _train(tuning if len(request.peaks) > 1 else [], request, ready, tell)
        peaks = best_peaks(tuning, tried, tell)
        trials = _jobs(request, ready, folder, range(request.seeds), peaks)
        out = _train(trials, request, ready, tell)
        lived = [job for job in trials if out[job]["loss"] is not None]
        if not lived:
            raise SoftmapError("graft: every training diverged; smaller --peaks may help")
        asked = _asked(request, ready.recipe, lived)
        found = ask(asked, tell)
        more = {"peaks": peaks, "diverged": len(trials) - len(lived)}
        return found | more | {"graft": [start.plain() for start in ready.starts]}


def _check_arms(to: Sequence[str]) -> None:
    if not to:
        raise SoftmapError("--to: expected one or more variants, found none")
    for name in to:
        if to.count(name) > 1 or name == PLAIN:
            raise SoftmapError(f"--to: expected variants, each once, found {name!r} again")


def _recipe(request: Request, longest: int) -> Recipe:
    """The training of all arms, for a model that reads ``longest`` tokens."""
    for key in request.settings:
        if not key.startswith("training."):
            raise SoftmapError(
                f"--set {key}: expected a value of training, such as training.batch_size=4: the "
                "model is given"
            )
    context = request.context or min(CONTEXT, longest)
    if request.context is not None and 1 < longest < context:
        raise SoftmapError(f"--context: the model reads at most {longest} tokens, found {context}")
    given = {**request.settings, "model.context": str(context)}
    if request.steps is not None:
        given["training.steps"] = str(request.steps)
    return recipes.parse(RECIPE, Path("graft"), given)


def _jobs(
    request: Request,
    ready: Prepared,
    folder: Path,
    seeds: Sequence[int],
    peaks: dict[str, float] | None,
) -> list[Job]:
    """A job for each arm and seed, at its peak; at all of them where those are to be chosen."""
    texts = {PLAIN: None, **{start.label: start.variant for start in ready.starts}}
    source = request.source
    common = Job(
        source, PLAIN, None, request.layers, ready.recipe, source.data(request.data, request.field),
        request.cache, 0.0, 0, peaks is None, source.sums(), str(ready.corpus.meta["hash"]), folder,
    )  # fmt: skip
    return [
        _job(dataclasses.replace(common, label=label, variant=text, peak_lr=peak, seed=seed))
        for label, text in texts.items()
        for peak in ([peaks[label]] if peaks else request.peaks)
        for seed in seeds
    ]


def _job(job: Job) -> Job:
    """The job in a folder that other settings do not share. Raises ``SoftmapError`` for options
    that cannot be trained with."""
    options(job.recipe, job.peak_lr, job.seed, job.label)
    name = f"{job.peak_lr:g}-seed{job.seed}-{fingerprint(job.identity())[:8]}"
    return dataclasses.replace(job, folder=job.folder / slug(job.label) / name)


def _train(
    jobs: Sequence[Job], request: Request, ready: Prepared, tell: Tell
) -> dict[Job, dict[str, Any]]:
    device = choose_device(ready.recipe.training.device)
    count = request.jobs or workers.default_jobs(device, PER_PARAMETER * ready.parameters)
    return run_all(jobs, run_job, count, tell, _words, device)


def _words(out: dict[str, Any]) -> str:
    return "diverged" if out["loss"] is None else f"held-out loss {out['loss']:.4f}"


def _asked(request: Request, recipe: Recipe, lived: Sequence[Job]) -> Asked:
    return Asked(
        [Model(job.label, f"seed{job.seed}", job.folder / "model") for job in lived],
        request.suites,
        quick=request.quick, context=recipe.model.context, data=request.data, field=request.field,
        device=recipe.training.device, trust_remote_code=request.source.trusted,
        command=request.command, cache=request.cache,
    )  # fmt: skip
