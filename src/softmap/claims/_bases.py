"""The recipes that claims share: a base is trained once per variant and seed, whatever claim
needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Base:
    """A recipe that comes with softmap, with other values: dotted keys, YAML text.

    Attributes:
        steps: a factor of the recipe's number of steps.
    """

    name: str
    says: str
    settings: Mapping[str, str] = field(default_factory=dict)
    steps: float = 1.0
    recipe: str = "demo"


SMALL = Base("small", "the demo's recipe: five budgets, ten tokens a parameter")
MEDIUM = Base(
    "medium",
    "about a million parameters, ten tokens for each, five budgets",
    {
        "model.hidden_size": "128", "model.num_hidden_layers": "4", "data.tokenizer": "bpe:1024",
        "training.batch_size": "32", "training.steps": "2500", "training.peak_lr": "4e-3",
        "training.checkpoint_every": "300",
    },
)  # fmt: skip
DEEP = Base("deep", "the demo's recipe with eight layers", {"model.num_hidden_layers": "8"})
LONG = Base(
    "long",
    "the demo's recipe with windows of 512 tokens",
    {"model.context": "512", "training.batch_size": "4"},
)
RIVER = Base(
    "river",
    "the demo's recipe, weights before and after each decay kept",
    {"training.keep_points": "true"},
)
TASK = Base("task", "models that softmap learn trains: width 64, two layers")

# Schedules beside wsd-s, which is the demo's. wsd discards its decays, a tenth of the demo's steps,
# so with 1/1.1 of the steps it takes as much compute as wsd-s.
WSD = Base("wsd", "the demo's recipe, schedule wsd", {"training.schedule": "wsd"}, 1 / 1.1)
CYCLIC = Base(
    "cyclic-cosine", "the demo's recipe, cyclic cosine", {"training.schedule": "cyclic-cosine"}
)
ORACLE = Base(
    "cosine-oracle",
    "the demo's recipe, a cosine run for each budget",
    {"training.schedule": "cosine-oracle"},
)

ONE_CARD = Base(
    "one-card",
    "50M parameters, ten tokens for each, five budgets: hours on one card",
    {
        "data.data": "hf:HuggingFaceFW/fineweb-edu:sample-10BT", "data.max_bytes": "3000000000",
        "data.tokenizer": "bpe:8192", "model.hidden_size": "640", "model.num_hidden_layers": "10",
        "model.num_attention_heads": "16", "model.context": "1024", "training.batch_size": "64",
        "training.steps": "8000", "training.peak_lr": "1.5e-3",
    },
)  # fmt: skip

ONE_CARD_KEPT = Base(
    "one-card-river",
    "50M parameters on one card, weights before and after each decay kept",
    {**ONE_CARD.settings, "training.keep_points": "true"},
)


def _size(width: int, layers: int, steps: int) -> Base:
    return Base(
        f"size-{width}x{layers}",
        f"the recipe of softmap scale, width {width}, {layers} layers",
        {
            "model.hidden_size": str(width), "model.num_hidden_layers": str(layers),
            "training.steps": str(steps), "model.num_attention_heads": "8",
            "model.context": "128", "training.batch_size": "8", "training.warmup": "0.03",
            "training.budgets": "[0.0625, 0.125, 0.25, 0.5, 1]", "training.peak_lr": "6e-3",
        },
    )  # fmt: skip


SIZES = (_size(32, 2, 800), _size(48, 2, 1200), _size(64, 3, 2000), _size(96, 3, 4000))


def _paper(name: str, says: str, layers: int, width: int, heads: int, **more: str) -> Base:
    """Returns a base of one budget with a cosine, unless ``more`` says otherwise.

    An underscore in a key of ``more`` replaces the first dot.
    """
    settings = {
        "data.data": "hf:monology/pile-uncopyrighted", "data.tokenizer": "bpe:50257",
        "model.num_hidden_layers": str(layers), "model.hidden_size": str(width),
        "model.num_attention_heads": str(heads), "training.schedule": "cosine",
        "training.budgets": "[1]", "training.warmup": "0.01",
    }  # fmt: skip
    return Base(name, says, settings | {k.replace("_", ".", 1): v for k, v in more.items()})


PAPER_DIFF = _paper(
    "paper-diff", "1.4B parameters, 10B tokens, the setting of DIFF's ablation", 24, 2048, 16,
    model_context="2048", training_batch_size="128", training_steps="40000",
    training_peak_lr="3e-4",
)  # fmt: skip
PAPER_DC = _paper(
    "paper-dc", "405M parameters, 7B tokens of the Pile, DCFormer's smallest", 24, 1024, 16,
    model_context="2048", training_batch_size="256", training_steps="13500",
    training_peak_lr="3e-4",
)  # fmt: skip
PAPER_DAPE = _paper(
    "paper-dape", "125M parameters, windows of 512, 50,000 steps", 12, 768, 12,
    model_context="512", training_batch_size="256", training_steps="50000",
    training_peak_lr="6e-4",
)  # fmt: skip
PAPER_SAS = _paper(
    "paper-sas", "18 blocks of width 768 on code, windows of 128, 40,000 steps", 18, 768, 12,
    data_data="hf:codeparrot/codeparrot-clean", data_field="content", model_context="128",
    training_batch_size="128", training_steps="40000", training_peak_lr="1e-3",
)  # fmt: skip
PAPER_DEEP = _paper(
    "paper-deep", "72 blocks of width 768 on code, windows of 128, 40,000 steps", 72, 768, 12,
    data_data="hf:codeparrot/codeparrot-clean", data_field="content", model_context="128",
    training_batch_size="128", training_steps="40000", training_peak_lr="1e-3",
)  # fmt: skip


def _paper_schedule(schedule: str, steps: float = 1.0) -> Base:
    made = _paper(
        f"paper-{schedule}", "0.6B parameters, decayed at 50B, 100B and 200B tokens", 16, 1536, 16,
        model_context="4096", training_batch_size="1024", training_steps="48000",
        training_schedule=schedule, training_budgets="[0.25, 0.5, 1]", training_peak_lr="4e-4",
        training_decay_fraction="0.1",
    )  # fmt: skip
    return Base(made.name, made.says, made.settings, steps)


PAPER_WSDS = _paper_schedule("wsd-s")
PAPER_WSD = _paper_schedule("wsd", 1 / 1.05)
PAPER_CYCLIC = _paper_schedule("cyclic-cosine")
PAPER_ORACLE = _paper_schedule("cosine-oracle")
