"""The arguments of ``forward``: those of a decoder of transformers, and ``TransformersKwargs``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interface_table import IDS, complete, refuses, runs, small
from torch.nn.functional import cross_entropy, pad
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel
from transformers.utils import TransformersKwargs

from softmap.errors import SoftmapError
from softmap.hf import SoftmapForSequenceClassification, SoftmapModel

HALO = f"{Path(__file__).parents[2] / 'testing' / 'outside.py'}:multi-token"
PACKED = torch.tensor([[0, 0, 0, 1, 1, 2, 2]])
STARTS = torch.tensor([[0, 1, 2, 0, 1, 0, 1]])
ENDS = torch.tensor([0, 3, 5, 7], dtype=torch.int32)


def same(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got.logits, expected.logits)


def packed(model: Any, **given: Any) -> None:
    """Whatever the name, documents are the documents alone."""
    alone = [model(part).logits for part in IDS[:1].split([3, 2, 2], 1)]
    torch.testing.assert_close(model(IDS[:1], **given).logits, torch.cat(alone, 1))


def hidden_states(model: Any) -> None:
    out = model.model(IDS, output_hidden_states=True)
    x = model.model.embed_tokens(IDS)
    assert len(out.hidden_states) == 3 and torch.equal(out.hidden_states[0], x)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    torch.testing.assert_close(out.hidden_states[1], model.model.layers[0](x))
    chosen = model(IDS, output_hidden_states=[0, -1]).hidden_states
    assert [state is None for state in chosen] == [False, True, False]


def attentions(model: Any) -> None:
    """The edited maps: padded rows as alone, and rows after a cache as without one."""
    whole = model(IDS, output_attentions=True).attentions
    assert [m.shape for m in whole] == [(2, 2, 7, 7)] * 2
    first = model(IDS[:, :4], use_cache=True)
    later = model(IDS[:, 4:], past_key_values=first.past_key_values, output_attentions=True)
    padded = pad(IDS, (2, 0)), pad(torch.ones_like(IDS), (2, 0))
    shifted = model(padded[0], attention_mask=padded[1], output_attentions=True).attentions
    for one, two, three in zip(whole, later.attentions, shifted, strict=True):
        torch.testing.assert_close(two, one[:, :, 4:])
        torch.testing.assert_close(three[:, :, 2:, 2:], one)


def return_dict(model: Any) -> None:
    for asked, got in (
        (None, model(IDS, return_dict=False)),
        (False, small(return_dict=False)(IDS)),
    ):
        assert isinstance(got, tuple) and torch.equal(got[0], model(IDS).logits), asked


def mask(model: Any) -> None:
    padded, real = pad(IDS, (2, 0)), pad(torch.ones_like(IDS), (2, 0))
    for kind in (real, real.bool(), real.float()):
        got = model(padded, attention_mask=kind).logits[:, 2:]
        torch.testing.assert_close(got, model(IDS).logits)


def labels(model: Any) -> None:
    out, wanted = model(IDS, labels=IDS), IDS[:, 1:].flatten()
    loss = cross_entropy(out.logits[:, :-1].flatten(0, 1), wanted)
    torch.testing.assert_close(out.loss.double(), loss, rtol=1e-5, atol=0)
    summed = model(IDS, labels=IDS, num_items_in_batch=6).loss
    torch.testing.assert_close(summed, out.loss * 2)  # 12 labels
    shifted = pad(IDS[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(IDS, shift_labels=shifted).loss, out.loss)


def caches(model: Any) -> None:
    first = model(IDS[:, :4])
    assert first.past_key_values.get_seq_length() == 4
    assert model(IDS, use_cache=False).past_key_values is None
    assert small(use_cache=False)(IDS).past_key_values is None
    places = torch.arange(4, 7)
    got = model(IDS[:, 4:], past_key_values=first.past_key_values, cache_position=places)
    torch.testing.assert_close(got.logits, model(IDS).logits[:, 4:])
    refuses(lambda: model(IDS, cache_position=places), "cache_position must be 0 .. 6")


def keep(model: Any) -> None:
    whole = model(IDS).logits
    torch.testing.assert_close(model(IDS, logits_to_keep=2).logits, whole[:, -2:])
    at = torch.tensor([1, 5])
    torch.testing.assert_close(model(IDS, logits_to_keep=at).logits, whole[:, at])


HONOURED: dict[str, Callable[[Any], None]] = {
    "input_ids": lambda m: refuses(lambda: m(IDS, inputs_embeds=m.model.embed_tokens(IDS))),
    "inputs_embeds": lambda m: same(m(inputs_embeds=m.model.embed_tokens(IDS)), m(IDS)),
    "attention_mask": mask,
    "position_ids": lambda m: packed(m, position_ids=STARTS),
    "seq_idx": lambda m: packed(m, seq_idx=PACKED.int()),
    "cu_seq_lens_q": lambda m: packed(m, cu_seq_lens_q=ENDS),
    "cu_seq_lens_k": lambda m: packed(m, cu_seq_lens_k=ENDS, max_length_k=3),
    "documents": lambda m: packed(m, documents=PACKED, seq_idx=PACKED + 4, position_ids=STARTS),
    **dict.fromkeys(["past_key_values", "use_cache", "cache_position"], caches),
    **dict.fromkeys(["labels", "num_items_in_batch", "shift_labels"], labels),
    "logits_to_keep": keep,
    "output_hidden_states": hidden_states,
    "output_attentions": attentions,
    "return_dict": return_dict,
}
REFUSED: dict[str, Callable[[Any], Any]] = {
    "is_causal": lambda m: m(IDS, is_causal=False),
    "output_router_logits": lambda m: m(IDS, output_router_logits=True),
    "max_length_q": lambda m: m(IDS, max_length_q=3),
    "max_length_k": lambda m: m(IDS, max_length_k=3),
    "token_type_ids": lambda m: m(IDS, token_type_ids=IDS),
    "head_mask": lambda m: m(IDS, head_mask=IDS),
    "encoder_hidden_states": lambda m: m(IDS, encoder_hidden_states=IDS),
    "documents that disagree": lambda m: m(IDS[:1], documents=PACKED, seq_idx=PACKED.clamp(max=1)),
    "positions that disagree": lambda m: m(
        IDS[:1], position_ids=STARTS, cu_seq_lens_q=ENDS[[0, -1]]
    ),
    "lengths that end elsewhere": lambda m: m(IDS[:1], cu_seq_lens_q=ENDS[:-1]),
    "lengths of several rows": lambda m: m(IDS, cu_seq_lens_q=ENDS),
    "numbers of another shape": lambda m: m(IDS, seq_idx=PACKED[0]),
    "positions of another shape": lambda m: m(IDS, position_ids=STARTS[:, :3]),
}
UNCONCERNED = {"kwargs": "unknown names are refused, below"}


def test_every_name_is_decided() -> None:
    names = set(TransformersKwargs.__optional_keys__)
    for model in (LlamaModel, LlamaForCausalLM, LlamaForSequenceClassification):
        names |= set(inspect.signature(model.forward).parameters) - {"self"}
    complete(names, HONOURED, {n: c for n, c in REFUSED.items() if n not in HONOURED}, UNCONCERNED)


@runs(HONOURED)
@torch.no_grad()
def test_honoured(name: str) -> None:
    HONOURED[name](small())


@runs(REFUSED)
def test_refused(name: str) -> None:
    refuses(lambda: REFUSED[name](small()))


@pytest.mark.parametrize("cls", [None, SoftmapModel, SoftmapForSequenceClassification])
def test_unknown_names_are_refused(cls: Any) -> None:
    model = small() if cls is None else small(cls=cls)
    with pytest.raises(SoftmapError, match=r"no argument 'atention_mask' .did you mean 'attention"):
        model(IDS, atention_mask=None)
    assert model(IDS, token_type_ids=None, is_causal=True, head_mask=None)


@pytest.mark.parametrize("variant", ["dcmha(pattern=LG,window=4)", "sas", "diff2", HALO])
@torch.no_grad()
def test_maps_are_the_references(variant: str) -> None:
    """o = A' v of the first layer, by its map, in layers that let keys go too."""
    model = small(variant)
    first = model(IDS[:, :5])
    later = model(IDS[:, 5:], past_key_values=first.past_key_values, output_attentions=True)
    for one, two in zip(
        later.attentions, model(IDS, output_attentions=True).attentions, strict=True
    ):
        torch.testing.assert_close(one, two[:, :, 5:])
    layer = model.model.layers[0]
    normed = layer.attention_norm(model.model.embed_tokens(IDS))
    torch.testing.assert_close(two := model(IDS, output_attentions=True).attentions[0],
                               layer.attention.maps(normed).to(two.dtype))  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"documents": PACKED}, "a sequence has one label: expected documents=None"),
        ({"cu_seq_lens_q": ENDS}, "a sequence has one label: expected cu_seq_lens_q=None"),
    ],
)
def test_packed_sequences_are_not_classified(given: dict, message: str) -> None:
    model = small(cls=SoftmapForSequenceClassification)
    refuses(lambda: model(IDS[:1], **given), message)


@torch.no_grad()
def test_a_sequence_is_read_at_its_last_real_token() -> None:
    """By the mask where there is one, else by the padding token, right or left."""
    model = small(cls=SoftmapForSequenceClassification, num_labels=3)
    alone = model(IDS).logits
    for sides in ((0, 2), (2, 0)):
        padded, real = pad(IDS, sides), pad(torch.ones_like(IDS), sides)
        torch.testing.assert_close(model(padded, attention_mask=real).logits, alone)
    torch.testing.assert_close(model(pad(IDS, (0, 2))).logits, alone)
    model.config.pad_token_id = None
    refuses(lambda: model(IDS), "needs attention_mask or config.pad_token_id")
