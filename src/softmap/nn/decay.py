"""Which parameters weight decay is for: one rule, for every optimizer."""

from __future__ import annotations

from torch import nn


def decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is for this parameter, ``name`` of the ``module`` that owns it.

    Matrices (two axes or more) decay. What does not: everything with fewer axes (norms, biases,
    gains, lambdas, per-head scalars); parameters that are tagged (per-head tables, mixes that start
    from the identity); and embeddings, since a decayed row shrinks at each step but is pulled back
    only when its token occurs.

    A tag is ``no_weight_decay``: True on the parameter, or a tuple of parameter names on the module
    (its class) that owns it. Only the second outlives ``copy.deepcopy`` and ``from_pretrained``,
    which replace the parameters.
    """
    tagged = name in getattr(module, "no_weight_decay", ())
    tagged = tagged or getattr(parameter, "no_weight_decay", False)
    return parameter.ndim >= 2 and not tagged and not isinstance(module, nn.Embedding)


def never_decayed(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of ``model`` that weight decay leaves alone, and so what is tied to them."""
    return {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not decays(module, name, parameter)
    }
