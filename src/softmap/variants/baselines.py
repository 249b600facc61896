"""The two controls of every comparison: a GPT-like and a LLaMA-like Transformer.

Their options are the fields of the backbone (``softmap.nn.Backbone``), so each norm, skip and
projection can be switched from a recipe: ``transformer++(position=none)``.
"""

from __future__ import annotations

from typing import Any

from softmap.variants._parts import Parts, variant

GPT = {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True}


@variant(
    "transformer++",
    "Transformer++",
    paper="LLaMA, arXiv 2302.13971",
    source="https://arxiv.org/abs/2302.13971",
)
def transformer_pp(**backbone: Any) -> Parts:
    """Pre-RMSNorm, rotary positions, SwiGLU, no biases.

    A = softmax(Q K^T / sqrt(d) + causal mask),  o = A V
    """
    return Parts(backbone=backbone)


@variant(
    "transformer",
    "Transformer",
    paper="GPT-2",
    source="https://cdn.openai.com/better-language-models/"
    "language_models_are_unsupervised_multitask_learners.pdf",
)
def transformer(**backbone: Any) -> Parts:
    """Pre-LayerNorm, learned positions (or position=sinusoidal), GELU MLP, biases.

    A = softmax(Q K^T / sqrt(d) + causal mask),  o = A V
    """
    return Parts(backbone={**GPT, **backbone})
