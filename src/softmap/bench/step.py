"""``softmap bench step``: one training step of whole models, in interleaved rounds.

Models, optimiser and step are those of ``softmap compare``; the tokens are drawn at random, since
no speed depends on what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from softmap.bench.models import gradient_error, with_impl
from softmap.bench.stats import ratios, shuffled, spread
from softmap.errors import SoftmapError, reason
from softmap.lab.explain import chosen
from softmap.lab.plan import PlannedModel, make_plan, training_options
from softmap.lab.preflight import check_memory, dtype_of, with_precision
from softmap.lab.recipe import Recipe
from softmap.lab.speed import WARM_UP, random_ids, timed, training_step
from softmap.lab.trial import build

Say = Callable[[str], None]


@dataclass
class TrainingModel:
    """A variant's model in training; ``parity`` as ``models.gradient_error`` returns it."""

    planned: PlannedModel
    impl: str
    step: Callable[[], Any] = lambda: None
    parity: dict[str, Any] | None = None
    reason: str = ""
    seconds: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The planned's label."""
        return self.planned.label


def vocabulary(recipe: Recipe) -> int:
    """Returns the number of ids of the recipe's tokenizer without building it.

    Raises ``SoftmapError`` where it would have to be loaded.
    """
    kind, _, size = recipe.data.tokenizer.partition(":")
    if kind == "bytes":
        return 257
    if kind == "bpe" and size.isdigit():
        return int(size)
    raise SoftmapError(
        f"bench step needs a tokenizer of known size: bytes or bpe:SIZE, found "
        f"{recipe.data.tokenizer!r}"
    )


class StepBenchmark:
    """The models of a recipe, each training on its own; [`record`][] works at any moment."""

    def __init__(self, recipe: Recipe, impl: str, device: torch.device, say: Say) -> None:
        """Raise ``SoftmapError`` for what ``compare`` would refuse before it trains."""
        recipe = with_precision(recipe, device)
        plan = make_plan(recipe, vocabulary(recipe))
        for planned in plan.models:
            check_memory(planned, recipe, device)
        self.recipe, self.device, self._say = recipe, device, say
        self.control, self.vocab = plan.control, vocabulary(recipe)
        self.models = [self._model(c, impl) for c in plan.models]

    def _model(self, planned: PlannedModel, impl: str) -> TrainingModel:
        taken = impl
        if impl == "auto":
            context, dtype = self.recipe.model.context, dtype_of(self.recipe)
            taken = chosen(planned.config, context, self.device, dtype)
        return TrainingModel(planned, taken)

    def measure(self, rounds: int, steps: int) -> None:
        """Run ``steps`` steps of each model in each round."""
        for model in self.models:
            self._say(f"{model.label}: gradients against float64, warm-up")
            try:
                self._prepare(model)
            except Exception as error:  # reported in that variant's row; the others continue
                model.reason = reason(error)
        for n in range(rounds):
            self._say(f"round {n + 1} of {rounds}")
            for model in shuffled(self.models, n):
                if not model.reason:
                    model.seconds.append(self._timed(model, steps))

    def _prepare(self, model: TrainingModel) -> None:
        mine = model.planned
        net = with_impl(build(mine, 0, self.device), model.impl)
        given = training_options(self.recipe, mine.peak_lr, 0, mine.label)
        dtype = dtype_of(self.recipe)

        def forward(net: nn.Module, ids: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=dtype != torch.float32):
                return net(input_ids=ids, labels=ids).loss.float()  # type: ignore[no-any-return]

        ids = random_ids(self.vocab, 2, min(given.context, 256))
        model.parity = gradient_error(net.train(), ids.to(self.device), forward, dtype)
        if not model.parity["ok"]:
            model.reason = "its gradients are wrong"
            return
        model.step = training_step(net, mine, self.recipe)
        timed(model.step, WARM_UP, self.device)

    def _timed(self, model: TrainingModel, steps: int) -> float:
        return timed(model.step, steps, self.device)

    def record(self) -> dict[str, Any]:
        """Returns the sizes, and a row for every model."""
        base = next(m for m in self.models if m.label == self.control)
        tokens = self.recipe.training.batch_size * self.recipe.model.context
        return {
            "recipe": self.recipe.name,
            "batch_tokens": tokens,
            "precision": self.recipe.training.precision,
            "control": self.control,
            "rows": [_row(m, base, tokens, self.recipe.model.context) for m in self.models],
        }


def _row(model: TrainingModel, base: TrainingModel, tokens: int, context: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "variant": model.label,
        "impl": model.impl,
        "parity": model.parity,
        "reason": model.reason,
        **model.planned.costs(context),
    }
    if not model.seconds or model.reason:
        return found
    speed = [tokens / s for s in model.seconds]
    own = [tokens / s for s in base.seconds] if not base.reason else []
    return found | {
        "tokens_per_second": spread(speed),
        "over_control": ratios(speed, own) if own else None,
    }
