"""PEFT: adapters train a step, are saved, loaded and merged; prefixes enter the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

peft = pytest.importorskip("peft")

from ecosystem_models import moved, small, weights  # noqa: E402

from softmap.errors import SoftmapError  # noqa: E402

IDS = torch.tensor([[3, 9, 4, 5, 6, 7], [8, 2, 11, 5, 9, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "dora": lambda: peft.LoraConfig(use_dora=True, **LORA),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("way", CONFIGS)
def test_adapters(way: str, tmp_path: Path) -> None:
    """The adapter alone moves; saved and loaded it says the same, and merged too."""
    variant = "transformer++" if way == "prefix" else "diff+dcmha"
    model = peft.get_peft_model(small(variant), CONFIGS[way]())
    before = weights(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(IDS, attention_mask=MASK, labels=IDS).loss.backward()
        optimizer.step()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and moved(model, before) == trained
    got = model.eval()(IDS).logits
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(small(variant), tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, got)
    texts = again.generate(input_ids=IDS, max_new_tokens=4, do_sample=False)
    assert texts.shape == (2, 10)
    if way in ("lora", "dora"):
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, got, rtol=1e-4, atol=1e-4)
        texts_of_merged = merged.generate(IDS, max_new_tokens=4, do_sample=False)
        assert torch.equal(texts, texts_of_merged)


def test_a_prefix_is_what_a_cache_of_it_holds() -> None:
    """Three tokens' keys and values as the prefix: what follows is as if they had been read."""
    model = small("transformer++").double().eval()
    first, rest = IDS[:, :3], IDS[:, 3:]
    held = model(first).past_key_values
    prefix = [(layer.keys, layer.values) for layer in held.layers]
    from transformers import DynamicCache

    got = model(rest, past_key_values=DynamicCache(prefix), attention_mask=torch.ones(2, 6).long())
    torch.testing.assert_close(got.logits, model(IDS).logits[:, 3:])


@pytest.mark.parametrize("variant", ["dcmha", "diff", "sas", "dcmha(pattern=LG,window=4)"])
def test_variants_that_keep_more_refuse_a_prefix(variant: str) -> None:
    model = peft.get_peft_model(small(variant), CONFIGS["prefix"]())
    with pytest.raises(SoftmapError, match="cannot take a prefix of plain keys and values"):
        model(IDS)
