"""Loss surfaces whose shape is known: a valley in two dimensions, and a tiny model's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import known
import pytest
import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.evals import points
from softmap.evals.question import Setting
from softmap.evals.subject import Subject
from softmap.evals.suites.river import River
from softmap.evals.surface import Surface, along_and_across, share_within
from softmap.evals.text import Text


class Valley(nn.Module):
    """A model of two weights that knows the next token of "abab...", and gives it the probability
    exp(-loss)."""

    def __init__(self, x: float = 0.0, y: float = 0.0, vocabulary: int = 257) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([x, y]))
        self.vocabulary = vocabulary

    def loss(self) -> Tensor:
        """Steep across (y), falling slowly along (x)."""
        return 50 * self.w[1] ** 2 + 0.5 * (self.w[0] - 1) ** 2

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        wanted = -self.loss()
        logits = torch.full((*input_ids.shape, self.vocabulary), 0.0)
        rest = torch.log((1 - wanted.exp()).clamp_min(1e-9) / (self.vocabulary - 1))
        logits = logits + rest
        following = torch.where(input_ids == ord("a"), ord("b"), ord("a"))
        mark = torch.nn.functional.one_hot(following, self.vocabulary).bool()
        return SimpleNamespace(logits=torch.where(mark, wanted, logits))


@pytest.mark.parametrize("size", [30])
def test_the_sharpest_directions_of_a_quadratic(size: int) -> None:
    curvatures = torch.linspace(1, 3, size) ** 4
    turned, _ = torch.linalg.qr(torch.randn(size, size, generator=torch.manual_seed(0)))
    hessian = turned @ torch.diag(curvatures) @ turned.T
    model = nn.ParameterList([nn.Parameter(torch.randn(size - 7)), nn.Parameter(torch.randn(7))])

    def loss() -> Tensor:
        w = torch.cat(list(model))
        return 0.5 * w @ hessian @ w

    values, directions = Surface(model).sharpest(loss, 3)
    assert values == pytest.approx(curvatures.flip(0)[:3].numpy(), rel=1e-2)
    assert torch.allclose((directions @ turned[:, -1]).abs()[0], torch.tensor(1.0), atol=1e-2)
    assert torch.allclose(directions @ directions.T, torch.eye(3), atol=1e-4)
    assert share_within(turned[:, -1] + turned[:, 0], directions) == pytest.approx(0.5, abs=0.02)


def test_steps_along_and_across() -> None:
    along, across = along_and_across(torch.tensor([3.0, 2.0]), torch.tensor([4.0, 0.0]))
    assert (along, across) == (0.75, 0.5)


def test_parameters_come_back() -> None:
    model = Valley(0.3, 0.2)
    surface = Surface(model)
    with surface.moved():
        surface.go(torch.tensor([1.0, 0.0]))
        assert model.loss().item() == 0
    assert torch.equal(surface.here, torch.tensor([0.3, 0.2]))


def valley(tmp_path: Path, pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> Subject:
    """Points of a training: by budget the weights before and after its decay."""
    folder = tmp_path / points.FOLDER
    for budget, (before, after) in enumerate(pairs):
        points.keep(Valley(*before), folder, budget, points.BEFORE)
        points.keep(Valley(*after), folder, budget, points.AFTER)
    who = known.subject(known.Uniform())
    return Subject(
        Valley(0.5, 0.1), who.tokenizer, context=16, vocabulary=257, folder=tmp_path / "model"
    )


def test_a_valley_is_seen_as_one(tmp_path: Path) -> None:
    """The stable phase stands on one side, then on the other; each decay falls to the middle."""
    who = valley(tmp_path, [((0.0, 0.1), (0.0, 0.0)), ((0.5, -0.1), (0.5, 0.0))])
    found = known.asked(
        River(windows=2, places=5, grid=3, directions=1, curved=1),
        who,
        text=Text("ab", ("ab" * 500,)),
    )
    assert found["fall"] == pytest.approx(0.5, rel=0.02)  # 50 * 0.1^2
    # Between the sides lies the floor: half-way 0.5 (0.75)^2 against (0.5 + 0.125) / 2 + 0.5.
    assert found["stable"] == pytest.approx(0.5 * 0.75**2 - 0.3125 - 0.5, rel=0.02)
    assert found["decayed"] == pytest.approx(0.5 * 0.75**2 - 0.3125, rel=0.02)
    assert (found["along"], found["across"]) == (pytest.approx(1), pytest.approx(0.4))
    assert found["along", "decay"] == pytest.approx(0, abs=1e-5)
    assert found["sharp"] == pytest.approx(1, abs=1e-3)  # a decay goes down the steep side alone
    assert found["sharp", "river"] == pytest.approx(0, abs=1e-3)
    # On the plane (0.25, -0.025), half-way along the river and a quarter up the side.
    assert found["plane", 0.5, 0.25] == pytest.approx(0.28125 + 0.03125 - 0.125, rel=0.01)
    assert who.model.w.tolist() == pytest.approx([0.5, 0.1])


def test_points_are_a_models_own(tmp_path: Path) -> None:
    model = known.tiny()
    points.keep(model, tmp_path, 0, points.AFTER)
    found = points.vector(points.kept(tmp_path)[0, points.AFTER], model)
    assert torch.equal(found, Surface(model).here)
    with pytest.raises(SoftmapError, match=r"expected .* found"):
        points.vector(points.kept(tmp_path)[0, points.AFTER], known.tiny(vocabulary=64))
    (tmp_path / "0-after.safetensors").write_bytes(b"none")
    with pytest.raises(SoftmapError, match=r"0-after.safetensors: expected kept weights"):
        points.vector(tmp_path / "0-after.safetensors", model)


def test_curvature_of_a_real_model(tmp_path: Path) -> None:
    """Against the whole Hessian of a few parameters' block: Rayleigh quotients do not exceed it."""
    model = known.tiny("diff", layers=1)
    ids = torch.arange(20)[None] % 7

    def loss() -> Tensor:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])

    surface = Surface(model)
    (top,), (direction,) = surface.sharpest(loss, 1)
    here, step = surface.here, 1e-2
    with torch.no_grad(), surface.moved():
        values = []
        for side in (-step, 0.0, step):
            surface.go(here + side * direction)
            values.append(loss().double().item())
    second = (values[0] - 2 * values[1] + values[2]) / step**2
    assert second == pytest.approx(top, rel=0.1)


def test_without_points_one_line(tmp_path: Path) -> None:
    who = known.subject(known.Uniform())
    with pytest.raises(SoftmapError, match="needs weights kept after two decays, found 0; train"):
        River().check(who, Setting(16, 257))
    points.keep(Valley(), tmp_path / points.FOLDER, 0, points.AFTER)
    who.folder = tmp_path / "model"
    with pytest.raises(SoftmapError, match="found 1"):
        River().check(who, Setting(16, 257))
