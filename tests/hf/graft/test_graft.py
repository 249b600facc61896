"""``softmap.hf.graft``: the function at step 0, what is kept, what learns, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from softmap.errors import SoftmapError
from softmap.hf import graft
from softmap.hf.graft import GraftReport, grafted
from softmap.nn import Attention
from softmap.testing.subject import seeded

IDS = torch.randint(3, 31, (2, 12), generator=torch.Generator().manual_seed(0))
SHAPED = (
    "sas(attention_skip=1,value=linear,output=linear,zero_query=false,mlp_gain=1,"
    "trainable_gains=false,first_value=null,output_init=zero)"
)
EXACT = [
    "temperature", "talking-heads", "gated", "diff2", "dcmha", "dcmha(static=true,rank=1)",
    "dape(bias=rope)", "dape(bias=rope,version=1)", SHAPED, "diff2+dcmha", "dape(bias=rope)+gated",
]  # fmt: skip
Build = Callable[..., Any]


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model(ids, use_cache=False).logits


@torch.no_grad()
def decoded(model: Any) -> torch.Tensor:
    """Logits (B, T, V), the second half token by token through the cache."""
    half = IDS.shape[1] // 2
    out = model(IDS[:, :half], use_cache=True)
    found = [out.logits]
    for n in range(half, IDS.shape[1]):
        out = model(IDS[:, n : n + 1], past_key_values=out.past_key_values, use_cache=True)
        found.append(out.logits)
    return torch.cat(found, 1)


def put(model: Any, to: str, **options: Any) -> GraftReport:
    with seeded(1):
        return grafted(model, to, **options)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """To float32 rounding: logits here reach 5, and sums of 32 products round a few times."""
    return bool((found - expected).abs().max() <= 1e-5)


@pytest.mark.parametrize("to", EXACT)
@pytest.mark.parametrize(
    "name", ["Qwen3", "transformer++", pytest.param("GPTNeoX", marks=pytest.mark.slow)]
)
def test_the_function_is_that_of_the_model(trained: Build, name: str, to: str) -> None:
    model = trained(name)
    expected, cached = logits(model), decoded(model)
    assert put(model, to).changes == []
    assert close(logits(model), expected) and close(decoded(model), cached)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "alibi", "transformer", "dcmha"])
def test_of_every_family_and_of_our_own_variants(trained: Build, name: str) -> None:
    model = trained(name)
    expected, cached = logits(model), decoded(model)
    assert put(model, "talking-heads+gated").changes == []
    assert close(logits(model), expected) and close(decoded(model), cached)


CHANGES = {
    "diff": "Difference has no start that changes nothing; HeadNorm has no start that changes "
    "nothing; 2 output heads stand for 4",
    "diff2+diff2": "2 output heads stand for 4",
    "nope": "rotary positions are left out",
    "dape(bias=none)": "rotary positions are left out",
    "dape": "ScoreConv has no start that changes nothing; rotary positions are left out",
    "dcmha(pattern=L,window=3)": "a row sees 3 keys",
    "dcmha(qk_norm=true)": "norms of queries and keys are new",
    "diff2(gain=false)": "TokenDifference has no start that changes nothing",
    "gated(gain=false)": "Gate has no start that changes nothing",
}


@pytest.mark.parametrize("to", CHANGES)
@pytest.mark.parametrize("name", ["Llama", "transformer++"])
def test_what_changes_the_function_is_said(trained: Build, name: str, to: str) -> None:
    model = trained(name)
    expected = logits(model)
    assert "; ".join(put(model, to).changes) == CHANGES[to]
    assert not torch.allclose(logits(model), expected, atol=1e-3)


OWN = """
import torch
from softmap.maps import Edit
from softmap.variants import Parts, variant

class Shift(Edit):
    stage = "weights"
    keeps_zeros = True

    def __init__(self, by):
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor([by]))

    def layer_tensors(self):
        return {"by": self.by}

    def edit(self, m, band, t):
        return m * (1 + t["by"])

    def start_as_identity(self):
        torch.nn.init.zeros_(self.by)
        return True

@variant("shift", "Shift", graft={"by": 0.5})
def shift(by: float = 1.0):
    return Parts(weights=[lambda place: Shift(by)])
"""


def test_a_variant_of_ones_own_says_how_it_starts(trained: Build, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    model = trained("Llama")
    expected = logits(model)
    done = put(model, f"{path}:shift")
    assert done.changes == [] and close(logits(model), expected)
    assert done.variant == f"{path}:shift(by=0.5)"
    assert put(trained("Llama"), f"{path}:shift(by=2.0)").variant.endswith("shift(by=2.0)")


def moved(before: dict[str, torch.Tensor], model: Any) -> dict[str, float]:
    return {n: float((p.detach() - before[n]).abs().max()) for n, p in model.named_parameters()}


@pytest.mark.parametrize("to", ["talking-heads", "gated", "diff2", "dcmha(static=true)", SHAPED,
                                "dape(bias=rope)", "temperature"])  # fmt: skip
@pytest.mark.parametrize("name", ["Llama", "transformer++"])
def test_every_new_weight_learns(trained: Build, name: str, to: str) -> None:
    """By plain gradient descent, which no rounding moves: Adam would make steps of noise."""
    model = trained(name).double()
    put(model, to)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    new = {n: size for n, size in moved(before, model).items() if ".edits." in n}
    # A constant added to all scores of a row changes nothing: it is no weight of the function.
    stuck = [n for n, size in new.items() if size < 1e-8 and not n.endswith("down.bias")]
    assert new and stuck == []
    rows = [p for n, p in model.named_parameters() if "q_proj.weight" in n]
    for now, was in zip(rows, (p for n, p in before.items() if "q_proj.weight" in n), strict=True):
        assert ((now - was).abs().amax(1) > 1e-8).all()


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX", "transformer++"])
def test_projections_are_kept_exactly(trained: Build, name: str) -> None:
    model = trained(name)
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    put(model, "diff2")
    own = dict(model.named_parameters())
    attention = next(m for m in model.modules() if isinstance(m, Attention))
    pairs = attention.q_proj.weight.unflatten(0, (4, 2, -1))
    prefix = "gpt_neox.layers.0.attention" if name == "GPTNeoX" else "model.layers.0.self_attn"
    prefix = "model.layers.0.attention" if name == "transformer++" else prefix
    if name == "GPTNeoX":
        fused = kept[f"{prefix}.query_key_value.weight"].unflatten(0, (4, 3, -1))
        expected = [fused[:, n].flatten(0, 1) for n in range(3)]
        expected.append(kept[f"{prefix}.dense.weight"])
    else:
        expected = [kept[f"{prefix}.{n}_proj.weight"] for n in "qkvo"]
    found = [pairs[:, 0].flatten(0, 1)]
    found += [getattr(attention, f"{n}_proj").weight for n in "kvo"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    others = [n for n in kept if prefix not in n and "attention" not in n and "self_attn" not in n]
    assert others and all(torch.equal(own[n], kept[n]) for n in others)


@pytest.mark.parametrize("name", ["Qwen2", "GPTNeoX", "alibi"])
def test_it_is_saved_and_loaded(trained: Build, name: str, tmp_path: Path) -> None:
    model = trained(name)
    put(model, "dcmha(rank=1)+gated")
    before = logits(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is type(model) and torch.equal(logits(again), before)
    found = again.state_dict()
    assert all(torch.equal(t, found[n]) for n, t in model.state_dict().items())


def test_the_option_that_closes_it_is_saved(trained: Build, tmp_path: Path) -> None:
    for name, own in (("Llama", False), ("transformer++", True)):
        model = trained(name)
        put(model, "diff2")
        model.save_pretrained(tmp_path / name)
        config = AutoModelForCausalLM.from_pretrained(tmp_path / name).config
        found = config.variant if own else config.softmap[0]["variant"]
        assert found == "diff2(gain=true)"


def test_some_layers_and_what_is_counted(trained: Build) -> None:
    model = trained("Llama")
    before = sum(p.numel() for p in model.parameters())
    done = put(model, "diff2", layers=[-1])
    # Of 4 heads of width 8 at width 32: a second query and its bias, w, the gain.
    assert done.added == {1: {"q_proj.weight": 32 * 32, "q_proj.bias": 32,
                              "edits.0.to_lambda.weight": 4 * 32, "edits.0.gain": 4}}  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) - before == done.weights == 1188


def test_ours_is_counted_too_and_keeps_its_edits(trained: Build) -> None:
    model = trained("talking-heads")
    own = [copy.deepcopy(e.mix) for e in model.model.layers[0].attention.edits]
    done = put(model, "gated")
    assert done.variant == "gated(gain=true)"
    assert model.config.variant == "talking-heads+gated(gain=true)"
    assert done.added[0] == {"edits.2.gate.weight": 4 * 32, "edits.2.gain": 4}
    mixes = [e.mix for e in model.model.layers[0].attention.edits[:2]]
    assert all(torch.equal(a, b) for a, b in zip(own, mixes, strict=True))


def test_a_log_line_says_what_was_done(trained: Build, caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging

    logging.enable_propagation()
    try:
        assert graft(model := trained("Llama"), "gated") is model
        graft(trained("Llama"), "nope")
    finally:
        logging.disable_propagation()
    first, second = (record.getMessage() for record in caplog.records[-2:])
    assert first.endswith("264 weights are new; the model's function is the same")
    assert second.endswith("the model's function has changed: rotary positions are left out")


@pytest.mark.parametrize(
    ("name", "to", "options", "said"),
    [
        ("Llama", "dif", {}, "did you mean 'diff'"),
        ("Llama", "sas", {}, "only the attention of a variant can be put into another model"),
        ("Llama", "gated", {"layers": [7]}, "layers must be numbers from -2 to 1"),
        ("transformer++", "sas", {}, "only the attention of a variant"),
        ("transformer++", "gated", {"layers": [0]}, "one variant for all layers"),
        ("transformer++", "gated", {"impl": "fast"}, "fast"),
        ("alibi", "dape(bias=rope)", {}, "cannot be combined: they set position"),
        ("alibi", "diff2", {}, "the model's Alibi does not fit: expected maps of 8, found 4"),
        ("diff", "diff2", {}, "the model subtracts pairs of maps already"),
    ],
)
def test_refusals_leave_the_model(
    trained: Build, name: str, to: str, options: dict[str, Any], said: str
) -> None:
    model = trained(name)
    before, expected = copy.deepcopy(model.config.to_dict()), logits(model)
    with pytest.raises(SoftmapError, match=said.replace("(", r"\(")):
        grafted(model, to, **options)
    assert model.config.to_dict() == before and torch.equal(logits(model), expected)


def test_other_models_are_refused(trained: Build) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=31))
    with pytest.raises(SoftmapError, match="found GPT2LMHeadModel"):
        graft(other, "gated")
    model = trained("Llama")
    graft(model, "gated")
    with pytest.raises(SoftmapError, match="layer 0 is swapped already"):
        graft(model, "gated")
