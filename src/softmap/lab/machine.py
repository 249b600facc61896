"""Which machine, versions and commit a number was measured with."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch


def provenance(device: torch.device) -> dict[str, Any]:
    """Returns when, from which commit, with which versions and on what a number was measured."""
    return {
        "created": now(),
        "commit": commit(),
        "versions": versions(),
        "device": device_facts(device),
    }


def device_facts(device: torch.device) -> dict[str, Any]:
    """Returns kind, name, cores, threads and memory of the device."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        own: dict[str, Any] = {"name": found.name, "memory_bytes": found.total_memory}
    else:
        own = {"name": _cpu_name(), "memory_bytes": psutil.virtual_memory().total}
    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    return {"kind": device.type, "cores": cores, "threads": torch.get_num_threads(), **own}


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "triton", "transformers", "tokenizers", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> str | None:
    """Returns the commit of the running source tree, with ``+`` if it was changed; None
    elsewhere.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """Returns the time in ISO 8601 with its zone."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
