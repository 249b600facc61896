"""The folder of what is made once for this machine and reused by every process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]


def folder() -> Path:
    """Returns ``$SOFTMAP_CACHE``, else ``softmap`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("SOFTMAP_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softmap"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time; the kernel releases it when that process dies."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
