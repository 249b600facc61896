"""Other options of the simplified blocks against their maths, one row of weights at a time."""

from __future__ import annotations

import pytest
import torch
from interop_golden import golden, largest
from torch import Tensor
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.interop import from_official

BASE = golden("sas_skipless")[2] | {"n_embd": 12, "n_head": 3, "hidden_size": 12}
ONE = torch.ones(1, dtype=torch.float64)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * 0.4


def projection(config: dict, side: str, n: int) -> tuple[str, float]:
    """What their code builds: linear, identity or gains, and the special layer's option."""
    name, special, layer = {
        "v_attn": ("value", "first_layer_value_resid_gain", 0),
        "c_proj": ("proj", "last_layer_proj_resid_gain", config["n_layer"] - 1),
    }[side]
    init = config["val_init_type" if name == "value" else "proj_init_type"]
    residual, skip = config[f"{name}_resid_gain"], config[f"{name}_skip_gain"]
    if n == layer and config[special] is not None:
        residual = config[special]
    if skip is None:
        return "linear"
    return "identity" if (skip, residual, init) == (1, 0, "id") else "gains"


def make_state(config: dict) -> dict[str, Tensor]:
    D, H, W = config["n_embd"], config["n_head"], config["n_inner"] or 4 * config["n_embd"]
    state = {}
    for n in range(config["n_layer"]):
        a, m = f"{n}.attn.", f"{n}.mlp."
        state |= {f"{a}qk_attn.weight": rand(D, 2 * D), f"{a}qk_attn.bias": rand(2 * D)}
        state |= {f"{m}c_fc.weight": rand(D, W), f"{m}c_fc.bias": rand(W)}
        state |= {f"{m}c_proj.weight": rand(W, D), f"{m}c_proj.bias": rand(D)}
        gains = ("attn_mat_resid_gain", "attn_mat_skip_gain", "centre_attn_gain")
        state |= {a + g: 1 + rand(1, H, 1, 1) for g in gains}
        for branch in ("attn", "mlp"):
            state |= {f"{n}.{branch}_block_{g}_gain": 1 + rand(1) for g in ("resid", "skip")}
        for side in ("v_attn", "c_proj"):
            kind = projection(config, side, n)
            if kind != "identity":
                state |= {f"{a}{side}.weight": rand(D, D), f"{a}{side}.bias": rand(D)}
            if kind == "gains":
                state |= {f"{a}{side}.{g}_gain": 1 + rand(1) for g in ("resid", "skip")}
        state |= norm_state(config, n)
    return state


def norm_state(config: dict, n: int) -> dict[str, Tensor]:
    D, kind = config["n_embd"], config["norm_type"]
    if kind == "rmsnorm":
        return {f"{n}.{x}.scale": 1 + rand(D) for x in ("ln_1", "ln_2")}
    names = ("ln_1", "ln_2") if kind == "ln" else ("ln_1",) if n == 0 else ()
    made = {f"{n}.{x}.weight": 1 + rand(D) for x in names}
    return made | {f"{n}.{x}.bias": rand(D) for x in names}


def normed(x: Tensor, s: dict[str, Tensor], name: str, eps: float) -> Tensor:
    if f"{name}.scale" in s:
        return x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps) * s[f"{name}.scale"]
    if f"{name}.weight" in s:
        return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)
    return x


def project(x: Tensor, s: dict[str, Tensor], name: str) -> Tensor:
    if f"attn.{name}.weight" not in s:
        return x
    weight = s[f"attn.{name}.weight"]
    if f"attn.{name}.skip_gain" in s:
        start = s.get(f"attn.{name}.id", torch.eye(len(weight), dtype=x.dtype))
        weight = s[f"attn.{name}.resid_gain"] * weight + s[f"attn.{name}.skip_gain"] * start
    return x @ weight + s[f"attn.{name}.bias"]


def attend(x: Tensor, s: dict[str, Tensor], config: dict) -> Tensor:
    T, H = x.shape[1], config["n_head"]
    q, k = (x @ s["attn.qk_attn.weight"] + s["attn.qk_attn.bias"]).chunk(2, -1)
    q, k, v = (t.unflatten(-1, (H, -1)).transpose(1, 2) for t in (q, k, project(x, s, "v_attn")))
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    a = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf).softmax(-1)
    a = s["attn.attn_mat_resid_gain"] * a
    if config["centre_attn"]:
        # In float32, as theirs.
        uniform = (torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]).to(x.dtype)
        a = a + s["attn.attn_mat_skip_gain"] * torch.eye(T) - s["attn.centre_attn_gain"] * uniform
    return project((a @ v).transpose(1, 2).flatten(2), s, "c_proj")


def formula(state: dict[str, Tensor], config: dict, x: Tensor) -> Tensor:
    eps = config["layer_norm_epsilon"]
    for n in range(config["n_layer"]):
        s = {k.removeprefix(f"{n}."): t for k, t in state.items() if k.startswith(f"{n}.")}
        before, y = x, normed(x, s, "ln_1", eps)
        attended = s["attn_block_resid_gain"] * attend(y, s, config)
        if not config["parallel_layers"]:
            x = attended
            if config["attn_block_skip_gain"]:
                x = x + s["attn_block_skip_gain"] * before
            before, y, attended = x, normed(x, s, "ln_2", eps), 0.0
        hidden = y @ s["mlp.c_fc.weight"] + s["mlp.c_fc.bias"]
        hidden = F.gelu(hidden) if config["activation_function"] == "gelu" else hidden.clamp(min=0)
        out = hidden @ s["mlp.c_proj.weight"] + s["mlp.c_proj.bias"]
        x = s["mlp_block_resid_gain"] * out + attended
        if config["mlp_block_skip_gain"]:
            x = x + s["mlp_block_skip_gain"] * before
    return x


LINEAR = {"value_skip_gain": None, "proj_skip_gain": None, "val_init_type": "orth"}
CASES = [
    {"attn_block_skip_gain": 0.5, "n_layer": 2},
    {"value_resid_gain": 0.2, "proj_resid_gain": 0.3, "first_layer_value_resid_gain": None},
    {"last_layer_proj_resid_gain": 1, "first_layer_value_resid_gain": 0},
    {"value_skip_gain": 0.7, "proj_skip_gain": 0.7, "n_layer": 1},
    {"centre_attn": False, "trainable_attn_mat_gains": False},
    {"parallel_layers": True, "mlp_block_skip_gain": 1, "n_head": 4, "n_inner": 20},
    {**LINEAR, "proj_init_type": "normal", "norm_type": "ln", "layer_norm_epsilon": 1e-3},
    {**LINEAR, "norm_type": "none", "activation_function": "gelu"},
    {"norm_type": "none", "parallel_layers": True},
    {"centre_attn_gain": 0, "activation_function": "relu"},
]


@pytest.mark.parametrize("change", CASES)
def test_other_options(change):
    torch.manual_seed(0)
    config = {**BASE, **change}
    state, x = make_state(config), rand(2, 7, 12)
    stack = from_official("simplified-blocks", state, config)
    expected = formula(state, config, x)
    assert largest(stack(x), expected) < 1e-12 * expected.abs().max()


def test_plain_attention_where_the_gains_say_so():
    config = {**BASE, "centre_attn": False, "trainable_attn_mat_gains": False}
    state = make_state(config)
    state |= {k: torch.ones_like(t) for k, t in state.items() if "mat_resid" in k}
    stack, x = from_official("simplified-blocks", state, config), rand(1, 5, 12)
    assert len(stack.layers[0].attention.edits) == 0
    assert largest(stack(x), formula(state, config, x)) < 1e-12


def test_random_initial_matrices_are_asked_for():
    """Theirs are plain attributes, lost on saving: they load if the user adds them."""
    config = {**BASE, "val_init_type": "orth", "proj_init_type": "normal", "n_layer": 2}
    state = make_state(config)
    with pytest.raises(SoftmapError, match=r"weight 0.attn.v_attn.id expected .* found none"):
        from_official("simplified-blocks", state, config)
    state |= {f"{n}.attn.{s}.id": rand(12, 12) for n in (0, 1) for s in ("v_attn", "c_proj")}
    x = rand(1, 5, 12)
    y = from_official("simplified-blocks", state, config)(x)
    assert largest(y, formula(state, config, x)) < 1e-10


def names_learnt(change: dict) -> set[str]:
    config = {**BASE, **change, "n_layer": 2}
    stack = from_official("simplified-blocks", make_state(config), config)
    return {n for n, p in stack.layers[0].named_parameters() if p.requires_grad}


def test_what_trains_is_what_trains_there():
    flags = [k for k in BASE if k.startswith("trainable_")]
    maps = {f"attention.edits.0.{n}" for n in ("alpha", "beta", "gamma")}
    value = {f"attention.v_proj.{n}_gain" for n in ("skip", "residual")}
    everything = names_learnt({})
    assert maps | value | {"attention_gain.gain", "mlp_gain.gain", "mlp_skip.gain"} <= everything
    assert "attention_skip.gain" not in everything
    assert "attention_skip.gain" in names_learnt({"attn_block_skip_gain": 0.1})
    fixed = names_learnt(dict.fromkeys(flags, False))
    assert not fixed & (maps | value) and not any(n.endswith(".gain") for n in fixed)
    assert {"attention.q_proj.bias", "attention.k_proj.bias"} <= fixed
    assert not {"attention.v_proj.residual.bias", "mlp.up_proj.bias"} & everything


def test_float32_keeps_the_closed_form():
    config = {**BASE}
    state = {k: t.float() for k, t in make_state(config).items()}
    stack, x = from_official("simplified-blocks", state, config), rand(1, 6, 12).float()
    assert all(layer.attention.edits[0].folds_output for layer in stack.layers)
    assert largest(stack(x), formula(state, config, x)) < 1e-4


WRONG = [
    ({"norm_position": "post"}, r"norm_position='post' cannot be represented, only 'pre'"),
    ({"qk_norm_type": "rmsnorm"}, r"qk_norm_type='rmsnorm' cannot"),
    ({"dot_norm_type": "ln"}, r"dot_norm_type='ln' cannot"),
    ({"attn_pdrop": 0.1}, r"attn_pdrop=0.1 cannot be represented"),
    ({"resid_pdrop": 0.1}, r"resid_pdrop=0.1 cannot be represented"),
    ({"tie_valproj_init": "all_blocks"}, r"tie_valproj_init='all_blocks' cannot"),
    ({"scale_attn_weights": False}, r"scale_attn_weights=False cannot"),
    ({"lrelu_neg_slope": 0.2}, r"lrelu_neg_slope=0.2 cannot be represented, only 0"),
    ({"activation_function": "gelu_new"}, r"activation_function='gelu_new'.*leaky_relu, relu"),
    ({"norm_type": "batch"}, r"norm_type='batch'.*rmsnorm, ln, none"),
    ({"n_head": 5}, r"n_embd must be a multiple of n_head, found 12 and 5"),
    ({"centre_attn": 1}, r"centre_attn must be true or false, found 1"),
    ({"n_inner": 20}, r"mlp.c_fc.weight must have shape \(12, 20\), found \(12, 48\)"),
    ({"n_layer": 4}, r"weight 3.attn.qk_attn.weight \(12, 24\) expected, found none"),
    ({"n_layer": 2}, r"found 2.attn.attn_mat_resid_gain and \d+ more, which"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_does_not_fit(change, message):
    with pytest.raises(SoftmapError, match=message) as caught:
        from_official("simplified-blocks", make_state(BASE), {**BASE, **change})
    assert "\n" not in str(caught.value)


def test_a_bias_behind_a_zero_gain():
    state = make_state(BASE)
    state["0.attn.v_attn.resid_gain"] = 0 * ONE
    with pytest.raises(SoftmapError, match=r"v_attn.bias must be zero where resid_gain is"):
        from_official("simplified-blocks", state, BASE)
