"""Checks of one attention layer: gradients, backends, the map itself."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call

from softmap.errors import one_line
from softmap.ops.heads import combine
from softmap.ops.output import apply_output
from softmap.testing.compare import MAP, ROWS, assert_same, difference
from softmap.testing.layouts import evaluate, layouts
from softmap.testing.subject import CheckSubject, bands, call_of

Note = str | None


def gradients(subject: CheckSubject) -> Note:
    """Analytic gradients of x and of every parameter match finite differences (float64).

    ``torch.autograd.gradcheck`` in its fast mode, for the reference and for bands of two rows.
    """
    layer, x = subject.layer(), subject.input(1, 5).requires_grad_()
    names = [n for n, _ in layer.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    for impl in ("reference", "chunked"):
        layer.impl = impl
        with bands(2):
            try:
                torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True, atol=1e-6)
            except GradcheckError as error:
                raise AssertionError(f"{impl}: {_mismatch(str(error), ['x', *names])}") from None
    return None


def _mismatch(text: str, names: list[str]) -> str:
    """Returns what gradcheck found, by the name of the input."""
    wrong = (
        "is not that of the output (something is detached or drawn at random, or an adjoint is "
        "wrong)"
    )
    number = r":\s*(?:tensor\()?([-+.\w]+)"
    pattern = rf"respect to input (\d+),\s*numerical{number}.*?analytical{number}"
    found = re.search(pattern, text, re.DOTALL)
    if found is None:
        return f"the gradient {wrong}: {one_line(text, 200)}"
    place, numerical, analytical = found.groups()
    return (
        f"the gradient of {names[int(place)]} {wrong}: along one direction autograd gives "
        f"{float(analytical):.6g}, finite differences {float(numerical):.6g}"
    )


def chunked_is_reference(subject: CheckSubject) -> Note:
    """Bands of 1 row, and of 3 rows of one sequence, give the dense map's output and every
    gradient of it (1e-9).

    Odd lengths, one token, windows, padding at either side, fewer queries than keys, documents.
    """
    _same_as_reference(subject, "chunked", band_rows=(1, 3))
    return None


def folded_is_reference(subject: CheckSubject) -> Note:
    """The closed form, where the variant has one, gives the dense map's output and gradients."""
    why = dict(subject.explained)["folded"]
    if why is not None:
        return f"no closed form: {why}"
    _same_as_reference(subject, "folded", band_rows=(4,))
    return None


def _same_as_reference(subject: CheckSubject, impl: str, band_rows: tuple[int, ...]) -> None:
    layer = subject.layer()
    for layout in layouts(layer):
        layer.impl = "reference"
        want = evaluate(subject, layer, layout)
        layer.impl = impl
        for rows in band_rows:
            with bands(rows, apart=rows == 3):
                got = evaluate(subject, layer, layout)
            for name, value in want.items():
                what = f"{name} at {layout}"
                sides = (f"{impl} in bands of {rows}", "the whole map")
                axes = ROWS if name in ("output", "gradient of x") else ()
                assert_same(got[name], value, what, sides=sides, axes=axes)


def map_is_what_is_used(subject: CheckSubject) -> Note:
    """The map that is shown is the map that is used: (B, H', T, T), exactly zero where a row may
    not look (after the last edit), and times the values it is the attention's output."""
    layer, x = subject.layer(impl="reference"), subject.input(2, 9)
    for window in (None, 3):
        layer.window = window
        shown = layer.maps(x)
        expected = (2, layer.heads.outputs, 9, 9)
        assert tuple(shown.shape) == expected, f"map is {tuple(shown.shape)}, not {expected}"
        gap = torch.arange(9)[:, None] - torch.arange(9)
        hidden = (gap < 0) | (gap >= (window or 9))
        masked = shown.where(hidden, 0.0)
        assert not masked.any(), (
            f"the map is not zero where masked (window {window}): "
            f"{difference(masked, torch.zeros_like(masked), ('found', 'expected'), MAP)}"
        )
        call = call_of(layer, x, window)
        o = apply_output(combine(shown, call.v, layer.heads), call)
        used = layer.o_proj(o.transpose(1, 2).flatten(2))
        sides = ("the map times the values", "the layer's output")
        assert_same(used, layer(x), f"the map shown (window {window})", sides=sides, axes=ROWS)
    return None
