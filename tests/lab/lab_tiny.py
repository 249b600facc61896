"""A tiny text and a tiny recipe: a comparison of two variants in a second or two."""

from __future__ import annotations

import random
from pathlib import Path

from softmap.lab.progress import Display

WORDS = ["alpha", "beta", "gamma", "delta", "def", "return", "x", "y", "\n"]

RECIPE = """\
name: tiny
data: {{data: {text}, tokenizer: bytes}}
model: {{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, context: 32}}
training:
  steps: 12
  batch_size: 2
  warmup: 0.1
  log_every: 2
  checkpoint_every: 2
  precision: fp32
variants: [transformer++, diff]
evaluation: {{windows: 8, passage_tokens: 12}}
tuning: {{grid: [1e-3, 1e-2], share: 0.5, windows: 4}}
"""


def write_text(folder: Path, words: int = 4000) -> Path:
    chooser = random.Random(0)
    path = folder / "text.txt"
    path.write_text(" ".join(chooser.choice(WORDS) for _ in range(words)))
    return path


def write_recipe(folder: Path, more: str = "", words: int = 4000) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(text=write_text(folder, words)) + more)
    return path


class Notes(Display):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)
