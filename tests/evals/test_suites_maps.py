"""Suites over maps, hidden states and few bits, on models with planted weights."""

from __future__ import annotations

import math
from typing import Any

import known
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from softmap.errors import SoftmapError
from softmap.evals.maps import passage_maps
from softmap.evals.suites.allocation import Allocation, masses
from softmap.evals.suites.bits import Bits, weights_rounded
from softmap.evals.suites.maps import statistics
from softmap.evals.suites.needles import Needles, Prompt
from softmap.evals.suites.outliers import Moments, Outliers, logits_of
from softmap.evals.watch import Watch, edited, rounded
from softmap.maps import Band, Edit

IDS = np.arange(10, 50)


def uniform_attention() -> Any:
    """All scores are 0: row i is 1 / (i + 1) everywhere."""
    model = known.tiny()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.attention.q_proj.weight)
    return model


def foreign(kind: str) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2}
    if kind == "llama":
        config = LlamaConfig(
            **shape, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2,
            initializer_range=0.3,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
    gpt = GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    return GPT2LMHeadModel(gpt).eval()


def from_whole(maps: np.ndarray) -> dict[str, float]:
    """The measures of one layer's maps (H, T, T), from the maps themselves."""
    w = maps.astype(np.float64)
    size = np.abs(w)
    share = (size / size.sum(-1, keepdims=True))[:, 1:]
    logs = np.log(np.where(share > 0, share, 1.0))
    squared = np.linalg.svd(w, compute_uv=False) ** 2
    return {
        "entropy": float(-(share * logs).sum(-1).mean()),
        "sink": float(share[..., 0].mean()),
        "negative": float((share * (w[:, 1:] < 0)).sum(-1).mean()),
        "row_sum": float(w[:, 1:].sum(-1).mean()),
        "rank": float((squared.sum(-1) ** 2 / (squared**2).sum(-1)).mean()),
    }


def test_uniform_attention_has_log_i_nats() -> None:
    layers = statistics(known.subject(uniform_attention()), IDS)
    n = np.arange(2, len(IDS) + 1)
    for found in layers:
        assert found["entropy"] == pytest.approx(np.log(n).mean(), rel=1e-5)
        assert found["sink"] == pytest.approx((1 / n).mean(), rel=1e-5)
        assert found["negative"] == 0 and found["row_sum"] == pytest.approx(1)


@pytest.mark.parametrize("variant", ["diff", "dcmha", "dape", "sas"])
def test_what_passes_by_in_bands_is_the_whole_map(variant: str) -> None:
    model = known.tiny(variant)
    whole = passage_maps(model, IDS.tolist())
    for found, maps in zip(statistics(known.subject(model), IDS), whole, strict=True):
        expected = from_whole(maps)
        rank = expected.pop("rank")
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=2e-3)
        assert found["rank"] == pytest.approx(rank, rel=1e-2)  # the whole map is of 16 bits


def test_the_rank_of_longer_maps_is_estimated() -> None:
    model, ids = known.tiny(), np.arange(300) % 250
    (maps, *_), (found, *_) = (
        passage_maps(model, ids.tolist()),
        statistics(known.subject(model), ids),
    )
    assert found["rank"] == pytest.approx(from_whole(maps)["rank"], rel=0.25)


class Above(Edit):
    """The mean of each row and the one above it."""

    stage = "weights"
    halo = 1

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        return (m + torch.nn.functional.pad(m, (0, 0, 1, 0))[:, :, :-1]) / 2


def test_a_halo_is_not_counted_twice() -> None:
    """More rows than a band has, and an edit that reads the row above."""
    model, ids = known.tiny(layers=1), np.arange(200) % 250
    model.model.layers[0].attention.edits.append(Above())
    counted: list[int] = []

    def see(layer: int, m: Tensor, visible: Tensor, rows: Tensor, cols: Tensor) -> None:
        counted.extend(rows.tolist())

    with edited(model, lambda n: [Watch("weights", n, see)]):
        known.subject(model).logits(ids[None])
    assert counted == list(range(200))
    (found,) = statistics(known.subject(model), ids)
    expected = from_whole(passage_maps(model, ids.tolist())[0])
    assert found == pytest.approx(expected, rel=1e-2, abs=2e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_models_of_transformers_are_watched_by_their_interface(kind: str) -> None:
    model = foreign(kind)
    who = known.subject(model)
    before = who.logits(IDS[None])
    layers = statistics(who, IDS)
    assert torch.equal(who.logits(IDS[None]), before)  # and left as they were
    model.set_attn_implementation("eager")
    ids = torch.as_tensor(IDS[None])
    with torch.no_grad():
        maps = model(input_ids=ids, output_attentions=True).attentions
    for found, own in zip(layers, maps, strict=True):
        expected = from_whole(own[0].numpy())
        rank = expected.pop("rank")
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-4)
        assert found["rank"] == pytest.approx(rank, rel=1e-3)


@pytest.mark.parametrize(
    "make", [lambda: known.tiny("diff"), lambda: foreign("llama"), lambda: foreign("gpt2")]
)
def test_edits_are_taken_off_again(make: Any) -> None:
    model = make()
    who = known.subject(model)
    before = who.logits(IDS[None])
    with edited(model, lambda n: [], lambda x: x + 1):
        assert not torch.allclose(who.logits(IDS[None]), before)
    assert torch.equal(who.logits(IDS[None]), before)
    with weights_rounded(model, 4):
        assert not torch.allclose(who.logits(IDS[None]), before)
    assert torch.equal(who.logits(IDS[None]), before)


def test_attention_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(SoftmapError, match="Uniform: expected softmap's attention layers"):
        statistics(known.subject(known.Uniform()), IDS)


def test_mass_on_the_answer_of_uniform_attention() -> None:
    """Of 40 tokens 3 are the answer, 9 the needle, 25 neither the needle nor the question."""
    prompt = Prompt(IDS.tolist(), ("1",), ((5, 14),), ((9, 12),), 34)
    found = masses(known.subject(uniform_attention()), prompt)
    expected = {"answer": 3 / 40, "needle": 9 / 40, "noise": 25 / 40}
    expected |= {"answer_signed": 3 / 40, "noise_signed": 25 / 40}
    assert found == pytest.approx(expected, rel=1e-5)


def test_allocation_asks_at_every_depth() -> None:
    who = known.subject(uniform_attention(), context=400)
    suite = Allocation(samples=1, depths=(0, 10))
    found = known.asked(suite, who, text=known.random_text())
    assert {key[1] for key in found if isinstance(key, tuple)} == {0.0, 0.909}
    assert 0 < found["answer"] < 0.03 and found["noise"] > 0.6
    assert Needles().way == "fixed"


def test_a_planted_outlier_is_found() -> None:
    model, text = known.tiny(), known.random_text()
    plain = known.asked(Outliers(windows=2), known.subject(model), text=text)
    with torch.no_grad():
        model.model.embed_tokens.weight[ord("e"), 7] = 500.0
    planted = known.asked(Outliers(windows=2), known.subject(model), text=text)
    assert planted["hidden_max", 0] == pytest.approx(500.0)
    assert planted["hidden_kurtosis", 0] > 50 * plain["hidden_kurtosis", 0]
    assert planted["hidden_ratio", 0] > 100 * plain["hidden_ratio", 0]


def test_logits_are_those_that_enter_the_softmax() -> None:
    """Doubled queries double every score."""
    model = known.tiny()
    once = logits_of(known.subject(model), IDS)
    torch.nn.init.zeros_(model.model.layers[0].attention.o_proj.weight)
    before = logits_of(known.subject(model), IDS)
    with torch.no_grad():
        model.model.layers[1].attention.q_proj.weight.mul_(2)
    after = logits_of(known.subject(model), IDS)
    assert after[1].largest == pytest.approx(2 * before[1].largest, rel=1e-5)
    assert once[0].count == 2 * len(IDS) * (len(IDS) + 1) / 2  # two heads, no hidden cell


def test_moments_add_up() -> None:
    x = torch.tensor([1.0, 2.0, 2.0, 7.0])
    moments = Moments()
    moments.add(x[:1])
    moments.add(x[1:])
    # mean 3, away -2 -1 -1 4: variance 22/4, fourth (16 + 1 + 1 + 256)/4
    assert moments.kurtosis == pytest.approx((274 / 4) / (22 / 4) ** 2)
    assert moments.largest == 7
    constant = Moments()
    constant.add(torch.ones(5))
    assert constant.kurtosis == 0


def test_rounding_by_hand() -> None:
    x = torch.tensor([[7.0, -3.4, 0.2, -torch.inf], [0.0, 0.0, 0.0, 0.0]])
    # 4 bits: 7 levels each way, so steps of 1 here.
    expected = torch.tensor([[7.0, -3.0, 0.0, -torch.inf], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(rounded(x, 4), expected)
    assert torch.allclose(rounded(x[:, :3], 8), x[:, :3], atol=7 / 127 / 2)


def test_needles_under_few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copier finds every needle; where rounding blinds it, none."""
    import contextlib

    from softmap.evals.suites import bits

    model = known.Copier()
    who = known.subject(model, context=256)

    @contextlib.contextmanager
    def blind(_: Any, count: int) -> Any:
        model.reach = 0 if count <= 4 else None
        model._known = [-1]  # read anew
        yield
        model.reach, model._known = None, [-1]

    monkeypatch.setattr(bits, "_logits", blind)
    monkeypatch.setattr(bits, "_WAYS", {})
    found = known.asked(Bits(windows=1, needles=2), who, text=known.random_text())
    assert [found["needles", n] for n in (32, 8, 6, 4)] == [1, 1, 1, 0]
    assert found["needles"] == 0  # the headline is that of 4 bits
    assert found["needle_loss", 32] < 0.1 < found["needle_loss", 4]
    small = known.asked(
        Bits(windows=1, needles=2), known.subject(model, 64), text=known.random_text()
    )
    assert "needles" not in small  # no room for a needle, and the rest is asked


def test_bits_cost_nothing_where_there_is_nothing_to_round() -> None:
    found = known.asked(
        Bits(windows=2), known.subject(uniform_attention()), text=known.random_text()
    )
    assert found["logits"] == found["logits", 8] == 0  # all scores are 0
    assert abs(found["weights", 8]) < abs(found["weights", 4])
    assert not math.isclose(found["cache", 4], 0, abs_tol=1e-9)
