"""The options of the simplified blocks' authors: read, of no effect on a block, or refused."""

from __future__ import annotations

from softmap.interop.options import Only

ONLY = {
    "norm_position": Only(("pre",), "softmap's blocks norm each branch's input"),
    "qk_norm_type": Only(("none", None), "their blocks do not define it"),
    "dot_norm_type": Only(("none", None), "their blocks do not define it"),
    **{n: Only((0, None), "softmap has no dropout") for n in ("attn_pdrop", "resid_pdrop")},
    "scale_attn_weights": Only((True,), "softmap's scores are scaled by 1/sqrt(d)"),
    "scale_attn_by_inverse_layer_idx": Only((False,), "softmap's scores are scaled by 1/sqrt(d)"),
    "tie_valproj_init": Only((None,), "it sets W_init matrices that their checkpoints do not hold"),
}
# Their model's fields outside of the blocks, and initial values.
UNREAD = (
    "name", "context_length", "max_position_embeddings", "n_positions", "n_ctx", "vocab_size",
    "embd_pdrop", "initializer_range", "val_proj_init_std", "query_init_std", "key_init_std",
    "mlp_proj_init_std", "attn_mat_resid_gain", "attn_mat_skip_gain", "attn_block_resid_gain",
    "mlp_block_resid_gain", "reorder_and_upcast_attn", "summary_type", "summary_use_proj",
    "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
)  # fmt: skip
OPTIONS = (
    "n_embd", "hidden_size", "n_head", "num_attention_heads", "n_layer", "num_hidden_layers",
    "n_inner", "mlp_width_mult", "norm_type", "layer_norm_epsilon", "activation_function",
    "lrelu_neg_slope", "parallel_layers", "attn_block_skip_gain", "mlp_block_skip_gain",
    "value_resid_gain", "value_skip_gain", "first_layer_value_resid_gain", "val_init_type",
    "proj_resid_gain", "proj_skip_gain", "last_layer_proj_resid_gain", "proj_init_type",
    "centre_attn", "centre_attn_gain", "trainable_attn_block_gains", "trainable_mlp_block_gains",
    "trainable_attn_mat_gains", "trainable_value_gains", "trainable_proj_gains", *ONLY,
)  # fmt: skip
NORMS = {"rmsnorm": "rmsnorm", "ln": "layernorm", "none": "none"}
ACTIVATIONS = {"leaky_relu": "relu", "relu": "relu", "gelu": "gelu"}
