"""A common interface to causal language models: losses, logits, greedy continuations.

Only sequences of equal length are batched and none is ever padded, so answers depend neither on the
batch size nor on how a model treats padding.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softmap.evals.loss import autocast, evaluating, token_losses

LOGITS = 1 << 25  #: the most logits in one batch
LONGEST = 1024  #: the longest context in tokens, unless another is given


class Subject:
    """A model to be asked: any with ``model(input_ids=..., use_cache=False).logits`` of (B, T, V).

    Args:
        tokenizer: a ``softmap.data.Tokenizer``, or None.
        context: the longest sequence that the model was made for.
        vocabulary: the number of ids V; both default to the model's configuration.
        precision: ``"bf16"`` runs the model under autocast.
        folder: the model's folder, for suites that read files beside it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        name: str = "the model",
        context: int | None = None,
        vocabulary: int | None = None,
        precision: str = "fp32",
        folder: Path | None = None,
    ) -> None:
        self.folder = folder
        self.model, self.tokenizer, self.name, self.precision = model, tokenizer, name, precision
        config = getattr(model, "config", None)
        self.context: int = context or _longest(config)
        self.vocabulary: int = vocabulary or int(getattr(config, "vocab_size", 0))
        self.device = next(model.parameters()).device
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def logits(self, ids: np.ndarray | Tensor, keep: int = 0) -> Tensor:
        """Returns float32 logits (B, T, V) for ids (B, T), or those of the last ``keep``
        positions.
        """
        tokens = torch.as_tensor(np.asarray(ids), device=self.device)
        more = {"logits_to_keep": keep} if keep and self._keeps else {}
        with evaluating(self.model), autocast(self.device, self.precision):
            found = self.model(input_ids=tokens, use_cache=False, **more).logits
        return (found[:, -keep:] if keep else found).float()

    def losses(self, windows: np.ndarray) -> np.ndarray:
        """Returns next-token losses in nats (windows, T - 1) of windows (windows, T)."""
        size = self.batch(windows.shape[1])
        return token_losses(self.model, windows, batch_size=size, precision=self.precision)

    def judged(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns, for windows (B, T), losses in nats and whether each token was the likeliest.

        Both are (B, T - 1).
        """
        logits = self.logits(windows[:, :-1])
        targets = torch.as_tensor(windows[:, 1:], device=self.device)
        losses = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
        return losses.cpu().numpy(), (logits.argmax(-1) == targets).cpu().numpy()

    def last_losses(self, window: np.ndarray, count: int) -> np.ndarray:
        """Returns losses (count,) of the last ``count`` tokens of one window (T,), given all
        before them.
        """
        logits = self.logits(window[None, :-1], keep=count)[0]
        targets = torch.as_tensor(window[-count:], device=self.device)
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu().numpy()

    def hidden(self, ids: np.ndarray) -> list[Tensor]:
        """Returns hidden states (T, D) of one sequence (T,): the input of every block, then the
        output.
        """
        tokens = torch.as_tensor(ids[None], device=self.device)
        with evaluating(self.model), autocast(self.device, self.precision):
            found = self.model(input_ids=tokens, use_cache=False, output_hidden_states=True)
        return [state[0].float() for state in found.hidden_states]

    def batch(self, length: int) -> int:
        """Returns the number of sequences of ``length`` tokens in a batch."""
        return max(1, min(64, LOGITS // (length * max(1, self.vocabulary))))

    def continued(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """Returns each prompt's greedy continuation of at most ``tokens`` tokens, up to a
        document's end.
        """
        by_length = defaultdict(list)
        for n, prompt in enumerate(prompts):
            by_length[len(prompt)].append(n)
        found: dict[int, list[int]] = {}
        for length, numbers in by_length.items():
            size = self.batch(length)
            for start in range(0, len(numbers), size):
                some = numbers[start : start + size]
                ids = torch.tensor([list(prompts[n]) for n in some], device=self.device)
                for n, new in zip(some, self._greedy(ids, tokens).tolist(), strict=True):
                    found[n] = self._until_end(new)
        return [found[n] for n in range(len(prompts))]

    def _greedy(self, ids: Tensor, tokens: int) -> Tensor:
        with evaluating(self.model), autocast(self.device, self.precision):
            if hasattr(self.model, "generate"):
                return self._generated(ids, tokens)
            for _ in range(tokens):
                last = self.model(input_ids=ids, use_cache=False).logits[:, -1:]
                ids = torch.cat([ids, last.argmax(-1)], 1)
        return ids[:, -tokens:]

    def _generated(self, ids: Tensor, tokens: int) -> Tensor:
        from transformers import GenerationConfig

        end = None if self.tokenizer is None else self.tokenizer.eod
        kept, self.model.generation_config = self.model.generation_config, GenerationConfig()
        try:
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
                eos_token_id=end, pad_token_id=end or 0,
            )  # fmt: skip
        finally:
            self.model.generation_config = kept
        return out[:, ids.shape[1] :]

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = None if self.tokenizer is None else self.tokenizer.eod
        return tokens[: tokens.index(end)] if end in tokens else tokens

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        found: list[int] = self.tokenizer.encode(text)
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens."""
        found: str = self.tokenizer.decode(tokens)
        return found


def _longest(config: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return LONGEST
