from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from train_stub import BATCH, CONTEXT, Stub, batches, same, weights

from softmap.errors import SoftmapError
from softmap.train import Parallel, TrainingOptions, rng
from softmap.train.optim import adamw, weight_decay_groups
from softmap.train.step import train_step


def one_step(model, batch=None, **changes):
    options = TrainingOptions(
        **{"steps": 4, "batch_size": BATCH, "context": CONTEXT, "peak_lr": 0.01, **changes}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batch = batches(0) if batch is None else batch
    parallel = Parallel(torch.device("cpu"))
    return train_step(model, optimizer, batch, 0.01, options, parallel)


def grads(model):
    return {name: p.grad for name, p in model.named_parameters()}


def close(a, b):
    return all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_accumulation_equals_the_whole_batch(rows):
    whole, parts = Stub().eval(), Stub().eval()
    expected = one_step(whole, clip=None)
    found = one_step(parts, clip=None, micro_batch_size=rows)
    assert found == pytest.approx(expected, rel=1e-5)
    assert close(grads(parts), grads(whole))


def test_accumulation_weighs_by_targets_not_by_rows():
    inputs = batches(0)
    labels = inputs.clone()
    labels[0, 2:] = -100  # the first row keeps one target,
    labels[3] = -100  # the last none at all
    whole, parts = Stub().eval(), Stub().eval()
    expected = one_step(whole, (inputs, labels), clip=None)
    found = one_step(parts, (inputs, labels), clip=None, micro_batch_size=1)
    assert found == pytest.approx(expected, rel=1e-5)
    assert close(grads(parts), grads(whole))
    with pytest.raises(SoftmapError, match="targets"):
        one_step(parts, (inputs, torch.full_like(labels, -100)))


def test_clipping_bounds_the_global_norm_and_reports_it_before():
    model = Stub().eval()
    _, before = one_step(model, clip=0.01)
    after = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert before > 0.01
    assert after == pytest.approx(0.01, rel=1e-3)


def test_no_update_is_made_of_a_non_finite_gradient():
    model = Stub()
    model.norm.weight.data[0] = float("nan")
    before = weights(model)
    loss, norm = one_step(model)
    assert np.isnan(loss) and np.isnan(norm)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in
               zip(before.values(), weights(model).values(), strict=True))  # fmt: skip


def test_bf16_runs_the_forward_pass_in_low_precision_and_keeps_the_weights():
    seen = []

    class Watched(Stub):
        def forward(self, input_ids, labels, shift_labels=None):
            output = super().forward(input_ids, labels, shift_labels)
            seen.append(output.logits.dtype)
            return output

    model = Watched().eval()
    low = one_step(model, precision="bf16")
    full = one_step(model, precision="fp32")
    assert seen == [torch.bfloat16, torch.float32]
    assert low[0] == pytest.approx(full[0], rel=0.02) and low[0] != full[0]
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_weight_decay_falls_on_matrices_alone():
    decayed, free = weight_decay_groups(Stub())
    assert set(decayed) == {"mix.weight"}
    assert set(free) == {"embed.weight", "mix.bias", "norm.weight", "norm.bias", "per_head"}


def test_a_tag_on_the_module_outlives_a_copy():
    class Tagged(nn.Linear):
        no_weight_decay = ("weight",)

    decayed, free = weight_decay_groups(copy.deepcopy(nn.Sequential(Tagged(2, 2))))
    assert not decayed and set(free) == {"0.weight", "0.bias"}


def test_frozen_parameters_are_left_out():
    model = Stub()
    model.mix.requires_grad_(False)
    decayed, free = weight_decay_groups(model)
    assert not decayed and "mix.bias" not in free
    assert len(adamw(model, lr=0.1, weight_decay=0.1, betas=(0.9, 0.95)).param_groups) == 1


def test_adamw_decays_by_group():
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = adamw(model, lr=0.5, weight_decay=0.2, betas=(0.9, 0.95))
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(model[0].weight, before["0.weight"] * 0.9)  # 1 - lr * decay
    assert torch.equal(model[0].bias, before["0.bias"])


def test_random_states_come_back_and_can_be_preserved():
    def draw():
        import random

        return torch.rand(1).item(), np.random.rand(), np.random.randn(), random.gauss(0, 1)

    rng.seed(3)
    first = draw()
    rng.seed(3)
    with rng.preserved():
        draw()
    assert draw() == first
    assert draw() != first


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_loss(tmp_path):
    from softmap.train import train

    losses = {}
    for compiled in (False, True):
        model = Stub()
        model.dropout.p = 0.0
        options = TrainingOptions(
            steps=4, batch_size=BATCH, context=CONTEXT, peak_lr=0.01, compile=compiled, log_every=1
        )
        losses[compiled] = []
        folder = tmp_path / str(compiled)
        train(model, batches, options, folder,
              on_step=lambda m, c=compiled: losses[c].append(m["loss"]))  # fmt: skip
        loaded = Stub(seed=5)
        train(loaded, batches, options, folder)
        assert same(weights(model), weights(loaded))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
