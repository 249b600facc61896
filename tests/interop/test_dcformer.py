"""Other sizes and options of DCFormer against its maths written out in einsums."""

from __future__ import annotations

import math

import pytest
import torch
from interop_golden import golden, largest
from torch import Tensor
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.interop import from_official

SMALL = {
    "vocab_size": 31, "n_layer": 3, "n_head": 4, "n_local_heads": -1, "dim": 24,
    "intermediate_size": 40, "rope_base": 900.0, "norm_eps": 1e-3, "block_size": 64,
    "use_qk_norm": False, "window_size": None, "window_type": None,
}  # fmt: skip


def rand(*shape: int, scale: float = 0.3) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * scale


def make_state(config: dict) -> dict[str, Tensor]:
    c, D, H = config, config["dim"], config["n_head"]
    G = H if c["n_local_heads"] == -1 else c["n_local_heads"]
    state = {"tok_embeddings.weight": rand(c["vocab_size"], D), "norm.weight": rand(D) + 1}
    state["output.weight"] = rand(c["vocab_size"], D)
    for n in range(c["n_layer"]):
        a, f, w = f"layers.{n}.attention.", f"layers.{n}.feed_forward.", c["intermediate_size"]
        state |= {
            f"{a}wqkv.weight": rand(D + 2 * G * D // H, D),
            f"{a}wo.weight": rand(D, D),
            f"{a}dyn_w_proj.dw1": rand(D, 1, 4, 4 * H),
            f"{a}dyn_w_proj.qkw": rand(1, 4, 4 * H, 4, H, scale=0.1),
            f"{a}dyn_w_proj.dd": rand(D, 1, 4 * H),
            f"{a}dyn_w_proj.pre_proj.w": torch.eye(H, dtype=torch.float64)[None],
            f"{a}dyn_w_proj.post_proj.w": torch.eye(H, dtype=torch.float64)[None],
            f"{f}w1.weight": rand(w, D),
            f"{f}w3.weight": rand(w, D),
            f"{f}w2.weight": rand(D, w),
            f"layers.{n}.attention_norm.weight": rand(D) + 1,
            f"layers.{n}.ffn_norm.weight": rand(D) + 1,
        }
        if c["use_qk_norm"]:
            state |= {f"{a}{x}_norm.scale": rand(D // H) + 1 for x in "qk"}
    return state


def norm(x: Tensor, weight: Tensor | float, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def turn(x: Tensor, base: float) -> Tensor:
    """(B, T, H, d) rotated, channel m with m + d/2."""
    half = x.shape[-1] // 2
    at = torch.arange(x.shape[1], dtype=x.dtype)[:, None, None]
    angle = at * base ** (-torch.arange(half, dtype=x.dtype) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def compose(a: Tensor, branches: list[tuple[Tensor, Tensor, Tensor]], static: Tensor) -> Tensor:
    """Section 3 of arXiv 2405.08553 with the whole H x H map of every (i, j)."""
    (q1, q2, qg), (k1, k2, kg) = branches
    query = torch.einsum("btrh,btrg->bthg", q1, q2) + torch.diag_embed(qg)
    key = torch.einsum("bsrh,bsrg->bshg", k1, k2) + torch.diag_embed(kg)
    whole = query[:, :, None] + key[:, None] + static
    return torch.einsum("bhts,btshg->bgts", a, whole)


def attend(x: Tensor, s: dict[str, Tensor], config: dict, window: int | None) -> Tensor:
    T, D = x.shape[1:]
    H = config["n_head"]
    G = H if config["n_local_heads"] == -1 else config["n_local_heads"]
    d = D // H
    q, k, v = (x @ s["wqkv.weight"].T).split([D, G * d, G * d], -1)
    q, k, v = (t.unflatten(-1, (-1, d)) for t in (q, k, v))
    if config["use_qk_norm"]:
        q, k = norm(q, s["q_norm.scale"], 1e-6), norm(k, s["k_norm.scale"], 1e-6)
    q, k = turn(q, config["rope_base"]), turn(k, config["rope_base"])
    k, v = (t.repeat_interleave(H // G, 2) for t in (k, v))
    hidden = F.gelu(torch.einsum("btd,dck->btck", x, s["dyn_w_proj.dw1"][:, 0]))
    low = torch.einsum("btck,ckrh->btcrh", hidden, s["dyn_w_proj.qkw"][0])
    first, second = norm(low[..., :2, :], 1.0, 1e-6), low[..., 2:, :]
    gate = torch.tanh(x @ s["dyn_w_proj.dd"][:, 0]).unflatten(-1, (4, H))
    branch = [(first[:, :, c], second[:, :, c], gate[:, :, c]) for c in range(4)]
    eye = torch.eye(H, dtype=x.dtype)
    extra = [
        s[f"dyn_w_proj.{p}_proj.w"][0] if config.get("use_sw") else 0.0 for p in ("pre", "post")
    ]
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(d)
    scores = compose(scores, branch[:2], eye + extra[0])
    gap = torch.arange(T)[:, None] - torch.arange(T)
    hidden_keys = (gap < 0) | (gap >= (window or T))
    weights = scores.masked_fill(hidden_keys, -math.inf).softmax(-1)
    weights = compose(weights, branch[2:], eye + extra[1])
    return torch.einsum("bhts,bshd->bthd", weights, v).flatten(2) @ s["wo.weight"].T


def formula(state: dict[str, Tensor], config: dict, ids: Tensor, windows: list) -> Tensor:
    eps = config["norm_eps"]
    x = state["tok_embeddings.weight"][ids]
    for n in range(config["n_layer"]):
        s = {k.removeprefix(f"layers.{n}."): t for k, t in state.items()}
        a = {k.removeprefix("attention."): t for k, t in s.items()}
        x = x + attend(norm(x, s["attention_norm.weight"], eps), a, config, windows[n])
        y = norm(x, s["ffn_norm.weight"], eps)
        gated = F.silu(y @ s["feed_forward.w1.weight"].T) * (y @ s["feed_forward.w3.weight"].T)
        x = x + gated @ s["feed_forward.w2.weight"].T
    return norm(x, state["norm.weight"], eps) @ state["output.weight"].T


CASES = [
    ({}, [None] * 3),
    ({"use_qk_norm": True, "n_local_heads": 2}, [None] * 3),
    ({"n_local_heads": 1, "n_head": 6}, [None] * 3),
    ({"window_size": 4}, [4, None, 4]),
    ({"window_size": 5, "window_type": "LG", "n_head": 2}, [5, None, 5]),
    ({"window_size": 3, "window_type": "LGLL", "n_layer": 5}, [3, None, 3, 3, 3]),
    ({"window_size": 2, "window_type": "LGL6", "use_qk_norm": True}, [2, None, 2]),
    ({"is_training": True, "prefill_pad": True, "q_chunk_size": 7}, [None] * 3),
]


@pytest.mark.parametrize(("change", "windows"), CASES)
@torch.no_grad()
def test_other_sizes(change, windows):
    torch.manual_seed(0)
    config = {**SMALL, **change}
    state, ids = make_state(config), torch.randint(31, (2, 13))
    model = from_official("dcformer", state, config)
    expected = formula(state, config, ids, windows)
    assert largest(model(ids).logits, expected) < 1e-10
    out = model(ids[:, :6])
    for n in range(6, 13):
        out = model(ids[:, n : n + 1], past_key_values=out.past_key_values)
        assert largest(out.logits[:, 0], expected[:, n]) < 1e-10


def test_a_named_pattern_without_a_window_is_the_papers():
    config = {**SMALL, "window_type": "LGLL", "n_layer": 4}
    assert windows(config) == [256, None, 256, 256]
    # Their own default where the option is not there at all.
    del config["window_size"], config["window_type"]
    assert windows(config) == [256, None, 256, None]


def windows(config: dict) -> list[int | None]:
    model = from_official("dcformer", make_state(config), config)
    return [layer.attention.window for layer in model.model.layers]


@torch.no_grad()
def test_static_maps_of_use_sw():
    config = {**SMALL, "use_sw": True}
    state, ids = make_state(config), torch.randint(31, (1, 7))
    state |= {k: rand(1, 4, 4) for k in state if "_proj.w" in k and "dyn" in k}
    model = from_official("dcformer", state, config)
    assert largest(model(ids).logits, formula(state, config, ids, [None] * 3)) < 1e-10
    with pytest.raises(SoftmapError, match=r"pre_proj.w must be the identity .* use_sw"):
        from_official("dcformer", state, {**config, "use_sw": False})


def merged(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """The copies that their ``merge_weights`` makes: columns of dw1 and dd; qkw, flat."""
    p = f"layers.{n}.attention.dyn_w_proj."
    wide = torch.cat([state[f"{p}dw1"].flatten(1), state[f"{p}dd"][:, 0]], 1)
    return {f"{p}dw_m": wide, f"{p}qkw_m": state[f"{p}qkw"][0].flatten(2)}


@torch.no_grad()
def test_names_that_their_loader_takes_too():
    """Three projections instead of a stacked one; merged weights that are made anew."""
    state, ids = make_state(SMALL), torch.randint(31, (1, 7))
    expected = from_official("dcformer", state, SMALL)(ids).logits
    for n in range(3):
        stacked = state.pop(f"layers.{n}.attention.wqkv.weight")
        for name, part in zip("qkv", stacked.chunk(3), strict=True):
            state[f"layers.{n}.attention.w{name}.weight"] = part
        state |= merged(state, n)
        state[f"layers.{n}.attention.kv_cache.k_cache"] = rand(1, 4, 8, 6)
        del state[f"layers.{n}.attention.dyn_w_proj.pre_proj.w"]
    assert torch.equal(from_official("dcformer", state, SMALL)(ids).logits, expected)


@torch.no_grad()
def test_tied_embeddings():
    config = {**SMALL, "tie_word_embeddings": True}
    state, ids = make_state(config), torch.randint(31, (1, 7))
    untied = from_official("dcformer", state, config)
    assert not untied.config.tie_word_embeddings
    state["output.weight"] = state["tok_embeddings.weight"]
    expected = formula(state, config, ids, [None] * 3)
    del state["output.weight"]
    model = from_official("dcformer", state, config)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert largest(model(ids).logits, expected) < 1e-10


def test_saved_and_loaded_it_is_the_same(tmp_path):
    given, state, config = golden("dcformer_train_full")
    model = from_official("dcformer", state, config)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        ids = given["input_ids"]
        assert torch.equal(again(ids).logits, model(ids).logits)


WRONG = [
    ({"query_wise": True}, r"query_wise=True cannot be represented, only False"),
    ({"mgate": True}, r"mgate=True cannot be represented"),
    ({"use_dcmha": False}, r"use_dcmha=False cannot be represented, only True"),
    ({"window_type": "GL", "window_size": 4}, r"window_type='GL'.*LG, LGLL, LGL6"),
    ({"window_size": 0}, r"window_size must be a whole number >= 1, found 0"),
    ({"n_head": 5}, r"dim must be a multiple of n_head, found 24 and 5"),
    ({"n_local_heads": 3}, r"n_head must be a multiple of n_local_heads"),
    ({"n_layer": 2}, r"found layers.2.attention.* and 11 more, which"),
    ({"n_layer": 4}, r"weight layers.3.attention.wo.weight \(24, 24\) expected, found none"),
    ({"intermediate_size": 48}, r"w1.weight must have shape \(48, 24\), found \(40, 24\)"),
    ({"use_qk_norm": True}, r"weight layers.0.attention.q_norm.scale"),
    ({"rope_base": "big"}, r"rope_base must be a number, found 'big'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_does_not_fit(change, message):
    state = make_state(SMALL)
    with pytest.raises(SoftmapError, match=message) as caught:
        from_official("dcformer", state, {**SMALL, **change})
    assert "\n" not in str(caught.value)
