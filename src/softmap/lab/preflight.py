"""Checks before the first byte is written: device, text, memory, variants of the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import psutil
import torch

from softmap import testing
from softmap.cost.fit import advice, remedies_within
from softmap.cost.hardware import GIB
from softmap.data.config import parse_spec
from softmap.data.sources import open_source
from softmap.errors import SoftmapError, shown
from softmap.evals.catalogue import suite
from softmap.hf import SoftmapForCausalLM
from softmap.lab.peaks import Peaks
from softmap.lab.plan import Plan, PlannedModel, job_of, make_plan
from softmap.lab.recipe import Recipe
from softmap.maps import Edit
from softmap.ops.checks import check_packed
from softmap.train.optim import no_shards
from softmap.train.trackers import check_trackers
from softmap.variants import outside

NOMINAL_VOCABULARY = 1024
PER_PARAMETER = 16  #: bytes of a weight, its gradient and Adam's two moments, in float32
LONGEST_CHECKED = 2048  #: tokens of the longest input on which a user's variant is checked


def preflight(
    recipe: Recipe, note: Callable[[str], None], peaks: Peaks | None = None, ranks: int = 1
) -> None:
    """Raise ``SoftmapError`` for whatever can be refused before text is read and files are made.

    Args:
        note: called with what takes some seconds.
        peaks: as for ``make_plan``.
        ranks: processes that train each model together, by the recipe's layout.
    """
    if recipe.sizes:
        raise SoftmapError(f"{recipe.name} has sizes: softmap scale {recipe.path} trains each")
    plan = make_plan(recipe, vocabulary(recipe), peaks)
    device = choose_device(recipe.training.device)
    check_trackers(recipe.training.trackers)
    for one in recipe.data.singly():
        open_source(one)
    if recipe.training.optimizer == "muon" and ranks > 1 and recipe.parallel.copy_size(ranks) > 1:
        raise no_shards("training")
    for name in recipe.evaluation.suites:
        suite(name)
    for planned in plan.models:
        check_memory(planned, recipe, device, ranks)
        if recipe.training.separate_documents:
            _check_separable(planned)
    check_own(plan, recipe, note)


def refuse_textual(recipe: Recipe, command: str) -> None:
    """Raise ``SoftmapError`` for settings of text in commands that train on other data or given
    models.
    """
    given = {"separate_documents": "true", "start": shown(recipe.training.start)}
    for name, found in given.items():
        if getattr(recipe.training, name):
            raise SoftmapError(
                f"{command}: training.{name}: expected none, found {found}; only compare and "
                "train have it"
            )


def _check_separable(planned: PlannedModel) -> None:
    """Raise ``SoftmapError`` for edits that read rows of other documents."""
    with torch.device("meta"):
        model = SoftmapForCausalLM(planned.config)
    try:
        check_packed([edit for edit in model.modules() if isinstance(edit, Edit)], None)
    except SoftmapError as error:
        raise SoftmapError(f"{planned.label}: training.separate_documents: {error}") from None


def vocabulary(recipe: Recipe) -> int:
    """Returns the size of the recipe's tokenizer, as far as its name tells."""
    kind, size = parse_spec(recipe.data.tokenizer)
    return int(size) if kind == "bpe" else NOMINAL_VOCABULARY


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; ``"auto"`` is a GPU where there is one.

    Raises ``SoftmapError`` for a device that does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        problem = str(error).strip().split("\n")[0]
        raise SoftmapError(f"training.device: cannot use {name!r}: {problem}") from None
    if device.type == "meta" or (device.type == "cpu" and device.index):
        raise SoftmapError(f"training.device: cannot use {name!r}: nothing can be computed there")
    return device


def with_precision(recipe: Recipe, device: torch.device | None = None) -> Recipe:
    """Returns the recipe with ``training.precision: auto`` decided for the device that it trains
    on.

    bfloat16 halves the memory, and a device with units for it is faster; without them it is
    emulated, and a training step was measured to take 30 times as long.

    Args:
        device: by default the recipe's own.
    """
    if recipe.training.precision != "auto":
        return recipe
    fast = computes_bfloat16(device or choose_device(recipe.training.device))
    training = dataclasses.replace(recipe.training, precision="bf16" if fast else "fp32")
    return dataclasses.replace(recipe, training=training)


def dtype_of(recipe: Recipe) -> torch.dtype:
    """Returns the dtype of the forward pass, for a recipe whose precision is decided."""
    return torch.bfloat16 if recipe.training.precision == "bf16" else torch.float32


def computes_bfloat16(device: torch.device) -> bool:
    """Returns whether the device has units for products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(unit) for unit in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))


def check_memory(
    planned: PlannedModel, recipe: Recipe, device: torch.device, ranks: int = 1
) -> None:
    """Raise ``SoftmapError`` for a model that cannot fit into memory, with changes that would
    fit.
    """
    needed = least_memory(planned, recipe, ranks)
    if needed > (there := memory(device)):
        found = remedies_within(job_of(recipe, planned, ranks), there)
        raise SoftmapError(
            f"{planned.label}: training needs at least {needed / GIB:,.0f} GiB, "
            f"{device.type} has {there / GIB:,.0f} GiB; {advice(found)}"
        )


def least_memory(planned: PlannedModel, recipe: Recipe, ranks: int = 1) -> int:
    """Returns the bytes that training needs at least on each of ``ranks``.

    These are its part of the model with its optimiser, and what a forward pass of one micro-batch
    keeps in any case (each layer's input and the logits, in float32).
    """
    shape, given, layout = recipe.model, recipe.training, recipe.parallel
    copy, share = (layout.copy_size(ranks), layout.context) if ranks > 1 else (1, 1)
    rows = given.batch_size // max(1, ranks // share)
    tokens = min(given.micro_batch_size or rows, rows) * shape.context // share
    width = shape.hidden_size * shape.num_hidden_layers + planned.config.vocab_size
    each = PER_PARAMETER - (4 if given.optimizer == "muon" else 0)  # one moment of matrices
    return each * planned.parameters["total"] // copy + 4 * tokens * width


def memory(device: torch.device) -> int:
    """Returns the bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return int(psutil.virtual_memory().total)


def check_own(plan: Plan, recipe: Recipe, note: Callable[[str], None]) -> None:
    """Run the quick form of the conformance suite on variants of the user's own."""
    for planned in plan.models:
        if outside(planned.spec):
            note(f"checking {planned.spec} ...")
            _check_one(planned, recipe)


def _check_one(planned: PlannedModel, recipe: Recipe) -> None:
    spec, shape = planned.spec, recipe.model
    sizes = {
        "context": min(shape.context, LONGEST_CHECKED),
        "heads": shape.num_attention_heads,
        "kv_heads": shape.num_key_value_heads,
    }
    try:
        report = testing.check(spec, **sizes, quick=True)  # type: ignore[arg-type]
    except (SoftmapError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever the user's class raises
        reason = f"{type(error).__name__}: {error}"
        raise SoftmapError(f"{spec}: cannot be built: {reason}") from error
    for failure in report.failures:
        raise SoftmapError(
            f"{spec} is not trained: it fails the check {failure.name!r}: {failure.error} "
            "(softmap.testing.check runs all of them)"
        )
