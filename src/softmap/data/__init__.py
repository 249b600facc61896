"""Text to batches: sources, split, tokens on disk, and an order that is a pure function of the
step.
"""

from __future__ import annotations

from softmap.data import order, synthetic
from softmap.data.builders import load_tokenizer_dir
from softmap.data.config import DataConfig, Part, Progress
from softmap.data.corpus import prepare, skipped_files
from softmap.data.order import Mixture, require
from softmap.data.shards import Corpus
from softmap.data.tokenizer import Tokenizer

__all__ = [
    "Corpus",
    "DataConfig",
    "Mixture",
    "Part",
    "Progress",
    "Tokenizer",
    "load_tokenizer_dir",
    "order",
    "prepare",
    "require",
    "skipped_files",
    "synthetic",
]
