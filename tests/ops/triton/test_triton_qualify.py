"""The Triton kernels qualify before ``auto`` takes them; what is wrong with them is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from triton_cases import Case

import softmap
from softmap.ops import BACKENDS, attention, choose, explain, qualify, triton
from softmap.ops.qualify import trial


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton comes first, its verdicts in a folder of their own; one small trial."""
    from softmap.ops.triton.configs import override

    monkeypatch.setenv("SOFTMAP_CACHE", str(tmp_path))
    backends = {name: BACKENDS[name] for name in ("triton", "chunked", "reference")}
    monkeypatch.setitem(attention.__globals__, "BACKENDS", backends)
    monkeypatch.setattr(triton, "trials", lambda kind: [(5, 5)])
    monkeypatch.setattr(trial, "DRAWS", 1)
    qualify._VERDICTS.clear()
    with override(16, 16):
        yield
    qualify._VERDICTS.clear()


CASE = Case("kerple", heads=1, head_dim=4, tokens=6, batch=1)


def test_right_kernels_are_taken(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = CASE.call(torch.float32, device)
    assert choose(call) == "triton"
    assert "qualified the Triton kernels of Kerple, 1 heads of 4, float32" in (
        capsys.readouterr().err
    )
    monkeypatch.setattr(triton, "trials", None)  # nothing is tried again
    qualify._VERDICTS.clear()
    args: Any = {"tensors": list(call.tensors)}
    out = softmap.attention(call.q, call.k, call.v, list(call.edits), **args)
    want = softmap.attention(call.q, call.k, call.v, list(call.edits), impl="reference", **args)
    torch.testing.assert_close(out, want)


@pytest.mark.parametrize("part", ["output", "gradient of k", "Kerple's layer tensor 'p'"])
def test_wrong_kernels_are_refused(
    part: str, device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from softmap.ops.triton import gradients, launch
    from softmap.ops.triton.plan import FIXED

    place = {"output": -1, "gradient of k": 1, "Kerple's layer tensor 'p'": len(FIXED)}[part]
    forward, backward = launch.forward, gradients.backward

    def bent(*args: Any) -> Any:
        o, lse = forward(*args)
        return (o * 1.01 if place < 0 else o), lse

    def bent_back(grad: Any, o: Any, lse: Any, flat: Any, spec: Any, needs: Any) -> Any:
        found = backward(grad, o, lse, flat, spec, needs)
        wanted = [n for n, need in enumerate(needs) if need]
        return [g * 1.01 if n == place else g for n, g in zip(wanted, found, strict=True)]

    monkeypatch.setattr(launch, "forward", bent)
    monkeypatch.setattr(gradients, "backward", bent_back)
    call = CASE.call(torch.float32, device)
    assert choose(call) == "chunked"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "passing over the Triton kernels" in said and part in said
    monkeypatch.setattr(triton, "trials", None)  # never again, in another process either
    qualify._VERDICTS.clear()
    assert choose(call) == "chunked" and part in (dict(explain(call))["triton"] or "")


@pytest.mark.parametrize(
    ("variant", "tiles", "trials"),
    [
        ("transformer++", {"forward", "rows", "keys"}, [(261, 261), (272, 272)]),
        ("dcmha", {"forward", "rows", "keys"}, [(37, 37), (48, 48)]),
        ("dape(hidden=4)", {"score_conv"}, [(69, 69), (80, 80)]),
    ],
)
def test_trials_cross_tiles_at_odd_lengths_and_multiples_of_16(
    variant: str,
    tiles: set[str],
    trials: list[tuple[int, int]],
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from softmap.ops.triton import configs, made

    with monkeypatch.context() as patch:
        patch.setattr(configs, "_override", [])
        call = Case(variant, heads=2, tokens=3, batch=1).call(torch.float16, device)
        kind = qualify.kind_of(triton, call)
        assert set(made.tiles(kind)) == tiles and made.trials(kind) == trials
        few, many = made.trials(kind._replace(queries="one"))
        assert few[0] == many[0] == 1 and many[1] > 512  # so many that programs share the keys


@pytest.mark.parametrize(("queries", "keys"), [(1, 11), (4, 11), (9, 9)])
def test_calls_that_continue_a_cache_qualify(
    queries: int, keys: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum of the values before the first query is no input of a kernel."""
    from dataclasses import replace

    case = Case("sas", heads=2, batch=1, tokens=keys, queries=None if queries == keys else queries)
    call = case.call(torch.float32, device)
    B, G, _, width = call.v.shape
    call = replace(call, running=(torch.ones(B, G, width).to(device), torch.ones(B, 1).to(device)))
    monkeypatch.setattr(triton, "trials", lambda kind: [(queries, keys)])
    assert trial.tried(triton, call, qualify.kind_of(triton, call)).why is None


def test_tile_sizes_and_precision_are_part_of_the_key(device: str) -> None:
    from softmap.ops.triton.configs import override

    call = CASE.call(torch.float32, device)

    def path() -> Path:
        return qualify.record.path_of(qualify.record.key_of(triton, qualify.kind_of(triton, call)))

    found, before = [path()], torch.backends.cuda.matmul.allow_tf32
    with override(32, 32):
        found.append(path())
    torch.backends.cuda.matmul.allow_tf32 = not before
    try:
        found.append(path())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert len(set(found)) == 3
