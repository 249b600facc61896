"""DAPE V2 on given scores, from the authors' ``*_DAPEV2`` modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.interop.options import OptionReader
from softmap.interop.source import Rule, WeightReader, fill, flat
from softmap.maps import Edit, make_band
from softmap.variants import Place
from softmap.variants.biases import Alibi, Bias, Fire, Kerple
from softmap.variants.dape import ScoreConv

WHAT = "dape-v2"


class ScoresEdit(nn.Module):
    """A scores edit by itself: scores (B, H, T, S), S >= T, to the edited (B, H, T, S).

    The last T of the S keys belong to the T rows. Columns after a row's own token are zero.
    """

    def __init__(self, edit: Edit, heads: int) -> None:
        super().__init__()
        self.edit, self.heads = edit, heads

    def forward(self, scores: Tensor) -> Tensor:
        """Returns the edited scores, zero where masked. Raises ``ValueError`` for other shapes."""
        if scores.ndim != 4 or scores.shape[1] != self.heads or scores.shape[2] > scores.shape[3]:
            raise SoftmapError(
                f"scores must be (batch, {self.heads}, rows, keys) with rows <= keys, "
                f"found {tuple(scores.shape)}"
            )
        T, S = scores.shape[2:]
        cols = torch.arange(S + self.edit.pad, device=scores.device)
        rows = cols[S - T : S]
        band = make_band(rows[None], cols[None], rows, cols, None, None)
        padded = nn.functional.pad(scores, (0, self.edit.pad))
        edited = self.edit.edit(padded, band, self.edit().layer)
        return band.zero(edited)[..., :S]


class Kind(NamedTuple):
    """A position bias: its table, and how to build ours from their weights."""

    rules: tuple[Rule, ...]
    build: Callable[[WeightReader], Callable[[Place], Bias] | None]


def _fire(source: WeightReader) -> Callable[[Place], Bias]:
    # Theirs has a leaky ReLU here (a plain one without DAPE), adds 1e-6 below, and keeps L_0 as
    # an integer.
    start = float(source.take("init_L", whole=True))
    hidden = source.length("mlp.0.bias") or 32
    return partial(Fire, hidden=hidden, start=start, slope=0.01, eps=1e-6)


CONVOLUTIONS = (
    Rule("mlp2.0.weight", "hidden channels 1 kernel", ("up.weight",)),
    Rule("mlp2.0.bias", "hidden", ("up.bias",)),
    Rule("mlp2.2.weight", "heads hidden 1 kernel", ("down.weight",)),
    Rule("mlp2.2.bias", "heads", ("down.bias",)),
)
BIASES = {
    "none": Kind((), lambda source: None),
    "alibi": Kind((Rule("slopes", "heads", ("bias.slopes",)),), lambda source: Alibi),
    "kerple": Kind(
        tuple(Rule(f"bias_{n}", "heads 1 1", (f"bias.{n}",), flat) for n in "pa"),
        lambda source: Kerple,
    ),
    "fire": Kind(
        (
            Rule("mlp.0.bias", "width", ("bias.up.bias",)),  # first: it says how wide the MLP is
            Rule("mlp.0.weight", "width 1", ("bias.up.weight",)),
            Rule("mlp.2.weight", "heads width", ("bias.down.weight",)),
            Rule("mlp.2.bias", "heads", ("bias.down.bias",)),
            Rule("c", "", ("bias.c",)),
            Rule("L_multiplier", "", ("bias.multiplier",)),
        ),
        _fire,
    ),
}


def load(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> ScoresEdit:
    """Returns a module from scores (B, H, T, T) to S + B + f([S; B]) on and below the diagonal,
    zero above it.

    It equals the authors' module on all rows but the last ``kernel // 2``: there their array ends
    and cuts off the second convolution (see [`softmap.variants.dape.ScoreConv`][]).
    """
    options = OptionReader(WHAT, config)
    options.known(("num_heads", "hidden", "kernel", "bias", "note"))
    kind = options.choice("bias", BIASES, "kerple")
    heads, kernel = options.count("num_heads"), options.count("kernel", 3)
    if kernel % 2 == 0:
        raise SoftmapError(f"{WHAT}: option kernel must be odd, found {kernel}")
    hidden = options.count("hidden", 32)
    source = WeightReader(WHAT, state)
    bias = kind.build(source)
    channels = heads if bias is None else 2 * heads
    width = source.length("mlp.0.bias") or 32
    sizes = {"heads": heads, "hidden": hidden, "kernel": kernel, "channels": channels}
    weights = source.apply(CONVOLUTIONS + kind.rules, sizes | {"width": width})
    source.finish()
    place = Place(heads, heads, 1, 1, 0, 1)
    with torch.device("meta"):
        edit = ScoreConv(place, bias, hidden, kernel)
    fill(edit, weights, source.dtype)
    return ScoresEdit(edit, heads).eval()
