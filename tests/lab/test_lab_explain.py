"""What explain says: maths, costs, and backends with their reasons."""

from __future__ import annotations

import pytest
import torch

from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.lab.explain import backends, catalogue, chosen, explain
from softmap.nn import ModelConfig
from softmap.variants import names

SHAPE = {"hidden_size": 64, "heads": 4, "layers": 2, "context": 32, "batch": 1, "vocab": 100}


def test_maths_costs_and_backends_are_said() -> None:
    text = "\n".join(explain("diff+dcmha(rank=4)", **SHAPE))
    assert "lambda_init" in text and "arXiv 2405.08553" in text
    lines = {line.split("  ")[1]: line.split() for line in text.splitlines() if line[:2] == "  "}
    assert float(lines["parameters"][-1]) > 1
    assert "refuses:" in next(line for line in text.splitlines() if line.startswith("  folded"))


def test_the_control_costs_what_it_costs() -> None:
    lines = [line for line in explain("transformer++", **SHAPE) if line.endswith("1.000")]
    assert len(lines) == 3


def test_every_variant_is_listed_with_its_title() -> None:
    assert [line.split()[0] for line in catalogue()] == names()


def test_the_chosen_backend_is_the_first_that_can() -> None:
    config = ModelConfig(variant="dape", hidden_size=64, num_attention_heads=4)
    refusals = dict(backends(config, 32))
    assert refusals["folded"] and refusals["reference"] is None
    assert chosen(config, 32) == ("chunked" if refusals["native"] else "native")


def test_backends_are_asked_in_the_dtype_of_the_computation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from softmap import ops

    asked, inner = [], ops.explain
    monkeypatch.setattr(ops, "explain", lambda call: asked.append(call.q.dtype) or inner(call))
    explain("dcmha+sas", **SHAPE, dtype="bfloat16")
    chosen(ModelConfig(hidden_size=64, num_attention_heads=4), 32)
    assert asked == [torch.bfloat16, torch.float32]


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(SoftmapError, match="multiple"):
        list(explain("diff", **{**SHAPE, "heads": 5}))


def test_options_are_listed_with_their_defaults() -> None:
    text = "\n".join(explain("dcmha(rank=4)+dape", **SHAPE))
    assert "options of dcmha, with their defaults: rank=4 (default 2), static=false" in text
    assert "options of dape, with their defaults: " in text
    assert "options of" not in "\n".join(explain("nope", **SHAPE))


def test_nothing_is_said_before_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "diff", "--device", "tpu9"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "cannot use 'tpu9'" in said.err
