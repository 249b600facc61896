"""``softmap new`` and ``softmap check``: starts and tests a variant of the user's own."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from softmap.errors import SoftmapError, shown
from softmap.fields import Range

Size = Annotated[int, Range(1, 2**31 - 1)]
FAILED = 1  #: the exit status where a check fails


@dataclass
class Check:
    """Run the conformance suite over a variant: about a minute on a CPU, a line per check.

    The exit status is 1 where a check fails. docs/own-variant.md says what each check asks.

    For example:
      softmap check my_file.py:mine
      softmap check "my_file.py:mine(rank=2)+dape" --only chunked decoding
    """

    variant: Positional[str]
    """Your file and the name in it, a name, or a composition."""
    only: tuple[str, ...] = ()
    """Only these checks, by name."""
    quick: bool = False
    """Only the checks of softmap compare before a training, up to the first that fails."""
    heads: Size = 4
    kv_heads: Size | None = None
    head_dim: Size = 8
    context: Size = 40
    """Tokens of the longest input."""

    def run(self, argv: Sequence[str]) -> int:
        """Print an outcome for each check; returns 1 where one failed, else 0."""
        from transformers.utils import logging

        from softmap.testing import outcomes

        logging.disable_progress_bar()  # checks save and load models
        sizes: dict[str, Any] = {n: getattr(self, n) for n in ("heads", "kv_heads", "head_dim")}
        only = [name for word in self.only for name in word.split(",")] or None
        failed = 0
        for outcome in outcomes(
            self.variant, **sizes, context=self.context, only=only, quick=self.quick
        ):
            print(outcome, flush=True)
            failed += outcome.error is not None
        return FAILED if failed else 0


@dataclass
class New:
    """Start a variant of your own: NAME.py with an edit to change, and test_NAME.py for pytest.

    For example:
      softmap new my-edit
      softmap new my-norm --stage normaliser && softmap check my_norm.py:my-norm
    """

    name: Positional[str]
    """Letters, digits and hyphens, such as my-edit."""
    stage: Literal["scores", "normaliser", "weights", "output"] = "scores"
    """Before the softmax, in its place, after it, or on the attention's result."""

    def run(self, argv: Sequence[str]) -> None:
        """Write both files and print their paths. Raises ``SoftmapError`` where one exists."""
        from softmap.files import write

        files = written(self.name, self.stage)
        for path in files:
            if path.exists():
                raise SoftmapError(f"{path} exists: expected an unused name")
        for path, text in files.items():
            write(path, text)
            print(path)


def written(name: str, stage: str) -> dict[Path, str]:
    """Returns the two files of a new variant, by their paths."""
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise SoftmapError(
            "name: expected lower-case letters, digits and hyphens, such as my-edit, found "
            f"{shown(name)}"
        )
    made = {"name": name, "module": module, "class": "".join(map(str.title, name.split("-")))}
    texts = {f"{module}.py": EDIT, f"test_{module}.py": TEST}
    return {Path(file): _filled(text, made | STAGES[stage]) for file, text in texts.items()}


def _filled(text: str, values: dict[str, str]) -> str:
    for key, value in values.items():
        text = text.replace(f"<{key}>", value)
    return text


_GAIN = 't["gain"][:, None, None].to(m.dtype)'
STAGES = {
    "scores": {
        "stage": "scores", "maths": "S'[h,i,j] = g_h S[h,i,j]", "where": "band",
        "result": f"{_GAIN} * m",
    },
    "normaliser": {
        "stage": "normaliser", "maths": "A[h,i,j] = g_h sigmoid(S[h,i,j] - log n_i)",
        "where": "band",
        "result": f"{_GAIN} * torch.sigmoid(m - band.count.clamp(min=1).log())",
    },
    "weights": {
        "stage": "weights", "maths": "A'[h,i,j] = g_h A[h,i,j]", "where": "band",
        "result": f"{_GAIN} * m",
    },
    "output": {
        "stage": "output", "maths": "o'[h,i] = g_h o[h,i]", "where": "rows",
        "result": f"{_GAIN} * m",
    },
}  # fmt: skip

EDIT = '''"""<name>: say here what it is, and where it comes from."""

import torch
from torch import nn

from softmap import Edit
from softmap.variants import Parts, variant


class <class>(Edit):
    """<maths>, one trained gain g_h a head."""

    stage = "<stage>"

    def __init__(self, place):
        super().__init__()
        self.maps = place.heads
        self.gain = nn.Parameter(torch.ones(place.heads))

    def layer_tensors(self):
        return {"gain": self.gain}

    def edit(self, m, <where>, t):
        return <result>


@variant("<name>", "<class>")
def <module>():
    """<maths>, g_h = 1 at init."""
    return Parts(<stage>=[<class>])
'''

TEST = '''"""The conformance suite over <name>: pytest test_<module>.py"""

from pathlib import Path

import pytest
from softmap.testing import CHECKS, CheckSubject

MINE = f"{Path(__file__).with_name('<module>.py')}:<name>"


@pytest.mark.parametrize("name", CHECKS)
def test_<module>(name):
    CHECKS[name](CheckSubject(MINE))
'''
