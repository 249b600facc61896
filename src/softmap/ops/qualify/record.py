"""Verdicts on disk: one small sealed file for each device, version, code and kind of call.

They are beside the native builds, in ``qualified`` of the folder of [`softmap.files.cache`][]. A
file that is cut short, altered, or of another key counts as missing and is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from softmap.errors import SoftmapError
from softmap.files import sealed, write
from softmap.files.cache import folder, locked
from softmap.ops.qualify.kind import CallKind
from softmap.ops.qualify.trial import Qualification

KEPT = 512  # files; each version of PyTorch, Triton, the driver and the kernels makes new ones
ENDINGS = 2  # of processes during the same trial after which the kernels are passed over


def machine(device: torch.device) -> dict[str, Any]:
    """Returns what a verdict depends on of the device and of PyTorch."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type != "cuda":
        return found | {"device": f"{device.type}, {platform.machine()}"}
    capability = torch.cuda.get_device_capability(device)
    return found | {
        "device": torch.cuda.get_device_name(device),
        "capability": f"{capability[0]}.{capability[1]}",
        "driver": driver(),
    }


def driver() -> str | None:
    """Returns the version of the GPU's driver: that of the kernel module, else the one that
    CUDA reports.
    """
    with contextlib.suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    with contextlib.suppress(AttributeError, RuntimeError):
        return str(torch._C._cuda_getDriverVersion())  # type: ignore[attr-defined]
    return None


def key_of(backend: ModuleType, kind: CallKind) -> dict[str, Any]:
    """Returns all that a verdict depends on, as plain JSON."""
    about = machine(torch.device(kind.device))
    own = {name: value for name, value in kind._asdict().items() if name != "device"}
    return json.loads(json.dumps({**about, **own, **backend.made_of(kind)}))  # type: ignore[no-any-return]


def path_of(key: dict[str, Any]) -> Path:
    """Returns the path of the verdict for ``key``."""
    text = json.dumps(key, sort_keys=True).encode()
    return folder() / "qualified" / f"{hashlib.sha256(text).hexdigest()[:24]}.json"


def read(key: dict[str, Any]) -> Qualification | None:
    """Returns the verdict for ``key``, or None where there is none that can be trusted."""
    try:
        found = sealed.read_object(path_of(key))
        seal = found.pop(sealed.SEAL, None)
        if seal != sealed.seal(found) or found["key"] != key:
            return None
        why, errors = found["why"], found["errors"]
        if not (why is None or isinstance(why, str)) or not isinstance(errors, dict):
            return None
        return Qualification(why, True, float(found["seconds"]), float(found["first"]), errors)
    except (SoftmapError, OSError, KeyError, TypeError, ValueError):
        return None


def keep(key: dict[str, Any], trial: Qualification) -> bool:
    """Write the verdict; returns whether it could be written."""
    finite = {size: {n: [_number(e) for e in pair] for n, pair in of.items()}
              for size, of in trial.errors.items()}  # fmt: skip
    found = {"key": key, "why": trial.why, "seconds": trial.seconds, "first": trial.first}
    try:
        sealed.write_sealed(path_of(key), {**found, "errors": finite})
        _forget_old(path_of(key).parent)
        return True
    except (SoftmapError, OSError):
        return False


def _number(error: float) -> float | None:
    return error if error < float("inf") else None


def _forget_old(at: Path) -> None:
    by_age = sorted(at.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in by_age[KEPT:]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(key: dict[str, Any]) -> Iterator[None]:
    """Let one process at a time try the kernels of ``key``; if the folder cannot be written,
    each its own. Keys that share a few letters share a lock, so that the locks stay few.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            at = folder() / "qualified"
            at.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(at / f"lock-{path_of(key).name[:2]}"))
        yield


@contextlib.contextmanager
def attempt(key: dict[str, Any]) -> Iterator[int]:
    """Returns how many processes have ended while they tried this kind: their marks are still
    there.

    A kernel may crash its process, and would do so again at every start.
    """
    mark = path_of(key).with_suffix(".trying")
    before = _count(mark)
    with contextlib.suppress(SoftmapError):
        write(mark, str(before + 1))
    try:
        yield before
    finally:
        with contextlib.suppress(OSError):
            mark.unlink(missing_ok=True)


def _count(mark: Path) -> int:
    try:
        return int(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
