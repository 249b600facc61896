"""Kernels are tested on the machine that they run on before ``auto`` uses them.

    first call of a kind -> small seeded calls beside float64 -> a verdict on disk

The kind of a call ([`CallKind`][]) is all that its code depends on: device, edits, heads, widths,
dtype, masks. On the first call of a kind the backend's kernels run a few small calls like it; the
output and every gradient must be as close to float64 as [`softmap.ops.precision`][] says. What
passes is used from then on, by every process; what fails or raises is reported once on stderr and
passed over for good.

A backend that needs this has ``made_of(kind)``, what else its code depends on, and
``trials(kind)``, the (queries, keys) of the small calls. ``SOFTMAP_QUALIFY=off`` tries nothing and
takes what has qualified before; ``now`` tries once more in each process, whatever is on disk.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from softmap.errors import SoftmapError, shown
from softmap.ops.call import Call
from softmap.ops.qualify import record
from softmap.ops.qualify.kind import CallKind, kind_of, known, spelled
from softmap.ops.qualify.trial import Qualification, lost, tried

MODES = ("", "off", "now")
_LOCK = threading.RLock()
_VERDICTS: dict[tuple[str, CallKind], Qualification] = {}


def _fork() -> None:
    """Replace the lock in a forked child, which has none of the threads that may hold it."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork)


def why_not(backend: ModuleType, call: Call) -> str | None:
    """Returns why ``auto`` must not take the backend's kernels for the call, or None: they
    qualified.
    """
    kind = kind_of(backend, call)
    if torch.compiler.is_compiling():
        return _recalled(*kind)
    return _said(verdict(backend, call, kind))


def verdict(backend: ModuleType, call: Call, kind: CallKind) -> Qualification:
    """Returns the verdict on the kernels for calls like this one, recalled or tried now.

    Raises ``ValueError`` for another value of ``SOFTMAP_QUALIFY``, and where a kernel left the GPU
    unusable.
    """
    at = mode()
    if not known(kind):
        return Qualification("symbolic sizes")
    if (at, kind) not in _VERDICTS:
        found = _found(backend, call, kind, at)
        if found.why in _LATER:
            return found
        _VERDICTS[at, kind] = found
    return _VERDICTS[at, kind]


def mode() -> str:
    """Returns the value of ``SOFTMAP_QUALIFY``; raises ``ValueError`` for an unknown one."""
    given = os.environ.get("SOFTMAP_QUALIFY", "")
    if given not in MODES:
        raise SoftmapError(f"SOFTMAP_QUALIFY: expected off, now or nothing, found {shown(given)}")
    return given


# Where nothing can be tried, for the moment.
_BACKWARD, _CAPTURE = "inside a backward pass", "inside the capture of a CUDA graph"
_LATER = (_BACKWARD, _CAPTURE)


def _found(backend: ModuleType, call: Call, kind: CallKind, at: str) -> Qualification:
    key = record.key_of(backend, kind)
    before = None if at == "now" else record.read(key)
    if before is not None:
        return before
    why = "SOFTMAP_QUALIFY=off" if at == "off" else _hindered(call)
    if why is not None:  # and another thread's trial is not waited for
        return Qualification(why)
    with _LOCK, record.alone(key):
        # Another thread or process may have tried it while this one waited.
        before = _VERDICTS.get((at, kind)) or (None if at == "now" else record.read(key))
        if before is None:
            before = _VERDICTS[at, kind] = _try(backend, call, kind, key)
        return before


def _try(backend: ModuleType, call: Call, kind: CallKind, key: dict[str, object]) -> Qualification:
    with record.attempt(key) as endings:
        if endings >= record.ENDINGS:
            found = Qualification(f"{endings} processes ended while they tried it", tried=True)
        else:
            found = tried(backend, call, kind)
        kept = found.tried and record.keep(key, found)
    _say(f"{_line(found, kind, key)}{'' if kept or not found.tried else ' (it cannot be kept)'}")
    if found.why is not None and lost(call.q.device):
        raise SoftmapError(
            f"the {_name(kind)} kernels of {spelled(kind)} made the GPU unusable for this process: "
            f"{found.why}; start it again, they will be passed over"
        )
    return found


def _line(found: Qualification, kind: CallKind, key: dict[str, object]) -> str:
    what = f"the {_name(kind)} kernels of {spelled(kind)} on {key['device']}"
    if found.why is not None:
        return f"passing over {what}: {found.why}"
    return (
        f"qualified {what} against float64 in {found.seconds:.1f} s, {found.first:.1f} s of them "
        "the first run, which compiles"
    )


def _say(text: str) -> None:
    print(f"softmap: {text}", file=sys.stderr, flush=True)


def _name(kind: CallKind) -> str:
    return kind.backend.rpartition(".")[2].capitalize()


def _hindered(call: Call) -> str | None:
    """Returns what a trial would disturb, or wait for without end; None where it can run."""
    if torch._C._current_graph_task_id() != -1:
        return _BACKWARD
    if call.q.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _CAPTURE
    return None


def _said(found: Qualification) -> str | None:
    if found.why is None:
        return None
    did = "did not qualify" if found.tried else "have not been tried"
    return f"its kernels {did} on this machine: {found.why}"


def _recalled(*parts: object) -> str | None:
    """Returns the known verdict on a kind while a compiler traces: nothing can be tried then."""
    kind = CallKind(*parts)  # type: ignore[arg-type]
    at = mode()
    with _LOCK:
        found = _VERDICTS.get((at, kind))
        if found is None and at != "now":
            found = record.read(record.key_of(import_module(kind.backend), kind))
    found = found or Qualification(
        "a compiler is tracing: call it once outside of the compiler, or run softmap doctor"
    )
    if not found.tried and at != "off":
        _say_once(f"passing over the {_name(kind)} kernels of {spelled(kind)}: {found.why}")
    return _said(found)


_recalled._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _say_once(text: str) -> None:
    _say(text)
