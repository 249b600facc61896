"""A sequence classifier (and reward model) on the decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from softmap.errors import SoftmapError
from softmap.hf.arguments import PACKING, check_rest, taken
from softmap.hf.configuration import SoftmapConfig
from softmap.hf.modeling import SoftmapModel
from softmap.hf.pretrained import SoftmapPreTrainedModel


class SoftmapForSequenceClassification(SoftmapPreTrainedModel):
    """Scores (B, num_labels) for each sequence, computed from its last real token."""

    _takes_loss_arguments = False  # its loss is a mean over the sequences

    def __init__(self, config: SoftmapConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SoftmapModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels or 2, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: Any = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Returns logits (B, num_labels) for input_ids (B, T); other arguments are those of
        [`SoftmapModel`][].

        The last real token is that of the mask; without a mask, the last that is not
        ``config.pad_token_id``. labels are (B,) classes or (B, num_labels) numbers;
        ``config.problem_type`` selects the loss, by default their dtype does.
        """
        for name in taken(kwargs, ("documents", *PACKING)):
            raise SoftmapError(f"a sequence has one label: expected {name}=None, found some")
        check_rest(kwargs, self.forward)
        if use_cache is None and labels is not None:
            use_cache = False
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache,
            output_attentions, output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = outputs.last_hidden_state
        last = self._last(input_ids, attention_mask, *hidden.shape[:2])
        logits = self.score(hidden[torch.arange(hidden.shape[0], device=hidden.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _last(self, ids: Tensor | None, mask: Tensor | None, batch: int, tokens: int) -> Any:
        """Returns the index of each sequence's last real token, (B,), or -1 without padding."""
        if mask is not None and mask.ndim != 2:
            raise SoftmapError(f"attention_mask must be (batch, tokens), found {mask.ndim} axes")
        if mask is not None:
            real = mask[:, -tokens:] != 0
        elif ids is not None and self.config.pad_token_id is not None:
            real = ids != self.config.pad_token_id
        elif batch == 1 or ids is None:
            return -1
        else:
            raise SoftmapError(
                f"a batch of {batch} needs attention_mask or config.pad_token_id, found neither"
            )
        return (real * torch.arange(tokens, device=real.device)).argmax(-1)
