"""Training steps and decoding of whole models: speeds beside checked numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_backend import AddBackend
from torch import Tensor

from softmap.bench import step
from softmap.cli import main
from softmap.lab import recipe
from softmap.ops.call import Call

STEP = ["--rounds", "2", "--steps", "1", "--set", "model.context=16", "model.hidden_size=32"]
STEP += ["model.num_attention_heads=4", "model.num_hidden_layers=2"]
STEP += ["training.batch_size=2", "data.tokenizer=bytes"]
DECODE = ["--hidden-size", "32", "--heads", "4", "--layers", "2", "--prompt", "12", "--new", "4"]
DECODE += ["--lengths", "5", "20", "--rounds", "2", "--vocab", "40"]


def run(out: Path, *argv: str, status: int = 0) -> dict[str, Any]:
    assert main(["bench", *argv, "--out", str(out)]) == status
    (case,) = json.loads(out.read_text())["cases"]
    rows = {row["variant"]: row for row in case["rows"]}
    return {**case, "rows": rows}


def off(o: Tensor, call: Call) -> Tensor:
    return o + 0.5 * o.roll(1, -1)  # a mere factor would vanish in diff's head norm


def test_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path / "a.json", "step", "diff,dcmha", *STEP)
    rows = found["rows"]
    assert list(rows) == ["transformer++", "diff", "dcmha"] and found["batch_tokens"] == 32
    assert rows["transformer++"]["over_control"]["median"] == 1
    for row in rows.values():
        assert row["parity"]["ok"] and row["tokens_per_second"]["count"] == 2
    sizes = [row["parameters"] for row in rows.values()]
    assert max(sizes) < 1.01 * min(sizes)  # as softmap compare makes them
    assert "dcmha" in capsys.readouterr().out


def test_step_of_a_wrong_backend_has_no_speed(add_backend: AddBackend, tmp_path: Path) -> None:
    add_backend("broken", off)
    flags = ["step", "diff", "--impl", "broken", *STEP]
    rows = run(tmp_path / "a.json", *flags, status=1)["rows"]
    for row in rows.values():
        assert "gradients are wrong" in row["reason"] and "tokens_per_second" not in row


def test_step_trains_what_compare_trains() -> None:
    """The recipe's own batch and precision, not a copy of them."""
    plan = recipe.load(
        "demo", {"model.context": "16", "training.batch_size": "3", "training.precision": "bf16"}
    )
    found = step.StepBenchmark(plan, "auto", torch.device("cpu"), lambda text: None)
    assert [m.label for m in found.models] == [e.variant for e in plan.variants]
    assert found.vocab == 512 and found.record()["batch_tokens"] == 48
    assert found.record()["precision"] == "bf16"


def test_decode(tmp_path: Path) -> None:
    found = run(tmp_path / "a.json", "decode", "dcmha", "sas", *DECODE)
    rows = found["rows"]
    assert list(rows) == ["transformer++", "dcmha", "sas"]
    for row in rows.values():
        assert row["parity"]["ok"] and set(row["token_seconds"]) == {"5", "20"}
        assert row["tokens_per_second"]["count"] == row["token_seconds"]["5"]["count"] == 2
    # K and V of four heads of width 8, two layers; (4R + 2) numbers a head more for dcmha.
    assert rows["transformer++"]["cache_bytes_per_token"] == 2 * 2 * 32 * 4
    assert rows["dcmha"]["cache_bytes_per_token"] == 2 * (2 * 32 + 10 * 4) * 4


def test_decode_of_a_wrong_backend_has_no_speed(add_backend: AddBackend, tmp_path: Path) -> None:
    """Wrong only where it decodes: one query."""

    def when_decoding(o: Tensor, call: Call) -> Tensor:
        return off(o, call) if call.queries == 1 else o

    add_backend("broken", when_decoding)
    flags = ["decode", "diff", "--impl", "broken", *DECODE]
    rows = run(tmp_path / "a.json", *flags, status=1)["rows"]
    assert "wrong" in rows["diff"]["reason"] and "tokens_per_second" not in rows["diff"]


def test_an_interrupt_leaves_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed, calls = step.StepBenchmark._timed, []

    def interrupted(self: Any, *given: Any) -> float:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return timed(self, *given)

    monkeypatch.setattr(step.StepBenchmark, "_timed", interrupted)
    rows = run(tmp_path / "a.json", "step", "diff", *STEP, status=130)["rows"]
    assert rows["transformer++"]["tokens_per_second"]["count"] == 2
    assert rows["diff"]["over_control"]["count"] == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["step", "dif"], "unknown variant 'dif'"),
        (["step", "--impl", "chunky"], "--impl: expected one of auto"),
        (["step", "--set", "model.hiden_size=3"], "did you mean 'hidden_size'"),
        (["step", "--set", "nonsense"], "--set: expected key.path=value"),
        (["step", "--set", "data.tokenizer=hf:gpt2"], "tokenizer of known size"),
        (["step", "--recipe", "dmo"], "no recipe or run 'dmo'"),
        (["decode", "dif"], "unknown variant 'dif'"),
        (
            ["decode", "--new", "-1"],
            "--new: expected a whole number from 1 to 1,073,741,824",
        ),
        (["decode", "--lengths", "0"], "--lengths[0]: expected a whole number from 1 to"),
        (["decode", "--dtype", "int8"], "--dtype: expected one of"),
        (["decode", "--heads", "7"], "multiple of"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], argv: list[str], says: str) -> None:
    assert main(["bench", *argv]) == 2
    lines = [s for s in capsys.readouterr().err.splitlines() if s.startswith("softmap: error:")]
    assert len(lines) == 1 and says in lines[0]
