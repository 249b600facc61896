"""How the tables of this folder are read: every public name of an interface of transformers is in
one of three, and a name that a later version adds fails until somebody has decided.

honoured: name -> a check that passes. refused: name -> a call that raises one line.
unconcerned: name -> why it asks nothing of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.testing.subject import perturb, seeded

IDS = torch.tensor([[3, 4, 5, 6, 9, 4, 8], [5, 6, 3, 4, 7, 8, 2]])


def small(variant: Any = "diff+dape", cls: Any = SoftmapForCausalLM, **fields: Any) -> Any:
    """A model in float64, its parameters off their start."""
    sizes = {"vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 2, "pad_token_id": 0}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 32}
    with seeded(0):
        return perturb(cls(SoftmapConfig(variant=variant, **(sizes | fields)))).double().eval()


def refuses(call: Callable[[], Any], match: str | None = None) -> None:
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=match) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def complete(names: Iterable[str], *tables: dict[str, Any]) -> None:
    """Each name once, and no row for what no version has."""
    rows = [name for table in tables for name in table]
    assert len(rows) == len(set(rows))
    assert set(names) - set(rows) == set(), "not decided"


def words(text: str) -> list[str]:
    return text.split()


def runs(table: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("name", table)
