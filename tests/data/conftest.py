from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from softmap.data import Corpus, DataConfig, prepare


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test that reaches for the Hub fails at once instead of retrying for a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf-datasets")


def texts(count: int) -> list[str]:
    return [
        f"document {i}\n" + f"the number {i} again and again\n" * (i % 7 + 1) for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 small text files in two folders."""
    root = tmp_path / "texts"
    for index, text in enumerate(texts(60)):
        path = root / ("a" if index % 2 else "b") / f"{index:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "records" / "train.jsonl"
    path.parent.mkdir()
    path.write_text(
        "".join(json.dumps({"body": t, "id": i}) + "\n" for i, t in enumerate(texts(60)))
    )
    return path


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Corpus]:
    """``prepare`` with bytes (no training) in a cache folder of the test's own."""

    def prepared(data: Path | str, **options: object) -> Corpus:
        config = DataConfig(data=str(data), **({"tokenizer": "bytes"} | options))  # type: ignore[arg-type]
        return prepare(config, tmp_path / "cache")

    return prepared
