"""A tokenizer, and what any trainer is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from softmap.data.builders import bytes_tokenizer

CHAT = "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}\n{% endfor %}"  # noqa: E501


@pytest.fixture
def tokenizer() -> Any:
    own = bytes_tokenizer().hf
    own.chat_template = CHAT
    return own


@pytest.fixture
def quietly(tmp_path: Path) -> dict[str, Any]:
    """Arguments of any transformers or TRL trainer: one step, nothing reported."""
    return {
        "output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 2,
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no",
        "learning_rate": 1e-2,
    }  # fmt: skip
