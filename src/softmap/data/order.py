"""Which tokens make up which batch: pure functions, so a resumed run sees the same data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from softmap.errors import SoftmapError

Tokens = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Mixture:
    """Several texts, each with its share of the training by whole-number ``weights``."""

    parts: tuple[Tokens, ...]
    weights: tuple[int, ...]

    def __len__(self) -> int:
        """Returns the number of tokens of all texts."""
        return sum(map(len, self.parts))


def parts_of(tokens: Tokens | Mixture) -> tuple[Tokens, ...]:
    """Returns the texts of a mixture, or the single text."""
    return tokens.parts if isinstance(tokens, Mixture) else (tokens,)


def require(tokens: int, context: int, batch_size: int = 1, what: str = "the corpus") -> None:
    """Raise a SoftmapError unless ``tokens`` tokens suffice for one batch of different windows."""
    if context < 1 or batch_size < 1:
        raise SoftmapError(f"context and batch must be at least 1, found {context}, {batch_size}")
    if tokens <= context:
        raise SoftmapError(
            f"context {context} is longer than the text: it needs {context + 1} tokens, "
            f"{what} has {tokens}"
        )
    if tokens < (needed := context * batch_size + 1):
        raise SoftmapError(
            f"context {context} x batch {batch_size} needs {needed} tokens, {what} has {tokens}"
        )


def generator(*numbers: int) -> np.random.Generator:
    """Returns a random generator that depends on these numbers alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers)))


@lru_cache(maxsize=32)
def _epoch(
    seed: int, epoch: int, part: int, windows: int, tokens: int
) -> tuple[int, NDArray[np.int64]]:
    """Returns the epoch's offset into the text of a part, and its permutation of the windows."""
    draw = generator(seed, epoch, part)
    offset = int(draw.integers(tokens))
    permutation = draw.permutation(windows)
    permutation.flags.writeable = False
    return offset, permutation


@lru_cache(maxsize=8)
def _turns(seed: int, cycle: int, weights: tuple[int, ...]) -> list[tuple[int, int]]:
    """Returns, for each sample of a cycle, its part, and how many samples of that part came
    before.
    """
    turns = np.repeat(np.arange(len(weights)), weights)
    if len(weights) > 1:
        turns = generator(seed, cycle, len(weights)).permutation(turns)
    before = [0] * len(weights)
    found = []
    for part in turns.tolist():
        found.append((part, before[part]))
        before[part] += 1
    return found


def batch(
    tokens: Tokens | Mixture,
    *,
    seed: int,
    step: int,
    batch_size: int,
    context: int,
    rows: slice = slice(None),
) -> NDArray[np.int64]:
    """Returns batch number ``step``, (batch_size, context + 1) token ids: inputs and shifted
    targets.

    Args:
        rows: the rows of the batch to return, by default all.

    The text is a ring of N tokens. Epoch e starts at a random offset o_e and visits the M = N //
    context windows ``[o_e + i * context, o_e + (i + 1) * context]`` in an order p_e, both drawn
    from (seed, e) alone. Sample k = step * batch_size + row is window p_e[k mod M] of epoch e = k
    // M: within an epoch no target is seen twice, and offsets make the windows of each epoch new. A
    batch may span the end of an epoch and the start of the next.

    In a mixture each text is such a ring with epochs of its own. With W the sum of the weights,
    samples c W .. (c + 1) W - 1 have exactly w_p of text p, in an order drawn from (seed, c) alone:
    a sample with r of text p before it in this cycle is p's sample number c w_p + r.

    Raises:
        SoftmapError: a text is not longer than ``context``, or an argument is out of range.
    """
    parts = parts_of(tokens)
    weights = tokens.weights if isinstance(tokens, Mixture) else (1,)
    for text in parts:
        require(len(text), context)
    if min(seed, step) < 0 or batch_size < 1:
        raise SoftmapError(
            f"expected seed and step >= 0 and batch >= 1, found {seed}, {step}, {batch_size}"
        )
    wanted = range(batch_size)[rows]
    found = np.empty((len(wanted), context + 1), np.int64)
    for at, row in enumerate(wanted):
        cycle, turn = divmod(step * batch_size + row, sum(weights))
        part, before = _turns(seed, cycle, weights)[turn]
        text = parts[part]
        windows = len(text) // context
        epoch, index = divmod(cycle * weights[part] + before, windows)
        offset, permutation = _epoch(seed, epoch, part, windows, len(text))
        start = offset + permutation[index] * context
        found[at] = text[(start + np.arange(context + 1)) % len(text)]
    return found


def windows(tokens: Tokens, context: int, limit: int | None = None) -> NDArray[np.int64]:
    """Returns (n, context + 1) windows spread evenly over the text, with no target in two of them.

    n is the number of windows that fit, ``(len(tokens) - 1) // context``, or ``limit`` if smaller.
    The windows are the same for every model that is evaluated on this text, so losses can be
    paired.

    Raises:
        SoftmapError: the text is not longer than ``context``, or ``limit`` is below 1.
    """
    require(len(tokens), context, what="the held-out text")
    fitting = (len(tokens) - 1) // context
    count = fitting if limit is None else min(limit, fitting)
    if count < 1:
        raise SoftmapError(f"the number of windows must be at least 1, found {limit}")
    starts = np.arange(count, dtype=np.int64) * fitting // count * context
    return tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)
