"""Muon for hidden matrices, AdamW for the rest: each as torch has it, and both in a checkpoint."""

from __future__ import annotations

import pytest
import torch
from train_stub import BATCH, CONTEXT, Stub, batches, same, weights

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.train import TrainingOptions, train
from softmap.train.optim import adamw, hidden_matrices, optimizer_of

OPTIONS = TrainingOptions(
    steps=6, batch_size=BATCH, context=CONTEXT, peak_lr=0.05, weight_decay=0.2, optimizer="muon",
    checkpoint_every=1,
)  # fmt: skip


def test_hidden_matrices_are_neither_embeddings_nor_the_head():
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SoftmapConfig(variant="dcmha", vocab_size=9, tie_word_embeddings=False, **shape)
    model = SoftmapForCausalLM(config)
    found = hidden_matrices(model)
    assert {"model.layers.0.attention.q_proj.weight"} <= set(found)
    others = {name for name, _ in model.named_parameters()} - set(found)
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= others
    assert all(p.ndim == 2 for p in found.values()) and len(found) > 6


def test_steps_are_those_of_torch():
    mine, its = Stub().eval(), Stub().eval()
    optimizer = optimizer_of(mine, OPTIONS)
    given = {"lr": 0.05, "weight_decay": 0.2}
    muon = torch.optim.Muon([its.mix.weight], adjust_lr_fn="match_rms_adamw", **given)
    rest = [p for p in its.parameters() if p is not its.mix.weight]
    parts = [muon, adamw(its, betas=(0.9, 0.95), only=set(rest), **given)]
    for step in range(3):
        for model, steps in ((mine, [optimizer]), (its, parts)):
            model.zero_grad()
            model(batches(step), batches(step)).loss.backward()
            for one in steps:
                for group in one.param_groups:
                    group["lr"] = 0.05 / (step + 1)
                one.step()
    assert same(weights(mine), weights(its))
    assert set(optimizer.state[mine.mix.weight]) == {"momentum_buffer"}
    assert "exp_avg" in optimizer.state[mine.mix.bias]


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path):
    once, twice, again = Stub(), Stub(), Stub(3)
    train(once, batches, OPTIONS, tmp_path / "once")
    left = iter([False] * 3 + [True])
    train(twice, batches, OPTIONS, tmp_path / "twice", should_stop=lambda: next(left))
    assert train(again, batches, OPTIONS, tmp_path / "twice").finished
    assert same(weights(once), weights(again))
    other = TrainingOptions(**{**vars(OPTIONS), "optimizer": "adamw"})
    with pytest.raises(SoftmapError, match="expected optimizer adamw, found muon"):
        train(Stub(), batches, other, tmp_path / "twice")


def test_shards_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.nn.Parameter, "full_tensor", None, raising=False)
    with pytest.raises(SoftmapError, match=r"^mix\.weight: optimizer muon needs whole matrices"):
        optimizer_of(Stub(), OPTIONS)
