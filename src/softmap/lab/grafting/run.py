"""Fine-tunes a model unchanged and with grafts, at equal steps and seeds, and compares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.lab import files, workers
from softmap.lab.asking.models import ModelFolder
from softmap.lab.asking.run import EvalRequest, ask
from softmap.lab.engine import Engine
from softmap.lab.grafting.job import PLAIN, GraftJob, run_job
from softmap.lab.grafting.preparation import GraftRequest, Prepared, prepare_graft
from softmap.lab.jobs import best_peaks, run_all
from softmap.lab.names import is_run
from softmap.lab.plan import slug, training_options
from softmap.lab.preflight import PER_PARAMETER, choose_device
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe
from softmap.lab.trial import fingerprint

TUNING_SEED = 1000  #: the seed of trainings that choose a peak; results do not use it


def graft(request: GraftRequest, folder: Path, display: Display | None = None) -> dict[str, Any]:
    """Fine-tune the arms and ask the models.

    Returns what [`softmap.lab.asking.run.ask`][] does, with ``graft`` (what each arm changes at
    step 0), ``peaks`` and ``diverged``. ``folder`` keeps each training: finished ones are not
    repeated, interrupted ones are continued. Raises ``SoftmapError`` for bad input before anything
    is trained, ``Interrupted`` after Ctrl-C.
    """
    if is_run(folder):
        raise SoftmapError(f"{folder}: expected a separate folder, found a run; use another --name")
    display = display or Display()
    ready = prepare_graft(request, display.note)
    with files.lock(folder):
        with display:
            given = ready.recipe.training
            display.plan({}, given.steps, given.batch_size * ready.recipe.model.context)
            tuning = _jobs(request, ready, folder, [TUNING_SEED], None)
            several = tuning if len(request.peaks) > 1 else []
            tried = _train(several, request, ready, folder, display)
            peaks = best_peaks(tuning, tried, display.note)
            trials = _jobs(request, ready, folder, range(request.seeds), peaks)
            out = _train(trials, request, ready, folder, display)
        lived = [job for job in trials if out[job]["loss"] is not None]
        if not any(job.label == PLAIN for job in lived):
            raise SoftmapError(
                f"{PLAIN}: every training diverged, so there is nothing to compare with; a smaller "
                "peak may help"
            )
        asked = _asked(request, ready.recipe, lived)
        found = ask(asked, display.note)
        more = {"peaks": peaks, "diverged": len(trials) - len(lived)}
        return found | more | {"graft": [start.plain() for start in ready.starts]}


def _jobs(
    request: GraftRequest,
    ready: Prepared,
    folder: Path,
    seeds: Sequence[int],
    peaks: dict[str, float] | None,
) -> list[GraftJob]:
    """Returns a job for each arm and seed at its peak, or at all peaks if ``peaks`` is None."""
    texts = {PLAIN: None, **{start.label: start.variant for start in ready.starts}}
    source = request.source
    common = GraftJob(
        source, PLAIN, None, request.layers, ready.recipe, source.data(request.data, request.field),
        request.cache, 0.0, 0, peaks is None, source.sums(), str(ready.corpus.meta["hash"]), folder,
    )  # fmt: skip
    return [
        _job(dataclasses.replace(common, label=label, variant=text, peak_lr=peak, seed=seed))
        for label, text in texts.items()
        for peak in ([peaks[label]] if peaks else request.peaks)
        for seed in seeds
    ]


def _job(job: GraftJob) -> GraftJob:
    """Returns the job with a folder that no other settings share.

    Raises ``SoftmapError`` for options that cannot be trained with.
    """
    training_options(job.recipe, job.peak_lr, job.seed, job.label)
    name = f"{job.peak_lr:g}-seed{job.seed}-{fingerprint(job.identity())[:8]}"
    return dataclasses.replace(job, folder=job.folder / slug(job.label) / name)


def _train(
    jobs: Sequence[GraftJob], request: GraftRequest, ready: Prepared, folder: Path, display: Display
) -> dict[GraftJob, dict[str, Any]]:
    device = choose_device(ready.recipe.training.device)
    count = request.jobs or workers.default_jobs(device, PER_PARAMETER * ready.parameters)
    return run_all(jobs, run_job, Engine(count), display, folder, device)


def _asked(request: GraftRequest, recipe: Recipe, lived: Sequence[GraftJob]) -> EvalRequest:
    return EvalRequest(
        [ModelFolder(job.label, f"seed{job.seed}", job.folder / "model") for job in lived],
        request.suites,
        quick=request.quick, context=recipe.model.context, data=request.data, field=request.field,
        device=recipe.training.device, trust_remote_code=request.source.trusted,
        command=request.command, cache=request.cache,
    )  # fmt: skip
