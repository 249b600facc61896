"""The model of costs, by numbers worked out by hand, and beside a real step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from softmap.cost import (
    Assumptions,
    Gpu,
    Job,
    LiveBytes,
    estimate,
    find,
    memory,
    of_device,
    parse,
    pieces,
    traffic,
)
from softmap.cost.fit import changes, more_ranks, remedies, remedies_within, shortage, usable_memory
from softmap.cost.memory import moments
from softmap.errors import SoftmapError
from softmap.nn import ModelConfig, accounting
from softmap.train import Layout

CONFIG = ModelConfig(
    vocab_size=10, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12
)
ALL = Layout(shard="all")
# Of CONFIG: four projections of 8 x 8, an MLP of 12, two norms; embeddings and the last norm.
BLOCK, ROOT = 4 * 64 + 3 * 96 + 2 * 8, 80 + 8
# The first of three ranks has 3 of 8 rows, 4 of 12 and 4 of 10.
BLOCK_OF_3, ROOT_OF_3 = 4 * 3 * 8 + 2 * 4 * 8 + 3 * 12 + 2 * 3, 4 * 8 + 3


def job(**changed: object) -> Job:
    return replace(Job(CONFIG, 32, 12, "bf16", ALL, ranks=3), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("h100", "such as 256xh100"),
        ("0xh100", "such as 256xh100"),
        ("-8xh100", "such as 256xh100"),
        ("8xh10", "did you mean 'h100'"),
        ("8xtpu", "there are: a100"),
    ],
)
def test_gpus_that_are_none(text: str, part: str) -> None:
    with pytest.raises(SoftmapError, match=part):
        parse(text)


def test_gpus_by_their_names() -> None:
    assert parse("256xH100") == (256, find("h100"))
    assert of_device("NVIDIA H100 80GB HBM3") is find("h100")
    assert of_device("NVIDIA H100 PCIe") is None  # another peak
    assert of_device("") is None


def test_live_counts_what_is_held() -> None:
    known = torch.zeros(100)
    with LiveBytes([known]) as live:
        one = known + 1  # 400 bytes
        view = one[:10]
        two = torch.zeros(50, dtype=torch.float64)
        assert live.now == 800
        del one
        assert live.now == 800  # the view holds it
        del view, two
        known.add_(1)
        assert live.now == 0
    assert live.peak == 800
    assert live.curve[0] == 400 and live.curve[-1] == 0


def test_live_counts_a_dtensors_part() -> None:
    """Of two ranks this one has half, of what is made inside an operation, too."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, zeros
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        with LiveBytes() as live:
            one = zeros(8, 4, device_mesh=mesh, placements=[Shard(0)])
            assert live.now == 64
            two = torch.zeros_like(one)
            assert live.now == 128
            del two
            assert live.now == 64
    finally:
        torch.distributed.destroy_process_group()


def test_sizes_of_a_part() -> None:
    one, three = job(ranks=1).sizes, job().sizes
    assert (one.blocks, one.root, one.total) == (2 * BLOCK, ROOT, 2 * BLOCK + ROOT)
    assert one.total == accounting.parameters(CONFIG)["total"]
    assert (three.blocks, three.root, three.held) == (
        2 * BLOCK_OF_3, ROOT_OF_3, 2 * BLOCK_OF_3 + ROOT_OF_3,
    )  # fmt: skip
    assert (three.block, three.outside, three.head, three.layers) == (BLOCK, ROOT, 80, 2)
    untied = replace(CONFIG, tie_word_embeddings=False)
    assert job(config=untied).sizes.total == one.total + 80


def test_what_a_block_and_the_head_keep() -> None:
    """By the block: its output, float32. Of the loss: logits and their log-softmax."""
    kept = pieces.block(CONFIG, "bf16", "block")
    assert kept.kept_by(32) == 32 * 4 * 8
    all_of_it = pieces.block(CONFIG, "bf16", "none")
    assert kept.kept_by(32) < pieces.block(CONFIG, "bf16", "selective").kept_by(32)
    assert pieces.block(CONFIG, "bf16", "selective").kept_by(32) < all_of_it.kept_by(32)
    # Matrices in bfloat16; tables of positions are a few kilobytes.
    wide = pieces.block(replace(CONFIG, hidden_size=64, intermediate_size=160), "bf16", "none")
    assert wide.copies == pytest.approx(2 * (4 * 64 * 64 + 3 * 64 * 160), abs=9000)
    head = pieces.head(CONFIG, "fp32")
    assert head.kept_by(32) == pytest.approx(32 * 10 * 8, abs=32)
    assert head.peak(32) >= 32 * 10 * 12  # the gradient beside them


def test_memory_of_the_model_by_hand() -> None:
    found = memory(job())
    held = 2 * BLOCK_OF_3 + ROOT_OF_3
    assert (found.parameters, found.optimiser) == (4 * held, 8 * held)
    assert found.total == sum(found.by_kind.values())
    by_name = {one.moment: one for one in moments(job(micro_batch_size=2))}
    assert by_name["loss"].gradients == 4 * (2 * BLOCK + ROOT)  # whole, while they accumulate
    assert {one.moment: one for one in moments(job())}["loss"].gradients == 0
    ddp = {one.moment: one for one in moments(job(layout=Layout(), precision="fp32"))}
    alone = {one.moment: one for one in moments(job(ranks=1, precision="fp32"))}
    assert ddp["loss"].temporary - alone["loss"].temporary == 4 * (2 * BLOCK + ROOT)  # buckets


def test_traffic_by_hand() -> None:
    found = traffic(job(micro_batch_size=2))  # 4 sequences a rank: two micro-batches
    assert found.gather == 2 * 2 * (2 * 2 * 2 * BLOCK_OF_3 + 4 * ROOT_OF_3)
    assert found.scatter == 2 * 4 * (2 * BLOCK_OF_3 + ROOT_OF_3)
    assert (found.copies, found.context) == (0, 0)
    ddp = traffic(job(layout=Layout()))
    whole = 4 * (2 * BLOCK + ROOT)
    assert ddp.copies == pytest.approx(2 * 2 / 3 * whole)
    assert (ddp.gather, ddp.scatter) == (0, 0)
    # Keys and values of 8 channels each, in bfloat16 there and float32 back, over two layers; of
    # 34 tokens on 3 ranks (bands of 5, 6, 6, 5, 6, 6) the second has most, 12.
    shared = job(layout=Layout(context=3), context=34)
    assert traffic(shared).context == 2 * 2 * 12 * 12 * (16 * 2 + 16 * 4)
    again = job(layout=Layout(context=3, activations="block"), context=34)
    assert traffic(again).context == 2 * 2 * 12 * 12 * (2 * 16 * 2 + 16 * 4)


def test_time_by_hand() -> None:
    gpu = Gpu("toy", {"bf16": 1e9, "fp32": 1e8}, 1e9, 1e15, 1e15, 1e15, (), ())
    one, given = job(steps=100), Assumptions(efficiency=0.5)
    found = estimate(one, gpu, given)
    per_token = accounting.flops_per_token(CONFIG, 32)
    assert found.compute == pytest.approx(per_token * 12 * 32 / (3 * 0.5e9))
    assert found.flops_per_step == per_token * 12 * 32
    assert found.tokens == 100 * 12 * 32
    assert found.mfu == pytest.approx(0.5)
    assert found.days == pytest.approx(100 * found.compute / 86400, rel=1e-4)
    # Blocks once more, the head (2 V D) not.
    again = estimate(replace(one, layout=replace(ALL, activations="block")), gpu, given)
    forward = per_token / 3
    assert again.compute / found.compute == pytest.approx((4 * forward - 160) / (3 * forward))
    # Slow links: sending is what takes the time.
    slow = estimate(one, replace(gpu, network=1e3), given)
    sent = traffic(one)
    assert slow.send == pytest.approx((sent.gather + sent.scatter) / 800)
    assert slow.seconds == pytest.approx(slow.send, rel=1e-3)


def test_what_would_fit() -> None:
    """Whatever is said would fit does, and what fits is not complained of."""
    config = replace(CONFIG, hidden_size=64, intermediate_size=256, vocab_size=64)
    one, given = Job(config, 64, 8, "bf16", Layout(), ranks=2), Assumptions(reserve=0.5)
    needed = memory(one).total
    gpu = replace(find("h100"), memory=2.2 * needed)
    assert shortage("x", one, gpu, given) is None
    gpu = replace(gpu, memory=1.7 * needed)
    line = shortage("x", one, gpu, given)
    assert line is not None and line.startswith("x: does not fit: a rank needs ")
    named = {change.words: change for change in [*changes(one), *more_ranks(one, gpu)]}
    found = [words for words in remedies(one, gpu, given) if words in named]
    assert found and all(words in line for words in found)
    for words in found:
        assert memory(named[words].of(one)).total <= usable_memory(gpu, given), words
    here = remedies_within(
        one, usable_memory(gpu, given)
    )  # a device that is there: no others are named
    assert here and set(here) <= set(found) and not any("x" in words for words in here)
    gpu = replace(gpu, memory=1.0)
    assert "nothing that was tried would fit" in str(shortage("x", one, gpu, given))


def test_memory_beside_a_real_step() -> None:
    """The most bytes that torch held in a step, within a tenth."""
    from softmap.hf import SoftmapConfig, SoftmapForCausalLM

    config = replace(CONFIG, hidden_size=64, vocab_size=256, intermediate_size=160)
    one = Job(config, 64, 16, "fp32", Layout())
    ids = torch.zeros(16, 64, dtype=torch.int64)
    with LiveBytes([ids]) as live:
        model = SoftmapForCausalLM(
            SoftmapConfig(
                vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=160, impl="chunked",
            )
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            live.curve.clear()
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids, shift_labels=ids).loss.backward()
            optimizer.step()
    assert memory(one).total == pytest.approx(live.peak, rel=0.1)
