"""FSDP2 on one process: each module sharded by itself frees its parameters after its call."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from softmap.nn import Attention
from softmap.testing.subject import perturb
from softmap.variants import names


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    store: Path = tmp_path_factory.mktemp("store") / "file"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("variant", [*names(), "dape(bias=fire)", "dcmha(static=true)"])
def test_sharded_by_the_module(mesh: object, variant: str) -> None:
    """Outputs and gradients are those of the layer that is not sharded."""
    torch.manual_seed(0)
    layer = perturb(Attention(16, 4, variant, impl="chunked"))
    x, sharded = torch.randn(2, 9, 16), copy.deepcopy(layer)
    for module in reversed(list(sharded.modules())):
        if list(module.parameters(recurse=False)):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(sharded, mesh=mesh)
    want, got = layer(x), sharded(x)
    torch.testing.assert_close(got, want)
    (want.cos().sum() + got.cos().sum()).backward()
    for (name, p), q in zip(layer.named_parameters(), sharded.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None, name
        torch.testing.assert_close(q.grad.full_tensor(), p.grad, msg=name)
