"""A whole comparison: every variant on the same batches, and a page with the results.

Nothing that is finished is repeated: each trial writes ``result.json`` last, and an interrupted one
continues from its checkpoint. A run's folder belongs to one recipe and to one process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from softmap.files import sweep
from softmap.lab import files, workbench
from softmap.lab.costs import announce
from softmap.lab.folder import check_folder, check_same, clear
from softmap.lab.page import Page
from softmap.lab.peaks import find_peaks
from softmap.lab.plan import make_plan
from softmap.lab.preflight import preflight, with_precision
from softmap.lab.progress import Display
from softmap.lab.questions import check_suites
from softmap.lab.recipe import Recipe
from softmap.lab.request import Request, with_jobs
from softmap.lab.resolve import check_stages, resolve
from softmap.lab.session import Session
from softmap.lab.speed import measure_speed
from softmap.lab.timed import one_of_each, train_within


def compare(recipe: Recipe, request: Request, display: Display | None = None) -> Path:
    """Run a recipe, or continue it; returns the page's path.

    Raises ``SoftmapError`` for bad input before anything is trained; ``Interrupted`` after Ctrl-C
    or SIGTERM, when everything done so far is on disk and on the page.
    """
    began, wished = time.monotonic(), recipe.seeds
    if request.resolve is not None:
        check_stages(recipe)
    if request.seconds is not None:
        recipe = one_of_each(recipe)
    with opened(recipe, request, display or Display()) as session:
        request, display, page = session.request, session.display, session.page
        session.describe()
        with page:
            if request.speed or request.seconds is not None:  # first, to predict the rest
                measure_speed(session.folder, session.plan, session.shared, request.engine, display)
            if request.seconds is not None:
                train_within(session, wished, began)
            elif request.resolve is not None:
                resolve(session)
            else:
                session.write()
                waiting = session.waiting(session.trials())
                announce(session, waiting)
                session.train(waiting)
        return page.path


@contextlib.contextmanager
def opened(
    recipe: Recipe, request: Request, display: Display, page: type[Page] = Page
) -> Iterator[Session]:
    """Yield the recipe's folder, locked against other processes, with all that its trials need.

    Nothing is trained yet. Raises ``SoftmapError`` for whatever can be refused at this point.
    """
    recipe = with_precision(recipe)
    folder = request.out / recipe.name
    peaks = find_peaks(recipe, folder)
    preflight(recipe, display.note, peaks)
    with display, files.lock(folder):
        check_folder(folder)
        request.engine.check(folder, display.note)
        sweep(folder)
        corpus = workbench.corpus(recipe, request.out, display)
        plan = make_plan(recipe, corpus.tokenizer.vocab_size, peaks)
        shared = workbench.make(recipe, plan, corpus)
        check_suites(plan, shared)
        request = with_jobs(request, plan, shared)
        session = Session(folder, plan, shared, peaks, request, display, page(folder, display))
        if request.fresh:
            clear(folder)
        check_same(folder, session.trials(), shared, request.way_out)
        yield session
