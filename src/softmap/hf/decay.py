"""Makes transformers' ``Trainer`` apply weight decay as softmap's own optimiser does."""

from __future__ import annotations

import functools
import sys
from typing import Any

from torch import nn

from softmap.nn import never_decayed

_TAUGHT: set[type[nn.Module]] = set()


def teach_trainer(of: type[nn.Module]) -> None:
    """Exempt from the ``Trainer``'s weight decay what [`softmap.nn.decays`][] exempts in modules
    ``of`` these classes and of those in earlier calls.

    By itself the Trainer goes by names (``norm``, ``bias``) and would decay gains, lambdas, head
    mixes and embeddings. Its rule for other models stays. Does nothing if the Trainer was never
    imported.
    """
    _TAUGHT.add(of)
    trainer = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
    theirs = getattr(trainer, "get_decay_parameter_names", None)
    if trainer is None or theirs is None or hasattr(theirs, "softmap"):
        return

    @functools.wraps(theirs)
    def get_decay_parameter_names(self: Any, model: nn.Module) -> list[str]:
        exempt = {
            p for m in model.modules() if isinstance(m, tuple(_TAUGHT)) for p in never_decayed(m)
        }
        free = {n for n, p in model.named_parameters(remove_duplicate=False) if p in exempt}
        return [name for name in theirs(self, model) if name not in free]

    get_decay_parameter_names.softmap = True  # type: ignore[attr-defined]
    trainer.get_decay_parameter_names = get_decay_parameter_names  # type: ignore[assignment]
