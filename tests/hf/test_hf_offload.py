"""Layers on disk: accelerate's hooks load a module's parameters only while it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.testing.subject import perturb
from softmap.variants import names

pytest.importorskip("accelerate")


@pytest.mark.parametrize("variant", [*names(), "dape(bias=fire)", "dcmha(static=true)"])
def test_layers_on_disk(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SoftmapConfig(
        variant=variant, vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    model, ids = perturb(SoftmapForCausalLM(config)).eval(), torch.arange(1, 9)[None]
    model.save_pretrained(tmp_path)
    names = [n for n, _ in model.named_children() if n != "model"]
    where = dict.fromkeys([*names, *(f"model.{n}" for n, _ in model.model.named_children())], "cpu")
    where |= {"model.layers": "disk"}
    offloaded = SoftmapForCausalLM.from_pretrained(
        tmp_path, device_map=where, offload_folder=tmp_path / "offloaded"
    ).eval()
    assert any(p.device.type == "meta" for p in offloaded.parameters())
    with torch.no_grad():
        want = model(ids).logits
        assert torch.equal(offloaded(ids).logits, want)
    got = offloaded.generate(ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(got, model.generate(ids, max_new_tokens=3, do_sample=False))
