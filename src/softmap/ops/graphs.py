"""Functions of tensors, traced and compiled once per shape, and shared by equal edits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError, reason

Function = Callable[..., Sequence[Tensor | None]]

# Compiled functions by what they are made from, and by the operations that this comes to: layers
# whose edits differ in something that no band reads (a lambda_init) meet in the second.
_BY_KEY: dict[Hashable, Function] = {}
_BY_TEXT: dict[Hashable, Function] = {}

_OF_MODULE = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (int, float, complex, str, bytes, bool, type, type(None), torch.dtype)
# Fused with a store that changes the layout, Inductor's vectorised scatter-add may write to a wrong
# place (torch 2.13, pytorch #191837); without vectors it does not.
_SCATTERS = ("index_put", "index_add", "scatter_add", "scatter_reduce", "embedding_dense_backward")


@cache
def missing_compiler(device: str) -> str | None:
    """Returns what is missing to compile for this kind of device, or None."""
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, OSError, RuntimeError):
            return "it needs a C++ compiler (g++ or clang++; CXX names another), found none"
        return None
    from torch.utils._triton import has_triton

    return None if has_triton() else f"it needs Triton to compile for {device}, found none"


class _Same:
    """A key that equals only itself; it keeps its object alive, so that the address stays
    unique.
    """

    def __init__(self, of: object) -> None:
        self.of = of

    def __hash__(self) -> int:
        return id(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.of is self.of


def nature(value: Any, handed: Iterable[Tensor] = ()) -> Hashable:
    """Returns all that a pure function of ``value`` may read beside the tensors that it is
    ``handed``.

    Modules are alike if their types, options and members are. Parameters do not count, since an
    edit reads none (one that does is found in its graph). Frozen parameters, which could not be
    found there, and buffers do count, unless they are passed as tensors.
    """
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if isinstance(value, (tuple, list)):
        return (type(value), tuple(nature(v, handed) for v in value))
    if isinstance(value, dict):
        return (dict, tuple((nature(k), nature(v, handed)) for k, v in value.items()))
    if isinstance(value, Tensor):
        known = any(value is t for t in handed)
        return None if known else (_Same(value), value._version)
    if not isinstance(value, nn.Module):
        return _Same(value)
    own = {n: v for n, v in vars(value).items() if n not in _OF_MODULE}
    frozen = {n: p for n, p in value._parameters.items() if p is None or not p.requires_grad}
    return (type(value), nature([own, frozen, value._buffers, value._modules], handed))


def meta(t: Tensor) -> Hashable:
    """Returns what a compiled function assumes of an input."""
    return (t.shape, t.stride(), t.dtype, t.device)


def compiled(key: Hashable, function: Function, inputs: list[Tensor], what: str) -> Function:
    """Returns ``function`` of flat ``inputs``, compiled at the first call with ``key``.

    The result takes tensors of the key's shapes. ``what`` names the function in errors.
    """
    if key not in _BY_KEY:
        with torch.no_grad():
            _BY_KEY[key] = _compile(function, inputs, what)
    return _BY_KEY[key]


def _compile(function: Function, inputs: list[Tensor], what: str) -> Function:
    from torch._inductor import compile as inductor

    try:
        graph = _trace(function, inputs)
        constants = [getattr(graph, str(n.target)) for n in graph.graph.nodes if n.op == "get_attr"]
        known = {t.untyped_storage().data_ptr() for t in inputs}
        if any(c.requires_grad or c.untyped_storage().data_ptr() in known for c in constants):
            raise SoftmapError(
                f"{what} reads a parameter inside edit(): expected it from layer_tensors() and "
                "read from t, or it would have no gradient"
            )
        text: Hashable = (graph.code, tuple(map(meta, inputs)), torch.get_num_threads())
        text = (text, *map(_Same, constants))
        if text not in _BY_TEXT:
            _BY_TEXT[text] = inductor(graph, [*inputs], _options(graph))
        return _BY_TEXT[text]
    except SoftmapError:
        raise
    except Exception as error:
        raise SoftmapError(f"impl='compiled' cannot compile {what}: {reason(error)}") from error


def _trace(function: Function, inputs: list[Tensor]) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    # Autograd's own threads would not be traced. With gradients, what stems from a parameter that
    # is no input is a constant that requires one.
    with torch.autograd.set_multithreading_enabled(False), torch.enable_grad():
        return make_fx(function)(*(t.detach() for t in inputs))  # type: ignore[no-any-return]


def _options(graph: torch.fx.GraphModule) -> dict[str, Any]:
    names = {str(n.target) for n in graph.graph.nodes if n.op == "call_function"}
    scatters = any(s in name for name in names for s in _SCATTERS)
    return {"cpp.simdlen": 0} if scatters else {}
