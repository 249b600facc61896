"""The suites of a recipe's ``evaluation.suites``, asked of the trained models beside the loss."""

from __future__ import annotations

from typing import Any

import torch

from softmap.evals.catalogue import suite
from softmap.evals.subject import Subject
from softmap.evals.summary import answers
from softmap.hf import SoftmapForCausalLM
from softmap.lab.plan import Plan
from softmap.lab.workbench import Workbench


def check_suites(plan: Plan, shared: Workbench) -> None:
    """Raise ``SoftmapError`` for a suite that these models cannot be asked, before any is
    trained.
    """
    if not shared.recipe.evaluation.suites:
        return
    control = plan.models[0]
    with torch.device("meta"):  # only its sizes are needed, not its answers
        model = SoftmapForCausalLM(control.config)
    subject = Subject(model, shared.corpus.tokenizer, name=control.label)
    for name in shared.recipe.evaluation.suites:
        suite(name).check(subject, shared.setting)


def ask(model: Any, shared: Workbench, name: str) -> dict[str, Any]:
    """Returns the description and the answers of each suite for one model, for ``answers.json``.

    Args:
        name: the model's name in messages.
    """
    subject = Subject(model, shared.corpus.tokenizer, name=name)
    found = {}
    for word in shared.recipe.evaluation.suites:
        asked = suite(word)
        rows = asked.rows(subject, shared.setting)
        found[word] = asked.described() | {"answers": answers(asked, rows, values=False)}
    return found
