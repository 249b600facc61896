"""What one of several ranks does in the tests of ``test_ranks.py``: python ranks.py WORK FOLDER."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.nn import Share
from softmap.testing.subject import perturb
from softmap.train import Checkpoints, Layout, Parallel, TrainingOptions, checkpoint, train
from softmap.train.processes import check_same, named_errors, processes
from softmap.variants import names

CPU = torch.device("cpu")
OPTIONS = TrainingOptions(
    steps=4, budgets=(2, 4), batch_size=6, micro_batch_size=2, context=9, peak_lr=0.02, log_every=1
)


def layouts_of(ranks: int) -> dict[str, Layout]:
    if ranks == 4:
        return {"hsdp": Layout(shard=2, context=2)}
    return {
        "ddp": Layout(),
        "fsdp": Layout(shard="all", activations="block"),
        "context": Layout(context=ranks),
        "both": Layout(shard=ranks, context=ranks, activations="selective"),
    }


def model(variant: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    shape = {"vocab_size": 24, "hidden_size": 16, "num_attention_heads": 4, **sizes}
    shape = {"num_hidden_layers": 2, "max_position_embeddings": 32, **shape}
    return perturb(SoftmapForCausalLM(SoftmapConfig(variant=variant, **shape)))


def batches(options: TrainingOptions, parallel: Parallel) -> Any:
    """Labels that are not all to be learned: unevenly many on each rank, none in some pieces."""
    rows = parallel.rows(options.batch_size)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        made = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 24, (options.batch_size, options.context + 1), generator=made)
        labels = ids.clone()
        labels[0, :4] = labels[4:] = -100
        return ids[rows], labels[rows]

    return batch


def run(
    net: Any, options: TrainingOptions, folder: Path, parallel: Parallel, **more: Any
) -> list[float]:
    """The losses of a training, and the first norm: Adam's first steps, where gradients are hardly
    more than rounding, make more of it in later ones."""
    train(net, batches(options, parallel), options, folder, parallel=parallel, **more)
    lines = parallel.by_first(lambda: (folder / "train.jsonl").read_text().splitlines())
    found = [json.loads(line) for line in lines]
    return [line["loss"] for line in found] + [found[0]["grad_norm"]]


def laid_out(parallel: Parallel, layout: Layout) -> Parallel:
    return type(parallel)(CPU, layout, parallel.rank, parallel.ranks)


def layouts(folder: Path, parallel: Parallel) -> None:
    """Each layout has the loss curve of one process."""
    alone = Parallel(CPU)
    want = run(model("fire"), OPTIONS, folder / f"alone{parallel.rank}", alone)
    for name, layout in layouts_of(parallel.ranks).items():
        got = run(model("fire"), OPTIONS, folder / name, laid_out(parallel, layout))
        torch.testing.assert_close(torch.tensor(got), torch.tensor(want), msg=f"{name} {got}")
    low = replace(OPTIONS, precision="bf16")
    want = run(model("fire"), low, folder / f"low{parallel.rank}", alone)
    got = run(model("fire"), low, folder / "low", laid_out(parallel, Layout(shard="all")))
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), rtol=0.02, atol=0.02)


def variants(folder: Path, parallel: Parallel) -> None:
    """Every variant, replicated and sharded with shared sequences."""
    options, alone = replace(OPTIONS, steps=2, budgets=(2,)), Parallel(CPU)
    for variant in (*names(), "dape(bias=fire)", "sas+dcmha"):
        want = run(model(variant), options, folder / variant / f"alone{parallel.rank}", alone)
        for name in ("ddp", "both"):
            mine = laid_out(parallel, layouts_of(parallel.ranks)[name])
            got = run(model(variant), options, folder / variant / name, mine)
            about = f"{variant}, {name}: {got}, alone {want}"
            torch.testing.assert_close(torch.tensor(got), torch.tensor(want), msg=about)


def compiled(folder: Path, parallel: Parallel) -> None:
    """Each block by itself, between what sharding does."""
    alone, options = Parallel(CPU), replace(OPTIONS, compile=True, context=8)
    plain = replace(options, compile=False)
    want = run(model("diff"), plain, folder / f"alone{parallel.rank}", alone)
    for name in ("ddp", "fsdp", "both"):
        mine = laid_out(parallel, layouts_of(parallel.ranks)[name])
        got = run(model("diff"), options, folder / name, mine)
        torch.testing.assert_close(torch.tensor(got), torch.tensor(want), msg=f"{name} {got}")


def resume(folder: Path, parallel: Parallel) -> None:
    """Stopped after each step and gone on with: the same bits; every rank says so."""
    mine = laid_out(parallel, Layout(shard="all"))
    options = replace(OPTIONS, checkpoint_every=1)
    whole = run(model("dcmha"), options, folder / "whole", mine)
    for _ in range(2):
        asked = iter([False, False, True])
        train(
            model("dcmha"), batches(options, mine), options, folder / "parts",
            parallel=mine, should_stop=lambda asked=asked: next(asked),
        )  # fmt: skip
    assert run(model("dcmha"), options, folder / "parts", mine) == whole
    lines = (folder / "parts" / "resumes.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(line["rank"], line["step"]) for line in found] == [
        (rank, step) for step in (2, 3) for rank in range(parallel.ranks)
    ]
    assert all(line["exact"] for line in found)
    assert [line["lr"] for line in found[:: parallel.ranks]] == [None, OPTIONS.plan()[1].lr(3)]


def sigterm(folder: Path, parallel: Parallel) -> None:
    """One rank is told to stop: all save after the same step."""
    mine = laid_out(parallel, Layout())
    given = batches(OPTIONS, mine)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        if parallel.rank == parallel.ranks - 1 and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return given(step)

    state = train(model("diff"), batch, OPTIONS, folder, parallel=mine)
    assert (state.step, state.signal, state.finished) == (3, signal.SIGTERM, False)
    assert Checkpoints(folder / "checkpoints", parallel=mine).latest()[1]["step"] == 3


def refusals(folder: Path, parallel: Parallel) -> None:
    """What one rank finds is raised on all, in one line."""
    with pytest.raises(SoftmapError, match="same softmap: expected v0, as rank 0 has, found v1 on"):
        check_same(parallel, {"softmap": f"v{parallel.rank}"})
    with pytest.raises(SoftmapError, match="a parameter of shape"):
        net = model("diff")
        net.scale = nn.Parameter(torch.tensor(1.0))
        laid_out(parallel, Layout(shard="all")).wrap(net, compile=False, precision="fp32")
    mine = laid_out(parallel, Layout())
    run(model("diff"), OPTIONS, folder, mine)
    with pytest.raises(SoftmapError, match="found no such tensor"):
        run(model("dape"), OPTIONS, folder, mine)
    if parallel.rank == 0:
        (shard, *_) = (folder / "checkpoints" / "001-000000004").glob("shard-00002-*")
        shard.write_bytes(shard.read_bytes()[:-1])
    context = (
        pytest.warns(RuntimeWarning, match="truncated") if not parallel.rank else nullcontext()
    )
    with context:
        assert Checkpoints(folder / "checkpoints", parallel=mine).latest()[1]["step"] == 2


def hang(folder: Path, parallel: Parallel) -> None:
    """Nobody waits for ever: the group's time is 3 s here."""
    if parallel.rank:
        time.sleep(10)
        return
    late = pytest.raises(SoftmapError, match="rank 0: another process did not answer")
    with late, named_errors(parallel.layout):
        parallel.largest(1)
    os._exit(0)


def save(folder: Path, parallel: Parallel) -> None:
    """Stop after three steps, in the folder that ``go_on`` takes."""
    mine, asked = laid_out(parallel, Layout(shard="all")), iter([False] * 4 + [True])
    given = batches(OPTIONS, mine)
    train(
        model("dape(bias=fire)"), given, OPTIONS, folder.parent / "kept",
        parallel=mine, should_stop=lambda: next(asked),
    )  # fmt: skip


def go_on(folder: Path, parallel: Parallel) -> None:
    """From what another number of ranks has saved, to the losses of one process."""
    net, alone = model("dape(bias=fire)"), Parallel(CPU)
    want = run(net, OPTIONS, folder / f"alone{parallel.rank}", alone)
    mine = laid_out(parallel, Layout(shard="all"))
    got = run(model("dape(bias=fire)"), OPTIONS, folder.parent / "kept", mine)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want))
    if parallel.rank == 0:
        (line, *_) = (folder.parent / "kept" / "resumes.jsonl").read_text().splitlines()
        assert json.loads(line)["exact"] is None


def survive(folder: Path, parallel: Parallel) -> None:
    """One rank is killed in its third step, and in its next attempt in the middle of a save."""
    attempt, dying = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), parallel.rank == 1
    options = replace(OPTIONS, checkpoint_every=1)
    mine = laid_out(parallel, Layout(shard="all"))
    given = batches(options, mine)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        if dying and attempt == 0 and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return given(step)

    if dying and attempt == 1:
        checkpoint.sealed.checksums = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    net = model("diff")
    train(net, batch, options, folder, parallel=mine)
    if parallel.rank == 0:
        (folder / "attempts").write_text(str(attempt))


def undisturbed(folder: Path, parallel: Parallel) -> None:
    run(model("diff"), OPTIONS, folder, laid_out(parallel, Layout(shard="all")))


def context(folder: Path, parallel: Parallel) -> None:
    """Rows of every variant shared: outputs and gradients are those of whole sequences."""
    group = torch.distributed.group.WORLD
    for variant in (*names(), "dape(bias=fire)", "dcmha(qk_norm=true)+diff"):
        for tokens, documents in ((13, None), (11, [0] * 4 + [1] * 7)):
            packed = None if documents is None else torch.tensor([documents])
            _same(variant, tokens, packed, Share.of(group, tokens))


def _same(variant: str, tokens: int, documents: Tensor | None, share: Share) -> None:
    net = model(variant, num_hidden_layers=1).double()
    ids = torch.randint(0, 24, (2, tokens))
    whole = net(ids, documents=documents, use_cache=False).logits
    weight = torch.randn_like(whole)
    want = torch.autograd.grad((whole * weight).sum(), _trained(net), allow_unused=True)
    part = net(ids, documents=documents, share=share).logits
    torch.testing.assert_close(part, share.take(whole), msg=lambda text: f"{variant}: {text}")
    total = (part * share.take(weight)).sum()
    for g, w in zip(
        torch.autograd.grad(total, _trained(net), allow_unused=True), want, strict=True
    ):
        assert (g is None) == (w is None), variant
        if g is not None and w is not None:
            torch.distributed.all_reduce(g)
            torch.testing.assert_close(g, w, msg=lambda text: f"{variant}: {text}")


def _trained(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


def main(works: str, folder: Path) -> None:
    with processes(Layout(timeout=3 if works == "hang" else 120), CPU, {}) as parallel:
        for work in works.split(","):
            globals()[work](folder / work, parallel)
            if os.environ.get("SAY"):
                print(work, "ok", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
