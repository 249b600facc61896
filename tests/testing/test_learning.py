"""Every variant can learn: a text by heart, and values that only attention can find."""

from __future__ import annotations

from typing import Any

import learning
import pytest

from softmap.data.synthetic import Recall
from softmap.variants import names

COMBINED = ["diff+dape", "dcmha(static=true)+diff2", "sas+talking-heads"]


def sampled(*quick: str) -> list[Any]:
    """Every variant and combination; all but ``quick`` with the slow tests."""
    return [
        pytest.param(v, marks=[] if v in quick else [pytest.mark.slow]) for v in names() + COMBINED
    ]


# Neither a skip nor, at its start, any attention: it is the last to begin. And no positions, nor a
# look at its own token: it is next.
SLOW_STARTERS = {"v-skipinit": 900, "stick-breaking": 900}
TASK = Recall(pairs=4, queries=4, keys=8, values=8)


@pytest.mark.parametrize("variant", sampled("dcmha"))
def test_learns_a_text_by_heart(variant: str) -> None:
    model, batch = learning.make(variant, 128), learning.text_batch()
    learning.train(model, lambda step: batch, steps=150, lr=1e-2)
    loss, _ = learning.loss_and_accuracy(model, batch)
    assert loss < 0.1


def recalled(variant: str, steps: int) -> tuple[float, float]:
    """Loss and accuracy on sequences never seen in training."""
    model, batches = learning.make(variant, TASK.vocab_size), learning.recall_batches(TASK)
    learning.train(model, batches, steps, lr=3e-3)
    loss, accuracy = learning.loss_and_accuracy(model.eval(), batches(10**6))
    return loss.item(), accuracy


@pytest.mark.slow
@pytest.mark.parametrize("variant", sampled("dcmha"))
def test_recalls_what_no_token_says_by_itself(variant: str) -> None:
    """A quarter of a nat below, and at twice the accuracy of, the best that can be done without
    attention (ln 8 and 1/8). It is reached well before the pairs themselves are told apart."""
    loss, accuracy = recalled(variant, SLOW_STARTERS.get(variant, 300))
    assert loss < TASK.loss_without_attention - 0.25
    assert accuracy > 2 * TASK.accuracy_without_attention


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["transformer++", "diff"])
def test_tells_pairs_apart(variant: str) -> None:
    """Below what a bag of the tokens before could say: the pairing itself is found."""
    loss, accuracy = recalled(variant, 900)
    assert loss < 0.5 * TASK.loss_without_pairing
    assert accuracy > 0.9


@pytest.mark.slow
def test_without_attention_the_level_is_not_passed() -> None:
    """The same training with a window of one key, the token's own, stays at ln 8."""
    loss, _ = recalled("transformer++(pattern=L,window=1)", 300)
    assert loss > TASK.loss_without_attention - 0.1
