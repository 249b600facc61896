"""Bytes of tensors that are alive while torch works, operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations allocate, until nothing refers to them any more.

        with LiveBytes(model.parameters()) as live:
            ...
        live.now, max(live.curve)

    ``curve`` has the bytes after each operation. What a C++ operation allocates and frees inside is
    not seen, so a measurement needs backends of torch's own operations. It also works for tensors
    without storage: on the device ``meta`` and under ``FakeTensorMode``.

    Args:
        known: tensors that existed before, and do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.curve: list[int] = []
        self._now = 0
        self._known = {_address(t): t for t in known}  # kept alive: no other takes an address
        self._sizes: dict[int, int] = {}
        self._changing: dict[int, weakref.ref[UntypedStorage]] = {}

    @property
    def now(self) -> int:
        """The bytes at this moment."""
        for address, ref in self._changing.items():
            if (storage := ref()) is not None:
                self._count(address, storage.nbytes())
        return self._now

    @property
    def peak(self) -> int:
        """The most bytes after an operation."""
        return max(self.curve, default=0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # FSDP2 resizes the storages that it gathers into, so their sizes are read again each time.
        changing = func.namespace == "fsdp"
        for leaf in tree_leaves((out, args, kwargs) if changing else out):
            for part in _parts(leaf):
                self._see(part.untyped_storage(), changing)
        self.curve.append(self.now)
        return out

    def _see(self, storage: UntypedStorage, changing: bool) -> None:
        address = storage._cdata
        if address in self._known:
            return
        if address not in self._sizes:
            self._count(address, storage.nbytes())
            weakref.finalize(storage, self._forget, address)
        if changing:
            self._changing[address] = weakref.ref(storage)

    def _count(self, address: int, size: int) -> None:
        self._now += size - self._sizes.get(address, 0)
        self._sizes[address] = size

    def _forget(self, address: int) -> None:
        self._now -= self._sizes.pop(address, 0)
        self._changing.pop(address, None)


def _parts(t: Any) -> Iterator[Tensor]:
    """Yields the tensors that have bytes: of a DTensor, what is on this rank.

    What is allocated and freed inside an operation of DTensors is not seen.
    """
    if is_traceable_wrapper_subclass(t):
        for name in t.__tensor_flatten__()[0]:
            yield from _parts(getattr(t, name))
    elif isinstance(t, Tensor):
        yield t


def _address(t: Tensor) -> int:
    return t.untyped_storage()._cdata
