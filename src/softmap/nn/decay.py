"""Which parameters get weight decay: one rule for all optimisers."""

from __future__ import annotations

from torch import nn


def decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether the parameter ``name`` of ``module``, which owns it, gets weight decay.

    Matrices (two axes or more) do. Exempt are parameters with fewer axes (norms, biases, gains,
    lambdas, scalars of a head), parameters that are tagged (tables of a head, mixes that start as
    the identity), and embeddings, since weight decay shrinks a row at every step while only its own
    token brings it back.

    A tag is ``no_weight_decay``: True on the parameter, or a tuple of parameter names on the module
    (its class) that owns it. Only the second survives ``copy.deepcopy`` and ``from_pretrained``,
    which replace the parameters.
    """
    tagged = name in getattr(module, "no_weight_decay", ())
    tagged = tagged or getattr(parameter, "no_weight_decay", False)
    return parameter.ndim >= 2 and not tagged and not isinstance(module, nn.Embedding)


def never_decayed(model: nn.Module) -> set[nn.Parameter]:
    """Returns the parameters of ``model`` without weight decay, and with them what is tied to
    them.
    """
    return {
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not decays(module, name, parameter)
    }
