"""Value and output projections of the simplified blocks: plain, identity, or reparameterised.

Theirs, with ``skip_gain`` a and ``resid_gain`` b, stored (in, out), the bias outside of both gains:

    y = x (a W_init + b W) + bias          ours:  y = a x W_init + b (x W + bias')
"""

from __future__ import annotations

from torch import Tensor

from softmap.errors import SoftmapError
from softmap.interop.options import OptionReader
from softmap.interop.source import Rule, WeightReader, transposed

# Our side: their module, the stem of its options, and the option of its special layer.
SIDES = {
    "value": ("v_attn", "value", "val", "first_layer_value_resid_gain"),
    "output": ("c_proj", "proj", "proj", "last_layer_proj_resid_gain"),
}
OURS = {"value": "v_proj", "output": "o_proj"}
INITS = {"id": "id", "orth": "orth", "normal": "normal"}


def projection_kind(options: OptionReader, side: str, layer: int, depth: int) -> str:
    """Returns linear, identity, residual (W_init = I) or orthogonal (another W_init) for this
    layer.
    """
    _, stem, short, special = SIDES[side]
    residual = options.number(f"{stem}_resid_gain", 1.0)
    if layer == (0 if side == "value" else depth - 1):
        residual = options.number(special, residual)
    init = options.choice(f"{short}_init_type", INITS, "normal")
    if options.get(f"{stem}_skip_gain") is None:
        return "linear"
    if init != "id":
        return "orthogonal"
    skip = options.number(f"{stem}_skip_gain")
    return "identity" if skip == 1 and residual == 0 else "residual"


def projection_weights(
    source: WeightReader, kind: str, side: str, dim: int, prefix: str
) -> dict[str, Tensor]:
    """Returns our weights of the projection, by our names."""
    theirs, ours = f"attn.{SIDES[side][0]}.", f"attention.{OURS[side]}."
    if kind == "identity":
        return {}
    inner = "" if kind == "linear" else "residual."
    rules = [
        Rule(f"{theirs}weight", "dim dim", (f"{ours}{inner}weight",), transposed),
        Rule(f"{theirs}bias", "dim", (f"{ours}{inner}bias",)),
    ]
    if kind != "linear":
        rules += [
            Rule(f"{theirs}skip_gain", "1", (f"{ours}skip_gain",)),
            Rule(f"{theirs}resid_gain", "1", (f"{ours}residual_gain",)),
        ]
    if kind == "orthogonal":
        _check_initial(source, prefix + theirs)
        rules.append(Rule(f"{theirs}id", "dim dim", (f"{ours}initial",), transposed))
    made = source.apply(rules, {"dim": dim}, prefix)
    if kind != "linear":
        _move_bias_inside(made, ours, f"{source.what}: {prefix}{theirs}")
    return made


def _move_bias_inside(weights: dict[str, Tensor], ours: str, where: str) -> None:
    """Returns bias' = bias / b, so that b bias' equals theirs."""
    bias, gain = weights[f"{ours}residual.bias"], weights[f"{ours}residual_gain"]
    if not bias.any():
        return
    if gain.item() == 0:
        raise SoftmapError(f"{where}bias must be zero where resid_gain is, found other numbers")
    weights[f"{ours}residual.bias"] = bias.double() / gain.double()


def _check_initial(source: WeightReader, where: str) -> None:
    if where + "id" not in source:
        raise SoftmapError(
            f"{source.what}: weight {where}id expected (the random W_init of init type orth or "
            "normal, which their checkpoints leave out), found none; only init type id loads "
            "without it"
        )
