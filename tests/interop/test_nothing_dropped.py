"""No weight and no option of a foreign model is silently dropped, whatever its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import test_dape_v2
import test_dcformer
import test_diff_attention
import test_diffllama
import test_simplified_blocks
import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.interop import from_official
from softmap.interop.diffllama import load as load_diffllama

State = dict[str, Tensor]


class Case(NamedTuple):
    """A state, its config, the loader, an input; names that their forward does not read."""

    state: State
    config: dict[str, Any]
    load: Callable[[State, dict[str, Any]], nn.Module]
    x: Tensor
    unread: tuple[str, ...] = ()

    def run(self, state: State) -> Tensor:
        out = self.load(state, self.config)(self.x)
        return out if isinstance(out, Tensor) else out.logits


def official(kind: str) -> Callable[[State, dict[str, Any]], nn.Module]:
    return lambda state, config: from_official(kind, state, config)


def dcformer(static: bool) -> Case:
    """With all that their training leaves in a state beside the weights proper."""
    config = {**test_dcformer.SMALL, "n_layer": 1, "use_qk_norm": True, "use_sw": static}
    state = test_dcformer.make_state(config)
    p = "layers.0.attention."
    proj = [f"{p}dyn_w_proj.{n}_proj.w" for n in ("pre", "post")]
    if static:
        state |= {name: test_dcformer.rand(1, 4, 4) for name in proj}
    used = torch.stack([state[n][0] for n in proj]) if static else 0.0
    state[f"{p}dyn_w_proj.sw"] = torch.eye(4, dtype=torch.float64).expand(2, 4, 4) + used
    state |= test_dcformer.merged(state, 0)
    for name, part in zip("qkv", state[f"{p}wqkv.weight"].chunk(3), strict=True):
        state[f"{p}w{name}.weight"] = part
    scratch = {
        "k_cache": (1, 4, 8, 6),
        "kw_cache": (1, 8, 2, 4, 4),
        "kw_sub_cache": (1, 8, 5, 2, 4),
    }
    state |= {f"{p}kv_cache.{n}": torch.zeros(shape) for n, shape in scratch.items()}
    ids = torch.arange(7)[None]
    return Case(state, config, official("dcformer"), ids, tuple(k for k in state if "cache" in k))


def dape(bias: str) -> Case:
    config = {"num_heads": 2, "hidden": 3, "kernel": 3, "bias": bias}
    scores = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    return Case(test_dape_v2.make_state(config), config, official("dape-v2"), scores)


def diff() -> Case:
    config = {**test_diff_attention.SIZES[0], "rope_base": 500.0}
    x = torch.randn(1, 5, 24, dtype=torch.float64)
    return Case(test_diff_attention.make_state(config), config, official("diff-attention"), x)


def simplified(change: dict[str, Any], unread: tuple[str, ...]) -> Case:
    config = {**test_simplified_blocks.BASE, **change, "n_layer": 1}
    state = test_simplified_blocks.make_state(config)
    x = torch.randn(1, 5, 12, dtype=torch.float64)
    return Case(state, config, official("simplified-blocks"), x, unread)


def diffllama(tied: bool) -> Case:
    theirs = test_diffllama.make_model({"num_hidden_layers": 1, "tie_word_embeddings": tied})
    state = {n: t.clone() for n, t in theirs.state_dict().items()}
    return Case(state, theirs.config.to_dict(), load_diffllama, torch.arange(9)[None])


ABSENT = ("0.attn_block_skip_gain",)  # the option is 0: no skip, in their forward as in ours
PARALLEL = (*ABSENT, "0.mlp_block_skip_gain", "0.ln_2.scale")
UNCENTRED = (*ABSENT, "0.attn.attn_mat_skip_gain", "0.attn.centre_attn_gain")
CASES: dict[str, Callable[[], Case]] = {
    "dcformer": lambda: dcformer(static=False),
    "dcformer, use_sw": lambda: dcformer(static=True),
    "dape, fire": lambda: dape("fire"),
    "dape, kerple": lambda: dape("kerple"),
    "dape, alibi": lambda: dape("alibi"),
    "diff": diff,
    "blocks": lambda: simplified({}, ABSENT),
    "blocks, parallel": lambda: simplified(
        {"parallel_layers": True, "mlp_block_skip_gain": 0}, PARALLEL
    ),
    "blocks, not centred": lambda: simplified({"centre_attn": False}, UNCENTRED),
    "diffllama": lambda: diffllama(tied=False),
    "diffllama, tied": lambda: diffllama(tied=True),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    return CASES[request.param]()


def refused(case: Case, state: State, message: str = "") -> None:
    with pytest.raises(SoftmapError, match=message) as caught:
        case.load(state, case.config)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_every_weight_counts(case: Case) -> None:
    """Changed, it changes the output, or it disagrees with what it is a copy of."""
    before = case.run(case.state)
    for name, tensor in case.state.items():
        try:
            after = case.run({**case.state, name: tensor * 1.5 + 0.25})
        except SoftmapError as error:
            said = str(error)
            assert name in said and ("disagree" in said or "must be the identity" in said), said
        else:
            assert torch.equal(after, before) == (name in case.unread), name


@torch.no_grad()
def test_every_weight_is_needed_or_a_copy(case: Case) -> None:
    before = case.run(case.state)
    for name in case.state:
        state = {n: t for n, t in case.state.items() if n != name}
        try:
            after = case.run(state)
        except SoftmapError as error:
            assert "expected, found none" in str(error) and name in str(error)
        else:
            assert torch.equal(after, before), name


def test_what_is_not_a_weight_is_refused(case: Case) -> None:
    """Wrong numbers, dtypes, shapes and kinds, for every name."""
    for name, tensor in case.state.items():
        bad = tensor.clone()
        bad.view(-1)[-1] = torch.nan
        refused(case, {**case.state, name: bad}, rf"{name} must be finite")
        refused(case, {**case.state, name: tensor[None]}, rf"{name} must have shape")
        for wrong in (tensor.to(torch.int32), tensor.to(torch.float8_e5m2), tensor.tolist()):
            refused(case, {**case.state, name: wrong}, rf"{name} must be a floating-point tensor")
        for wrong in (tensor.to("meta"), tensor.to_sparse()):
            refused(case, {**case.state, name: wrong}, rf"{name} must be a dense tensor")


def test_names_that_the_model_does_not_have(case: Case) -> None:
    one = torch.ones(1, dtype=torch.float64)
    for name in ("extra", "norm.weights", "layers.1.attention.dyn_w_proj.dw_m",
                 "layers.0.attention.kv_cache.w", "layers.0.attention.dyn_w_proj.sw.x",
                 "1.ln_2.scale", "0.ln_2.extra", "model.layers.1.mlp.up_proj.weight"):  # fmt: skip
        refused(case, {**case.state, name: one}, rf"found {name}, which a model")
    refused(case, {**case.state, 3: one}, "must be strings, found 3")  # type: ignore[dict-item]
    refused(case, {**case.state, "a\nb": one}, "must be strings, found 'a.nb'")


def test_options_that_the_model_does_not_have(case: Case) -> None:
    for name, value in (("sliding_window", 4), ("quantization", {}), ("a\nb", 1), (7, 1)):
        with pytest.raises(SoftmapError, match=r"unknown option|must be strings") as caught:
            case.load(case.state, {**case.config, name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dcformer", "dape, alibi", "diff", "blocks", "diffllama"])
def test_options_of_a_wrong_kind(name: str) -> None:
    """Whatever is put into any option: a model, or one line."""
    case = CASES[name]()
    for option in case.config:
        for value in (float("nan"), 10**400, [], "\n"):
            try:
                case.load(case.state, {**case.config, option: value})
            except SoftmapError as error:
                assert "\n" not in str(error)


@torch.no_grad()
def test_no_weight_is_rounded(case: Case) -> None:
    """One wide weight among narrow ones makes a wide model."""
    # sw is a sum, whose rounding is not the sum of roundings.
    narrow = {n: t.to(torch.bfloat16) for n, t in case.state.items() if not n.endswith("sw")}
    for name in list(narrow)[:3]:
        state = {n: t.to(torch.float32) for n, t in narrow.items()}
        expected = case.load(state, case.config).state_dict()
        mixed = case.load({**narrow, name: state[name]}, case.config).state_dict()
        assert {t.dtype for t in mixed.values()} == {torch.float32}
        assert all(torch.equal(mixed[n], t) for n, t in expected.items())


def test_both_names_are_said_and_either_form_loads() -> None:
    """dw_m is what their training moves, dw1 and dd are what their prefill reads."""
    case = dcformer(static=False)
    p = "layers.0.attention.dyn_w_proj."
    parts = {f"{p}dw_m": [f"{p}dw1", f"{p}dd"], f"{p}qkw_m": [f"{p}qkw"]}
    for merged, pieces in parts.items():
        moved = case.state | {merged: case.state[merged] + 1e-3}
        refused(case, moved, rf"{', '.join(pieces)} and {merged} disagree")
        trained = {n: t for n, t in moved.items() if n not in pieces}
        stale = {n: t for n, t in moved.items() if n != merged}
        with torch.no_grad():
            assert torch.equal(case.run(stale), case.run(case.state))
            assert not torch.equal(case.run(trained), case.run(case.state))


def test_a_merged_state_is_what_their_training_computes() -> None:
    """The formula with the pieces that the merged weights stand for."""
    case = dcformer(static=False)
    p = "layers.0.attention.dyn_w_proj."
    pieces = {n: torch.randn_like(case.state[f"{p}{n}"]) * 0.3 for n in ("dw1", "dd", "qkw")}
    separate = {n: t for n, t in case.state.items() if "_m" not in n} | {
        f"{p}{n}": t for n, t in pieces.items()
    }
    merged = {n: t for n, t in separate.items() if n.removeprefix(p) not in pieces}
    merged |= test_dcformer.merged(separate, 0)
    with torch.no_grad():
        assert torch.equal(case.run(merged), case.run(separate))


WRONG = [
    ({"head_dim": 7}, r"head_dim must be 6, which is dim / n_head, found 7"),
    ({"temperature": 0.5}, r"temperature=0.5 cannot.*only 1.0 or None: .* generation_config.json"),
    ({"pruned_heads": {"0": [1]}}, r"pruned_heads=.*cannot be represented"),
    ({"quantization_config": {"bits": 4}}, r"quantization_config=.*cannot be represented"),
    ({"rope_base": 0}, r"rope_base must be a number > 0, found 0"),
    ({"norm_eps": -1.0}, r"norm_eps must be a number >= 0, found -1.0"),
    ({"eos_token_id": 31}, r"eos_token_id must be null or a token id from 0 to 30, found 31"),
    ({"eos_token_id": [1, "x"]}, r"eos_token_id must be null or a token id"),
    ({"bos_token_id": [1]}, r"bos_token_id must be null or a token id"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_options_that_disagree(change: dict[str, Any], message: str) -> None:
    case = dcformer(static=False)
    with pytest.raises(SoftmapError, match=message):
        case.load(case.state, {**case.config, **change})


def test_integer_threshold_of_fire() -> None:
    """Their FIRE keeps L_0 as an integer: half of the noise length, by whole division."""
    case = dape("fire")
    state = case.state | {"init_L": torch.tensor(6)}
    assert torch.equal(case.run(state), case.run(case.state))
