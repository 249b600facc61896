"""What a caller may hand over by mistake is refused in one line, by every class alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from softmap.errors import SoftmapError
from softmap.hf import SoftmapForCausalLM

IDS = torch.tensor([[5, 6, 7, 8], [9, 3, 4, 5]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": IDS[0]}, r"input_ids must be .*found \(4,\)"),
        ({"input_ids": IDS.tolist()}, "input_ids must be .*found list"),
        ({"input_ids": IDS.float()}, "input_ids must be integers"),
        ({"input_ids": IDS[:, :0]}, "at least one token"),
        ({"input_ids": IDS + 90}, r"input_ids must be 0 \.\. 30, found 93 \.\. 99"),
        ({"inputs_embeds": torch.ones(2, 4, 8)}, r"inputs_embeds must be .*16\)"),
        ({"input_ids": IDS, "labels": IDS[:, :2]}, r"labels must be .*\(2, 4\)"),
        ({"input_ids": IDS, "labels": IDS, "logits_to_keep": 1}, "logits_to_keep=0"),
        ({"input_ids": IDS, "attention_mask": 2 * torch.ones_like(IDS)}, "found 2"),
        ({"input_ids": IDS, "attention_mask": IDS.tolist()}, "mask must be a tensor"),
        ({"input_ids": IDS, "output_hidden_states": [7]}, "output_hidden_states"),
        ({"input_ids": IDS, "output_hidden_states": "all"}, "output_hidden_states"),
    ],
)
def test_inputs(make: Callable[..., Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(SoftmapError, match=message) as error:
        make()(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variant", "fields", "batch"),
    [
        ("diff", {}, 1),
        ("transformer++", {}, 2),
        ("diff", {"num_hidden_layers": 3}, 2),
        ("diff", {"hidden_size": 32}, 2),
        ("dcmha+diff", {}, 2),
        ("diff", {"backbone": {"pattern": "L", "window": 3}}, 2),
    ],
)
def test_cache_of_another_batch_or_model(
    make: Callable[..., Any], variant: str, fields: dict[str, Any], batch: int
) -> None:
    with torch.no_grad():
        cache = make(variant, **fields)(IDS[:batch], use_cache=True).past_key_values
        with pytest.raises(SoftmapError, match=r"past_key_values must be|a cache takes tokens"):
            make("diff")(IDS, past_key_values=cache)


def test_generate_goes_on_from_a_real_token(make: Callable[..., Any]) -> None:
    model = make()
    with pytest.raises(SoftmapError, match="padding at the left"):
        model.generate(IDS, attention_mask=torch.tensor([[1, 1, 1, 0], [1] * 4]), max_new_tokens=1)
    with torch.no_grad():
        cache = model(IDS, use_cache=True).past_key_values
    with pytest.raises(SoftmapError, match="4 beside a cache of 4"):
        model.generate(IDS, past_key_values=cache, max_new_tokens=1)


@pytest.mark.parametrize("variant", ["diff", "dcmha(pattern=LG,window=3)", "sas"])
def test_meta_gives_shapes(make: Callable[..., Any], variant: str) -> None:
    model, ids = make(variant).to("meta"), IDS.to("meta")
    mask = torch.ones(2, 4, device="meta")
    out = model(ids, mask, torch.arange(4, device="meta")[None], use_cache=True)
    assert out.logits.shape == (2, 4, 31) and out.logits.device.type == "meta"
    again = torch.ones(2, 8, device="meta")
    assert model(ids, again, past_key_values=out.past_key_values).logits.shape == (2, 4, 31)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
@pytest.mark.parametrize("variant", ["diff", "dcmha(pattern=LG,window=3)"])
def test_traced_model_takes_other_masks(make: Callable[..., Any], variant: str) -> None:
    """What was seen of the first mask must not stay in the trace."""
    model = make(variant)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(ids, mask).logits

    first, other = torch.tensor([[0, 1, 1, 1], [1] * 4]), torch.tensor([[1, 0, 1, 1, 0, 1]])
    traced = torch.jit.trace(Logits(), (IDS, first), check_trace=False)
    ids = torch.tensor([[3, 0, 9, 8, 0, 7]])
    want = model(ids[other != 0][None]).logits[0]
    torch.testing.assert_close(traced(ids, other)[other != 0], want, rtol=1e-9, atol=1e-9)
    with pytest.raises(SoftmapError, match="position_ids would become a constant"):
        torch.jit.trace(lambda i, p: model(i, position_ids=p).logits, (IDS, torch.arange(4)[None]))


def test_fields_given_at_loading_are_checked(make: Callable[..., Any], tmp_path: Any) -> None:
    make().save_pretrained(tmp_path)
    for options, message in (
        ({"variant": "fp16"}, "unknown variant 'fp16'"),
        ({"use_cache": "no"}, "use_cache must be True or False"),
    ):
        with pytest.raises(SoftmapError, match=message):
            SoftmapForCausalLM.config_class.from_pretrained(tmp_path, **options)
    with pytest.raises(SoftmapError, match="unexpected keyword argument 'foo'"):
        SoftmapForCausalLM.from_pretrained(tmp_path, foo=3)
