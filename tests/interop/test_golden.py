"""The reference implementations' tensors, at the tolerances that come with them."""

from __future__ import annotations

import pytest
import torch
from interop_golden import golden, largest

from softmap.interop import from_official


@pytest.mark.parametrize("name", ["diff_mha", "diff_gqa"])
def test_diff_output_and_gradient(name):
    given, state, config = golden(name)
    module = from_official("diff-attention", state, config)
    x = given["x"].clone().requires_grad_()
    y = module(x)
    (grad,) = torch.autograd.grad(y.pow(2).sum(), x)
    assert largest(y, given["y"]) < 1e-10
    assert largest(grad, given["grad_x"]) < 1e-10


@pytest.mark.parametrize("name", ["dcformer_full", "dcformer_train_full"])
@torch.no_grad()
def test_dcformer_logits(name):
    given, state, config = golden(name)
    model = from_official("dcformer", state, config)
    assert largest(model(given["input_ids"]).logits, given["logits"]) < 2e-5


@torch.no_grad()
def test_dcformer_decodes_greedily_with_its_cache():
    given, state, config = golden("dcformer_full")
    model = from_official("dcformer", state, config)
    out = model(given["input_ids"])
    for n in range(3):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=out.past_key_values)
        assert largest(out.logits[:, 0], given["decode_logits"][:, n]) < 2e-5


def test_dcformer_generates_the_greedy_tokens():
    given, state, config = golden("dcformer_full")
    model = from_official("dcformer", state, config)
    ids = model.generate(given["input_ids"], max_new_tokens=4, do_sample=False, eos_token_id=None)
    expected = [given["logits"][:, -1:], *given["decode_logits"].split(1, 1)]
    assert torch.equal(ids[:, -4:], torch.cat(expected, 1).argmax(-1))


def test_dape_scores_on_all_rows_but_the_last():
    given, state, config = golden("dapev2_kerple")
    out = from_official("dape-v2", state, config)(given["scores"])
    assert largest(out[:, :, :-1], given["out"][:, :, :-1]) < 1e-10
    # Their array ends there; the row before it does not show whether ours reads on.
    assert largest(out[:, :, -1], given["out"][:, :, -1]) > 1e-3


@pytest.mark.parametrize("name", ["sas_default", "sas_skipless", "sas_skipless_parallel"])
def test_simplified_blocks(name):
    given, state, config = golden(name)
    stack = from_official("simplified-blocks", state, config)
    assert largest(stack(given["x"]), given["y"]) < 1e-10
    caches = stack.new_caches()
    steps = [stack(x, caches) for x in given["x"].split(1, 1)]
    assert largest(torch.cat(steps, 1), given["y"]) < 1e-10
