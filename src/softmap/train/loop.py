"""The training loop, in one function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from softmap.errors import SoftmapError
from softmap.files import writing
from softmap.train import rng
from softmap.train.checkpoint import FOLDER, Checkpoints
from softmap.train.exact import Fingerprint, check_resumed, fingerprint
from softmap.train.jsonl import JsonlTracker, Sum
from softmap.train.optim import optimizer_of
from softmap.train.options import TrainingOptions, check_same_run
from softmap.train.parallel import Parallel, single_process
from softmap.train.plan import START, Position, pinned
from softmap.train.profile import profiled
from softmap.train.signals import StopRequest
from softmap.train.state import BudgetsDone, State
from softmap.train.step import Batch, train_step, warm_up
from softmap.train.trackers import Tracker, open_tracker

UNSIGNALLED = 1 << 16  #: larger than any signal: ``should_stop`` returned True


class NonFiniteLoss(SoftmapError):
    """Raised where the loss or the gradient norm was NaN or infinite; the update was not made.

    ``found`` says in words what was not finite.
    """

    def __init__(self, label: str, step: int, loss: float, norm: float, checkpoint: str) -> None:
        self.found = f"loss {loss:g} and gradient norm {norm:g}"
        super().__init__(
            f"{label}: expected a finite loss, found {self.found} at step {step}; "
            f"last good checkpoint: {checkpoint}"
        )
        self.label, self.step, self.checkpoint = label, step, checkpoint


def train(
    model: nn.Module,
    batches: Callable[[int], Batch],
    options: TrainingOptions,
    directory: str | Path,
    *,
    on_step: Callable[[dict[str, float]], None] | None = None,
    on_budget: Callable[[int, int, nn.Module], None] | None = None,
    on_decay: Callable[[int, nn.Module], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    trackers: Sequence[Tracker] = (),
    parallel: Parallel | None = None,
    full_speed: float | None = None,
    profile: Path | None = None,
) -> State:
    """Train ``model`` in place by ``options``, or continue the training that ``directory`` holds.

    Args:
        model: ``model(input_ids=, labels=)`` returns an object with ``.loss``, the mean next-token
            loss in nats; labels come unshifted, -100 marks no target. It sees context + 1 tokens
            per row.
        batches: returns the batch of a step, as a pure function of the step: int64 (batch_size,
            context + 1). With several ranks each returns its own ``parallel.rows``.
        directory: gets ``checkpoints/``, ``train.jsonl``, ``budgets.json``, and ``resumes.jsonl``
            with what was compared at each resume. All ranks see it.
        on_step: called every ``log_every`` steps and at the end of each segment with the metrics
            that go to train.jsonl: segment, step, tokens, seconds, loss, lr, grad_norm,
            tokens_per_second.
        on_budget: called as ``(index, step, model)`` when a budget's last step is made and saved,
            with the model in eval mode. Random numbers that it draws do not affect the training. It
            is called again after a resume only if it had not returned.
        on_decay: called as ``(index, model)`` before the first step of a budget's decay, for
            schedules that have one; it must leave the model unchanged. It is called again after a
            resume from there.
        should_stop: asked before each step; True saves and returns, as do SIGINT, SIGTERM and
            SIGHUP (a second Ctrl-C raises KeyboardInterrupt at once).
        trackers: receivers of the metrics beside those that the options name; the caller closes
            them.
        parallel: the processes that train the model together; each calls this with the same model,
            options and directory. The first process alone writes metrics and calls trackers and
            ``on_step``; callbacks of budgets run on all. The default is this process alone.
        full_speed: tokens per second at the peak of the hardware, where that is known; metrics then
            have ``mfu``, the model FLOPs utilisation.
        profile: a folder for torch's traces of a few steps, one per rank.

    Before the first step of a call the model runs forward and backward once without an update, so
    that one-time costs (kernels to build, graphs to compile) are in no step's seconds.

    An interrupted and resumed run ends with the same bits as an uninterrupted one on the same
    device with the same number of threads. The global random states are seeded, and are not
    restored.

    Raises SoftmapError (a checkpoint of another model or other options, a batch of another shape, a
    full disk) and NonFiniteLoss.
    """
    directory = Path(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    parallel = parallel or single_process(model)
    segments = options.plan()
    forward = parallel.wrap(model, compile=options.compile, precision=options.precision)
    optimizer = optimizer_of(model, options)
    tokens_per_step = options.batch_size * options.context
    checkpoints = Checkpoints(directory / FOLDER, options.keep, parallel)
    state = State()
    saved: Position | None = None
    logged: Sum | None = None
    log: JsonlTracker | None = None
    told = list(trackers)
    done: Any = ()
    warm = False

    def now() -> Fingerprint:
        segment = segments[state.segment]
        if state.step == segment.stop:
            return fingerprint(model, optimizer, None, None, parallel)
        coming = batches(state.step), segment.lr(state.step)
        return fingerprint(model, optimizer, *coming, parallel)

    def save() -> None:
        nonlocal saved
        if saved != state.position:
            pins = pinned(segments, state.segment)
            record = state.record(options) | {"log": log.sum if log else None}
            checkpoints.save(state.position, model, optimizer, record, pins, now())
            saved = state.position

    def restore(path: Path) -> None:
        nonlocal state
        state = State.from_record(checkpoints.load(path, model, optimizer))
        place = {"segment": state.segment, "step": state.step}
        own, lines = checkpoints.own(path), directory / "resumes.jsonl"
        check_resumed(now(), own, place, parallel, lines)

    latest = checkpoints.latest()
    if latest is not None:
        path, record = latest
        check_same_run(record["options"], options, str(path))
        restore(path)
        saved, logged = state.position, record.get("log")
    else:
        rng.seed(options.seed + parallel.rank)
        if START in pinned(segments, 0):
            save()

    def open_files() -> None:  # on the first rank alone
        nonlocal log, done
        done = BudgetsDone(directory / "budgets.json", fresh=latest is None)
        log = JsonlTracker(directory / "train.jsonl", state.position, logged)
        opened.callback(log.close)
        for name in options.trackers:
            told.append(open_tracker(name, folder=directory, run=options.label))
            opened.callback(told[-1].close)

    def due(budget: int) -> bool:
        return budget not in done

    def evaluated(budget: int) -> None:
        done.add(budget)

    with StopRequest() as interrupt, ExitStack() as opened:
        parallel.by_first(open_files)
        traced = opened.enter_context(profiled(profile, parallel.rank))
        for index in range(state.segment, len(segments)):
            segment = segments[index]
            if index > state.segment:
                if segment.origin != state.position:
                    restore(checkpoints.path(segment.origin))
                state.segment = index
            model.train()

            while True:
                asked = UNSIGNALLED if should_stop is not None and should_stop() else 0
                if stop := parallel.largest(interrupt.signal or asked):
                    save()
                    state.signal = None if stop == UNSIGNALLED else stop
                    return state
                if state.step == segment.stop:
                    break
                if not warm:
                    warm_up(forward, model, batches(state.step), options, parallel)
                    warm = True
                if on_decay is not None and state.step == segment.decay:
                    on_decay(int(segment.budget or 0), model)
                began = time.perf_counter()
                lr = segment.lr(state.step)
                batch = batches(state.step)
                loss, norm = train_step(forward, optimizer, batch, lr, options, parallel)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    good = parallel.by_first(checkpoints.last_good)
                    raise NonFiniteLoss(options.label, state.step, loss, norm, good)
                state.advance(loss, norm, time.perf_counter() - began, tokens_per_step)
                if traced is not None:
                    traced()

                last = state.step == segment.stop
                if last or state.step % options.log_every == 0:
                    metrics = state.metrics(lr, tokens_per_step, full_speed)
                    for tracker in (log, *told) if log else ():
                        tracker.log(metrics)
                    if log and on_step is not None:
                        on_step(metrics)
                if last or (
                    options.checkpoint_every and state.step % options.checkpoint_every == 0
                ):
                    save()

            budget = segment.budget
            if budget is not None and parallel.by_first(partial(due, budget)):
                if on_budget is not None:
                    with rng.preserved():
                        model.eval()
                        on_budget(budget, state.step, model)
                        model.train()
                parallel.by_first(partial(evaluated, budget))
    state.finished = True
    return state
