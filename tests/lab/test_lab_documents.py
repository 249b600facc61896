"""Packed documents, each read by itself; and the text that a checkpoint was made of."""

from __future__ import annotations

from pathlib import Path

import lab_tiny
import numpy as np
import pytest
import torch

from softmap.data import order
from softmap.errors import SoftmapError
from softmap.evals.loss import token_losses
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.lab import recipe as recipes
from softmap.lab.learn import LearnRequest, recipe_of
from softmap.lab.one import TrainRequest, train_one
from softmap.lab.preflight import preflight
from softmap.nn.positions import apart
from softmap.train import Parallel, TrainingOptions
from softmap.train.options import check_same_run
from softmap.train.step import train_step

END = 0
PACKED = torch.tensor([[5, 6, 7, END, 8, 9, END, 3, 4], [1, 2, END, END, 4, 5, 6, 7, 8]])
# Each document begins with the end of the one before; what is asked of it is what follows.
APART = [
    [5, 6, 7, END],
    [END, 8, 9, END],
    [END, 3, 4],
    [1, 2, END],
    [END, END],
    [END, 4, 5, 6, 7, 8],
]


def model(variant: str) -> SoftmapForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return SoftmapForCausalLM(
        SoftmapConfig(variant=variant, vocab_size=10, initializer_range=0.5, **shape)
    ).double()


def grads(one: SoftmapForCausalLM) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in one.named_parameters()}


@pytest.mark.parametrize(("variant", "rows"), [("diff", None), ("dcmha", 1)])
def test_a_step_on_packed_documents_is_a_step_on_each_alone(variant: str, rows: int | None) -> None:
    packed, alone = model(variant), model(variant)
    options = TrainingOptions(
        steps=3, batch_size=2, context=8, peak_lr=0.1, clip=None, document_end=END,
        micro_batch_size=rows,
    )  # fmt: skip
    optimizer = torch.optim.SGD(packed.parameters(), lr=0.0)
    found, _ = train_step(packed, optimizer, PACKED, 0.0, options, Parallel(torch.device("cpu")))
    total = torch.zeros((), dtype=torch.float64)
    for document in APART:
        ids = torch.tensor([document])
        total = total + alone(ids, labels=ids).loss * (len(document) - 1) / 16
    total.backward()
    assert found == pytest.approx(total.item(), rel=1e-6)
    for name, expected in grads(alone).items():
        torch.testing.assert_close(grads(packed)[name], expected, msg=name, rtol=1e-4, atol=1e-7)


def test_held_out_losses_are_those_of_each_document_alone() -> None:
    one = model("diff").float()
    found = token_losses(one, PACKED.numpy(), end=END)
    expected = [token_losses(one, np.array([document]))[0] for document in APART]
    np.testing.assert_allclose(found.flatten(), np.concatenate(expected), rtol=1e-4, atol=1e-5)
    assert apart(PACKED, None) == {}


def test_a_checkpoint_knows_its_text() -> None:
    given = {"steps": 4, "batch_size": 2, "context": 8, "peak_lr": 0.1}
    saved = TrainingOptions(**given, data="aaaa").identity()  # type: ignore[arg-type]
    with pytest.raises(SoftmapError, match=r"^there: .* expected text of hash bbbb, found aaaa$"):
        check_same_run(saved, TrainingOptions(**given, data="bbbb"), "there")  # type: ignore[arg-type]
    for later in ("data", "document_end"):
        saved.pop(later)
    check_same_run(saved, TrainingOptions(**given, data="bbbb"), "there")  # type: ignore[arg-type]
    with pytest.raises(SoftmapError, match="expected document_end 0, found None"):
        check_same_run(saved, TrainingOptions(**given, document_end=0), "there")  # type: ignore[arg-type]


SEPARATE = {"training.separate_documents": "true"}


def test_what_cannot_read_documents_apart_is_refused(tmp_path: Path) -> None:
    text = lab_tiny.write_recipe(tmp_path).read_text().replace("diff]", "multi-token]")
    recipe = recipes.parse(text, tmp_path / "tiny.yaml", SEPARATE)
    with pytest.raises(SoftmapError, match=r"^multi-token: .* earlier rows, .* without a halo"):
        preflight(recipe, lambda _: None)
    with pytest.raises(SoftmapError, match=r"^learn: training\.separate_documents"):
        recipe_of(LearnRequest("recall", settings=dict(SEPARATE)))


@pytest.mark.slow
def test_a_mixture_of_documents_trains_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch as the order says; another text is refused before anything is trained."""
    for name, words in (("a", 300), ("b", 100)):
        (tmp_path / name).mkdir()
        for n in range(20):
            (tmp_path / name / f"{n}.txt").write_text(f"{name} {n} " * words)
    few = {
        "training.steps": "4", "training.budgets": "[1]", "data.heldout": "0.2",
        "data.data": f"[{{data: {tmp_path}/a, weight: 2}}, {{data: {tmp_path}/b}}]", **SEPARATE,
    }  # fmt: skip
    recipe = recipes.load(lab_tiny.write_recipe(tmp_path), few)
    drawn: list[int] = []
    batch = order.batch

    def recorded(*given: object, step: int, **named: object) -> np.ndarray:
        drawn.append(step)
        if step == 2 and drawn.count(2) == 2:  # 1: what a checkpoint says comes next
            raise KeyboardInterrupt
        return batch(*given, step=step, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(order, "batch", recorded)
    wanted = TrainRequest(out=tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt):
        train_one(recipe, wanted)
    monkeypatch.setattr(order, "batch", batch)
    model = train_one(recipe, wanted)
    once = train_one(recipe, TrainRequest(out=tmp_path / "once"))
    weights = [folder / "model.safetensors" for folder in (model, once)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    (tmp_path / "a" / "0.txt").write_text("another")
    with pytest.raises(SoftmapError, match=r"holds another run: data was \w{32}, is \w{32}"):
        train_one(recipe, wanted)
