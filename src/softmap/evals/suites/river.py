"""The river valley: loss on lines and planes between a training's points (arXiv 2410.05192)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.evals import points
from softmap.evals.points import AFTER, BEFORE
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject
from softmap.evals.surface import Surface, along_and_across, between, share_within

Points = dict[tuple[int, str], Tensor]
_PLACE = "Place on the line"


@dataclass(frozen=True)
class River(Suite):
    """Weights before and after each decay of one training (recipe: training.keep_points), and
    held-out windows. Lines between neighbours of the stable phase and of the decayed ones, the
    loss minus the straight line between its ends: below 0 is a valley between two sides, above 0
    a barrier. The line from the stable phase down its decay. The plane through the last decay
    and the decayed point before it. The largest eigenvalues of the Hessian at the last decayed
    point, and how much of each step lies within their directions; each step along the river
    (from decayed point to decayed point) and across it, over its length.
    """

    windows: int = 32
    places: int = 9
    grid: int = 9
    directions: int = 5
    curved: int = 8  #: windows for the Hessian

    name = "river"
    title = "The river valley"
    asks = "Does the stable phase move along a valley, and does a decay only fall to its floor?"
    reads_text = True
    least_context = 4
    metrics = (
        Metric("fall", "Loss lost in a decay (nats)", "nats", "", at={"place": 0.0}),
        Metric("stable", "Between stable points (nats)", "nats", "", at={"place": 0.5}),
        Metric("decayed", "Between decayed points (nats)", "nats", "", at={"place": 0.5}),
        Metric("along", "Step along the river", "", "", 0.05, {"step": "stable"}),
        Metric("across", "Step across the river", "", "", 0.05, {"step": "stable"}),
        Metric("sharp", "Share of a step in sharp directions", "", "", 0.01, {"step": "decay"}),
        Metric("sharpness", "Largest curvatures", "", "", 0.1, {"direction": 1}),
        Metric("plane", "Loss on the plane (nats)", "nats"),
    )
    pictures = (
        Picture("fall", "place", "From the stable phase (0) to the decayed point (1)"),
        Picture("stable", "place", _PLACE, "Loss minus the straight line between the ends."),
        Picture("decayed", "place", _PLACE, "Loss minus the straight line between the ends."),
        Picture("sharpness", "direction", "Direction, the sharpest first"),
        Picture("sharp", "step", "Step"),
        Picture(
            "plane", "along", "Along the river (0, 1: decayed points)",
            "Loss minus the last decayed point's.", y="across", y_title="Across (1: undecayed)",
        ),
    )  # fmt: skip

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=4, places=5, grid=5, directions=2, curved=2)

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` unless the weights around two decays were kept."""
        super().check(subject, setting)
        found = [key for key in points.beside(subject) if key[1] == AFTER]
        if len(found) < 2:
            raise SoftmapError(
                f"{subject.name}: suite river needs weights kept after two decays, found "
                f"{len(found)}; train with --set training.keep_points=true and several budgets"
            )

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the losses along the lines and on the plane, and the curvature."""
        windows = setting.heldout().windows(subject.tokenizer, setting.context, self.windows)
        surface = Surface(subject.model)
        found = {
            key: points.vector(path, subject.model) for key, path in points.beside(subject).items()
        }
        with surface.moved():
            yield from self._lines(subject, surface, found, windows)
            yield from self._plane(subject, surface, found, windows)
            yield from self._curvature(subject, surface, found, windows)

    def _lines(
        self, subject: Subject, surface: Surface, found: Points, windows: np.ndarray
    ) -> Iterator[Row]:
        shares = np.linspace(0, 1, self.places)
        for name, one, other in _pairs(found):
            each = [_at(subject, surface, between(one, other, float(s)), windows) for s in shares]
            for share, losses in zip(shares, each, strict=True):
                chord = between(each[0], each[-1], float(share))
                below = losses - (each[-1] if name == "fall" else chord)
                for item, value in enumerate(below):
                    yield row(name, item, value, place=round(float(share), 3))

    def _plane(
        self, subject: Subject, surface: Surface, found: Points, windows: np.ndarray
    ) -> Iterator[Row]:
        """Yields losses on the plane through the last decay's two ends and the decayed point
        before it.
        """
        first, last = _decayed(found)[-2:]
        start, end, top = found[first, AFTER], found[last, AFTER], found.get((last, BEFORE))
        if top is None:
            return
        river, across = end - start, top - end
        across = across - (across @ river / river.norm() ** 2) * river
        some = windows[: self.curved]
        floor = _at(subject, surface, end, some)
        for x in np.linspace(-0.5, 1.5, self.grid):
            for y in np.linspace(-1, 1.5, self.grid):
                losses = _at(subject, surface, start + float(x) * river + float(y) * across, some)
                for item, value in enumerate(losses - floor):
                    at = {"along": round(float(x), 2), "across": round(float(y), 2)}
                    yield row("plane", item, value, **at)

    def _curvature(
        self, subject: Subject, surface: Surface, found: Points, windows: np.ndarray
    ) -> Iterator[Row]:
        budgets = _decayed(found)
        surface.go(found[budgets[-1], AFTER])
        ids = torch.as_tensor(windows[: self.curved], device=subject.device)

        def loss() -> Tensor:
            logits = subject.model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

        values, directions = surface.sharpest(loss, self.directions)
        for number, value in enumerate(values, 1):
            yield row("sharpness", 0, float(value), direction=number)
        for item, (name, step, river) in enumerate(_steps(found)):
            yield row("sharp", item, share_within(step, directions), step=name)
            along, across = along_and_across(step, river)
            if name != "river":
                yield row("along", item, along, step=name)
                yield row("across", item, across, step=name)


def _decayed(found: Points) -> list[int]:
    return [budget for budget, phase in found if phase == AFTER]


def _pairs(found: Points) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields (metric, start, end) of every line."""
    budgets = _decayed(found)
    for one, other in pairwise(budgets):
        yield "decayed", found[one, AFTER], found[other, AFTER]
        if (one, BEFORE) in found and (other, BEFORE) in found:
            yield "stable", found[one, BEFORE], found[other, BEFORE]
    for budget in budgets:
        if (budget, BEFORE) in found:
            yield "fall", found[budget, BEFORE], found[budget, AFTER]


def _steps(found: Points) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields (name, step, river) for every two neighbouring decays."""
    budgets = _decayed(found)
    for one, other in pairwise(budgets):
        river = found[other, AFTER] - found[one, AFTER]
        yield "river", river, river
        if (one, BEFORE) in found and (other, BEFORE) in found:
            yield "stable", found[other, BEFORE] - found[one, BEFORE], river
            yield "decay", found[other, AFTER] - found[other, BEFORE], river


def _at(subject: Subject, surface: Surface, place: Tensor, windows: np.ndarray) -> np.ndarray:
    """Returns the mean loss of each window, (W,), with the weights at ``place``."""
    surface.go(place)
    found: np.ndarray = subject.losses(windows).mean(1)
    return found


SUITE = River
