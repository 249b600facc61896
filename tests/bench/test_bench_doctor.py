"""softmap doctor: what is there, which kernels are right, and what a bug report gets."""

from __future__ import annotations

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softmap.bench import doctor
from softmap.bench.case import Case
from softmap.cli import _parse, main
from softmap.ops import native
from softmap.ops.native import build
from softmap.ops.qualify import trial


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "VARIANTS", ("kerple",))
    monkeypatch.setattr(trial, "DRAWS", 2)


def needs_a_compiler() -> None:
    if build.missing():
        pytest.skip(str(build.missing()))


def test_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_a_compiler()
    path = tmp_path / "doctor.json"
    assert main(["doctor", "--device", "cpu", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__}" in out and "native kernels: built" in out
    assert "Triton kernels: they need a GPU, the device is cpu" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("  native")]
    assert [row[1] for row in rows] == ["kerple", "kerple"] and all("right" in row for row in rows)
    found = json.loads(path.read_text())
    assert found["kind"] == "doctor" and found["versions"]["torch"] == torch.__version__
    errors = found["kernels"][0]["errors"]["33 queries of 33 keys"]
    assert {"output", "gradient of q", "gradient of k", "gradient of v"} <= set(errors)
    assert 0 < found["kernels"][0]["error"] < 1


def test_what_is_wrong_is_told_and_is_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_a_compiler()
    run = native.run
    monkeypatch.setattr(native, "run", lambda call: run(call) * 1.1)
    path = tmp_path / "doctor.json"
    assert main(["doctor", "--device", "cpu", "--json", str(path)]) == 1
    said = capsys.readouterr()
    assert said.out.count("wrong") == 2
    assert "softmap: native, kerple, 4 heads of 16, float32: output in torch.float32" in said.err
    assert [row["verdict"] for row in json.loads(path.read_text())["kernels"]] == ["wrong"] * 2


def test_no_compiler_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "missing", lambda: "native code needs a C++ compiler")
    rows = list(doctor.examined(torch.device("cpu")))
    assert {row.verdict for row in rows} == {"refused"}
    assert rows[0].why == "native code needs a C++ compiler"


@pytest.mark.parametrize(
    ("why", "tried", "verdict"),
    [(None, True, "right"), ("output ...", True, "wrong"), ("no memory", False, "not tried")],
)
def test_a_gpus_kernels_are_rows(
    why: str | None, tried: bool, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a GPU, and for the verdict on its kernels."""
    errors: Any = {"33 queries of 33 keys": {"output": (3e-2, 1e-2), "gradient of q": (None, 1e-2)}}
    found = trial.Qualification(why, tried, 2.0, 1.0, errors)
    monkeypatch.setattr(doctor, "_native", lambda call: found)
    monkeypatch.setattr(doctor, "_triton", lambda call: found)
    monkeypatch.setattr(doctor.triton, "refuses", lambda call: None)
    cases = [Case("kerple", 1, 2, 12, 8, dtype=dtype) for dtype in ("float16", "bfloat16")]
    monkeypatch.setattr(doctor, "_pool", lambda: ThreadPoolExecutor(2))
    monkeypatch.setattr(doctor, "_of_gpu", lambda variant, device: cases)
    rows = list(doctor.examined(SimpleNamespace(type="cuda")))  # type: ignore[arg-type]
    assert [row.backend for row in rows][-2:] == ["triton"] * 2
    assert rows[-1].verdict == verdict and rows[-1].error == pytest.approx(1.5)


@pytest.mark.parametrize("words", [("--device", "tpu9"), ("--json", "")])
def test_bad_words_are_one_line(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1


def test_a_wrong_mode_is_told_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOFTMAP_QUALIFY", "never")
    assert main(["doctor", "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "SOFTMAP_QUALIFY: expected off, now or nothing" in said.err


def gpu() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_gpu_asks_for_what_there_is_and_fits_ten_minutes() -> None:
    made = gpu()
    steps = made.steps("h100")
    assert sum(step.seconds + made.GRACE for step in steps) <= 600
    for step in steps:
        words = [str(word) for word in step.command]
        if "softmap" in words:
            _parse(words[words.index("softmap") + 1 :])
    assert [Path(s.command[-1]).name for s in steps if "results" in s.command[-1]] == [
        f"{kind}-h100.json" for kind in ("doctor", "op", "step", "decode")
    ]


@pytest.mark.parametrize(
    ("name", "short"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA GeForce RTX 4090", "4090"), ("Foo X", "foo-x")],
)
def test_results_are_named_after_the_gpu(name: str, short: str) -> None:
    assert gpu().short(name) == short
