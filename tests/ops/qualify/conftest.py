"""A folder for verdicts, and a stand-in for kernels that comes before all other backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stand_in

from softmap.ops import BACKENDS, attention, qualify


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SOFTMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOFTMAP_QUALIFY", raising=False)
    backends = {"stand_in": stand_in, **{name: BACKENDS[name] for name in ("chunked", "reference")}}
    monkeypatch.setitem(attention.__globals__, "BACKENDS", backends)
    forget()
    yield tmp_path / "cache" / "qualified"
    forget()


def forget() -> None:
    """As a new process would begin."""
    qualify._VERDICTS.clear()
    qualify._say_once.cache_clear()
    stand_in.seen.clear()


@pytest.fixture
def anew() -> Callable[[], None]:
    return forget
