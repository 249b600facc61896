"""Attention maps of a passage, and which passage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softmap.data.builders import bytes_tokenizer
from softmap.evals.maps import passage, passage_maps
from softmap.hf import SoftmapConfig, SoftmapForCausalLM


def maps_of(variant: str) -> np.ndarray:
    torch.manual_seed(0)
    config = SoftmapConfig(
        variant=variant, vocab_size=50, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return passage_maps(SoftmapForCausalLM(config), list(range(10, 19)))


@pytest.mark.parametrize(("variant", "heads"), [("transformer++", 2), ("diff", 1), ("dcmha", 2)])
def test_maps_are_causal_with_one_per_layer_and_head(variant: str, heads: int) -> None:
    maps = maps_of(variant)
    assert maps.shape == (3, heads, 9, 9) and maps.dtype == np.float16
    assert np.triu(np.abs(maps.astype(float)).max(axis=(0, 1)), 1).max() == 0
    assert np.isfinite(maps).all()


def test_plain_rows_sum_to_one() -> None:
    np.testing.assert_allclose(maps_of("transformer++").sum(-1, dtype=np.float64), 1, atol=5e-3)


def test_the_passage_is_a_line_start_with_few_breaks() -> None:
    tokenizer = bytes_tokenizer()
    text = "tail of a line\n1\n2\n3\nThis sentence is long.\n4\n5\n6\n7\n8\n9\n10\n"
    tokens = np.array(tokenizer.encode(text), np.uint16)
    assert tokenizer.decode(passage(tokens, tokenizer, 22)) == "This sentence is long."


def test_text_without_lines_starts_at_its_start() -> None:
    tokenizer = bytes_tokenizer()
    tokens = np.array(tokenizer.encode("no line break here"), np.uint16)
    assert tokenizer.decode(passage(tokens, tokenizer, 7)) == "no line"
