"""What works with torch and numpy alone, as a program: run where nothing else can be imported."""

import pydoc
import tempfile
from pathlib import Path

import torch

import softmap
import softmap.testing
from softmap.nn import Attention, Decoder, ModelConfig
from softmap.train import Terms, plan, schedules

MINE = """
from torch import Tensor
from softmap import Edit
from softmap.variants import Parts, variant


class Half(Edit):
    def edit(self, m, band, t):
        return m * 0.5


@variant("half", "Half")
def half():
    return Parts(scores=[lambda place: Half()])
"""

q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
assert softmap.attention(q, k, v, window=3).shape == (1, 2, 5, 4)

for variant in ("diff+dcmha(rank=1)", "sas"):
    layer, x = Attention(16, 2, variant), torch.randn(1, 5, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape

config = ModelConfig(variant="dape", vocab_size=7, hidden_size=16, num_hidden_layers=1,
                     num_attention_heads=2, max_position_embeddings=8)  # fmt: skip
assert Decoder(config)(torch.tensor([[1, 2, 3]])).shape == (1, 3, 16)

with tempfile.TemporaryDirectory() as folder:
    mine = Path(folder, "mine.py")
    mine.write_text(MINE)
    report = softmap.testing.check(f"{mine}:half", heads=2, head_dim=4, only=["edits", "saving"])
    assert report.passed, report
    assert "transformers" in (report.outcomes[1].note or ""), report

for module in (softmap, softmap.train):
    assert pydoc.render_doc(module)  # asks for every name that dir lists
assert "attention" in dir(softmap) and "hf" not in dir(softmap)

terms = Terms(peak=1e-3, floor=1e-4, budgets=(10, 20), warmup=2)
assert schedules.wsd_s(19, terms) == 1e-4 and plan("wsd", terms)

for room, extra in (("hf", "hf"), ("interop", "hf"), ("lab", "lab"), ("report", "lab"),
                    ("bench", "lab"), ("cli", "lab"), ("train.loop", "hf")):  # fmt: skip
    try:
        __import__(f"softmap.{room}")
    except ImportError as error:
        assert f"pip install 'softmap[{extra}]'" in str(error), error
        assert "\n" not in str(error)
    else:
        raise AssertionError(f"softmap.{room} was imported")
