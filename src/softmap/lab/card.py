"""The model card that is exported with the weights: what the run itself knows, and no more.

It says nothing about time or machine, so that equal trainings export equal folders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import softmap
from softmap.lab.plan import PlannedModel
from softmap.lab.workbench import Workbench
from softmap.train import TrainingOptions

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [softmap, {slug}]
---

# {title}

A language model of {parameters:,} parameters ({non_embedding:,} beside the embeddings), trained
by softmap {version} as `{spec}`{paper}. Not tuned to follow instructions; its text may be wrong
or offensive.

```python
import softmap.hf
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```

## Training

{facts}

## Held-out loss

Over {windows} windows of {context} tokens from the {heldout:,} held-out ones{apart}, in nats per
token, with the standard error over windows for this one training (another seed may differ by
more):

| tokens trained on | loss | bits per byte |
| --- | --- | --- |
{losses}
"""


def model_card(
    mine: PlannedModel, given: TrainingOptions, shared: Workbench, budgets: Sequence[dict[str, Any]]
) -> str:
    """Returns the README.md of a model.

    Args:
        budgets: what was measured at the end of each decay.
    """
    costs, meta = mine.costs(given.context), shared.corpus.meta
    return CARD.format(
        slug=mine.slug,
        title=mine.title,
        parameters=costs["parameters"],
        non_embedding=costs["parameters_non_embedding"],
        version=softmap.__version__,
        spec=mine.spec,
        paper=f" ({mine.paper})" if mine.paper else "",
        facts="\n".join(f"- {name}: {value}" for name, value in _facts(mine, given, shared)),
        windows=len(shared.windows),
        context=given.context,
        heldout=meta["heldout_tokens"],
        apart=", documents separated" if given.document_end is not None else "",
        losses="\n".join(_row(one, meta["bytes_per_token"]) for one in budgets),
    )


def _facts(mine: PlannedModel, given: TrainingOptions, shared: Workbench) -> list[tuple[str, str]]:
    shape, data, meta = mine.config, shared.recipe.data, shared.corpus.meta
    cut = f", the first {data.max_bytes:,} bytes" if data.max_bytes else ""
    own = meta["source"] if isinstance(data.data, str) else "stdlib"
    texts = [_public(str(one.data), own) for one in data.singly()]
    if len(texts) > 1:
        texts = [f"{text} ({weight})" for text, weight in zip(texts, data.weights, strict=True)]
    return [
        (
            "text",
            f"{', '.join(texts)}{cut}; {meta['train_tokens']:,} tokens, hash `{meta['hash']}`",
        ),
        ("tokenizer", f"`{meta['tokenizer']}`, {meta['vocab_size']:,} tokens"),
        (
            "shape",
            f"{shape.num_hidden_layers} layers, width {shape.hidden_size}, "
            f"{shape.num_attention_heads} heads, MLP {shape.intermediate_size}",
        ),
        (
            "batches",
            f"{given.steps:,} steps of {given.batch_size} sequences of {given.context} tokens",
        ),
        (
            "optimiser",
            f"{given.optimizer}, peak {given.peak_lr:g} ({mine.peak_source}), "
            f"{given.schedule}, weight decay {given.weight_decay:g}, {given.precision}",
        ),
        ("seed", str(given.seed)),
    ]


def _public(data: str, described: str) -> str:
    """Returns a source for the card: only the last name of a path, which says nothing of this
    machine.
    """
    if data == "stdlib":
        return described
    if data.startswith("hf:") and not Path(data.removeprefix("hf:")).exists():
        return data
    return Path(data).name


def _row(budget: dict[str, Any], bytes_per_token: float) -> str:
    loss, stderr = budget["loss"], budget["stderr"]
    around = "" if stderr is None else f" ± {stderr:.4f}"
    bits = loss / math.log(2) / bytes_per_token
    return f"| {budget['tokens']:,} | {loss:.4f}{around} | {bits:.4f} |"
