"""``softmap bench decode``: a prompt and new tokens with the cache, and the cost of one token.

The model is called as ``generate`` calls it, with its cache, without its sampling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from softmap.bench.case import DTYPES
from softmap.bench.failure import require
from softmap.bench.models import decoding_error, perturbed
from softmap.bench.stats import ratios, shuffled, spread
from softmap.errors import reason
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.hf.cache import SoftmapCache
from softmap.lab.explain import chosen
from softmap.lab.speed import synchronize
from softmap.nn import accounting

Say = Callable[[str], None]
CHECKED = 64  #: prompt tokens, with a quarter as many new ones, on which decoding is checked
BURST = 8  #: tokens timed at a cache length


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model and of what is decoded.

    Attributes:
        lengths: cache lengths at which a token is timed.
    """

    hidden_size: int
    heads: int
    layers: int
    batch: int
    prompt: int
    new: int
    lengths: tuple[int, ...]
    vocab: int
    dtype: str

    @property
    def longest(self) -> int:
        """The length of the longest sequence that is decoded, in tokens."""
        return max(self.prompt + self.new, *(n + BURST for n in self.lengths))


@dataclass
class DecodingModel:
    """A variant's model with its measurements."""

    variant: str
    impl: str = "auto"
    net: Any = None
    config: Any = None
    parity: dict[str, Any] | None = None
    reason: str = ""
    prompt: list[float] = field(default_factory=list)  #: seconds
    new: list[float] = field(default_factory=list)
    at: dict[int, list[float]] = field(default_factory=dict)  #: seconds a token by cache length


class DecodeBenchmark:
    """Models of one size, decoding in turns; [`record`][] works at any moment."""

    def __init__(
        self, variants: Sequence[str], sizes: Sizes, impl: str, device: torch.device, say: Say
    ) -> None:
        """Raise ``SoftmapError`` for an unknown variant, and for sizes that do not fit it or
        memory.
        """
        self.sizes, self.device, self._say = sizes, device, say
        self.models = [self._model(v, impl) for v in variants]
        require(self._least_bytes(), device, "decode")
        for model in self.models if impl == "auto" else []:
            model.impl = chosen(model.config, sizes.prompt, device, DTYPES[sizes.dtype])
        self.control = variants[0]

    def _model(self, variant: str, impl: str) -> DecodingModel:
        s = self.sizes
        config = SoftmapConfig(
            variant=variant, vocab_size=s.vocab, hidden_size=s.hidden_size, impl=impl,
            num_hidden_layers=s.layers, num_attention_heads=s.heads,
            max_position_embeddings=s.longest,
        )  # fmt: skip
        return DecodingModel(variant, impl, config=config, at={n: [] for n in s.lengths})

    def _least_bytes(self) -> int:
        """Returns the bytes of all models, a float64 copy of one, and the tokens and cache of
        one.
        """
        s = self.sizes
        one = torch.empty((), dtype=DTYPES[s.dtype]).element_size()
        weights = [accounting.parameters(m.config)["total"] for m in self.models]
        caches = [accounting.cache_bytes_per_token(m.config, one) for m in self.models]
        a_token = max(caches) + one * s.hidden_size
        return one * sum(weights) + 8 * max(weights) + s.batch * (s.longest * a_token + 4 * s.vocab)

    @torch.no_grad()
    def measure(self, rounds: int) -> None:
        """Check parity, warm up, then time rounds of whole generations and of tokens at each
        length.
        """
        for model in self.models:
            self._say(f"{model.variant}: decoding against float64, warm-up")
            try:
                self._prepare(model)
            except Exception as error:  # reported in that variant's row; the others continue
                model.reason = reason(error)
        for n in range(rounds):
            for model in shuffled(self.models, n):
                if not model.reason:
                    self._say(f"round {n + 1} of {rounds}: {model.variant}")
                    self._generate(model)
                    for length in self.sizes.lengths:
                        model.at[length].append(self._tokens_at(model, length))

    def _prepare(self, model: DecodingModel) -> None:
        torch.manual_seed(0)
        dtype = DTYPES[self.sizes.dtype]
        # Moved off its initial state, where attention adds nothing to the logits.
        net = perturbed(SoftmapForCausalLM(model.config))
        model.net = net.to(self.device, dtype).eval()
        prompt = min(CHECKED, self.sizes.prompt)
        ids = self._ids(prompt + max(1, prompt // 4))
        logits = [self._logits(model.net, ids[:, :prompt], cache := SoftmapCache(model.net.model))]
        for n in range(prompt, ids.shape[1]):
            logits.append(self._logits(model.net, ids[:, n : n + 1], cache))
        model.parity = decoding_error(model.net, ids, torch.cat(logits, 1), dtype)
        if not model.parity["ok"]:
            model.reason = "decoded logits are wrong"

    def _ids(self, tokens: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self.sizes.batch, tokens)
        return torch.randint(0, self.sizes.vocab, shape, generator=generator).to(self.device)

    @staticmethod
    def _logits(net: Any, ids: Tensor, cache: Any) -> Tensor:
        out = net(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits  # type: ignore[no-any-return]

    def _generate(self, model: DecodingModel) -> None:
        """Decode greedily: the prompt at once, then token after token."""
        cache = SoftmapCache(model.net.model)
        ids, start = self._ids(self.sizes.prompt), self._now()
        last = self._logits(model.net, ids, cache).argmax(-1)
        middle = self._now()
        for _ in range(self.sizes.new):
            last = self._logits(model.net, last, cache).argmax(-1)
        model.prompt.append(middle - start)
        model.new.append(self._now() - middle)

    def _tokens_at(self, model: DecodingModel, length: int) -> float:
        """Returns the seconds of one token with about ``length`` tokens in the cache."""
        cache = SoftmapCache(model.net.model)
        last = self._logits(model.net, self._ids(length), cache).argmax(-1)
        start = self._now()
        for _ in range(BURST):
            last = self._logits(model.net, last, cache).argmax(-1)
        return (self._now() - start) / BURST

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def record(self) -> dict[str, Any]:
        """Returns the sizes, and a row for every model."""
        base = self.models[0]
        return {
            **vars(self.sizes),
            "control": base.variant,
            "rows": [self._row(model, base) for model in self.models],
        }

    def _row(self, model: DecodingModel, base: DecodingModel) -> dict[str, Any]:
        found: dict[str, Any] = {
            "variant": model.variant, "impl": model.impl, "parity": model.parity,
            "reason": model.reason,
        }  # fmt: skip
        if model.reason or not model.new:
            return found
        tokens = self.sizes.batch * self.sizes.new
        speed = [tokens / (a + b) for a, b in zip(model.prompt, model.new, strict=True)]
        own = [tokens / (a + b) for a, b in zip(base.prompt, base.new, strict=True)]
        size = torch.empty((), dtype=DTYPES[self.sizes.dtype]).element_size()
        return found | {
            "tokens_per_second": spread(speed),
            "over_control": None if base.reason else ratios(speed, own),
            "prompt_seconds": spread(model.prompt),
            "token_seconds": {str(n): spread(s) for n, s in model.at.items() if s},
            "cache_bytes_per_token": accounting.cache_bytes_per_token(model.config, size),
        }
