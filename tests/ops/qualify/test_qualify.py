"""Kernels are tried before ``auto`` takes them: what passes, what fails, what is remembered."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stand_in
import torch
from stand_in import a_call
from torch.utils.checkpoint import checkpoint

import softmap
from softmap.errors import SoftmapError
from softmap.ops import choose, explain, qualify
from softmap.ops.qualify import record

Anew = Callable[[], None]


def reason() -> str | None:
    return dict(explain(a_call()))["stand_in"]


def test_what_is_right_is_taken_and_said_once(
    folder: Path, anew: Anew, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [choose(a_call()) for _ in range(2)] == ["stand_in"] * 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "qualified the Stand_in kernels of Compose, 2 heads of 8, float32 on cpu" in line
    assert " s, " in line
    anew()
    assert choose(a_call()) == "stand_in"
    assert not stand_in.seen and not capsys.readouterr().err
    assert len(list(folder.glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("output", "output in torch.float32: error 1.0e-01, more than 2 x the plain map's"),
        ("k", "gradient of k in torch.float32: error 1.0e-01, more than 3 x"),
        ("query tensor", "gradient of Compose's query tensor 'q1' (edit 0) in torch.float32"),
        ("cut", "gradient of k in torch.float32: not finite"),
        ("unwritten", "output in torch.float32: not finite"),
        ("raises", "RuntimeError: out of shared memory"),
    ],
)
def test_what_is_wrong_is_said_and_never_used_again(
    fault: str,
    said: str,
    anew: Anew,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAULT", fault)
    assert choose(a_call()) != "stand_in"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("softmap: passing over the Stand_in kernels of Compose") and said in line
    assert said in (reason() or "") and "did not qualify on this machine" in (reason() or "")
    monkeypatch.delenv("FAULT")  # it is not asked again, in this process or in another
    anew()
    assert choose(a_call()) != "stand_in" and said in (reason() or "")
    assert not stand_in.seen and not capsys.readouterr().err


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _altered(path: Path) -> None:
    path.write_text(path.read_text().replace('"why": "', '"why": null, "was": "'))


def _unsealed(path: Path) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "why": None, "sha256": None}))


def _of_another(path: Path) -> None:
    found = json.loads(path.read_text())
    del found["sha256"]
    found["key"]["torch"] = "9.9"
    record.sealed.write_sealed(path, {**found, "why": None})


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("junk", [_cut_short, _altered, _unsealed, _of_another, _a_folder])
def test_a_record_that_cannot_be_trusted_is_made_again(
    junk: Callable[[Path], None], folder: Path, anew: Anew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them would have been taken for a pass, or for the failure that it was."""
    monkeypatch.setenv("FAULT", "k")
    assert reason() is not None
    (path,) = folder.glob("*.json")
    junk(path)
    anew()
    assert reason() is not None and stand_in.seen
    if junk is not _a_folder:
        anew()
        assert reason() is not None and not stand_in.seen


@pytest.mark.parametrize("other", ["torch", "driver", "device", "code"])
def test_a_verdict_is_of_one_device_version_and_code(
    other: str, folder: Path, anew: Anew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "output")
    assert reason() is not None
    monkeypatch.delenv("FAULT")
    if other == "code":
        monkeypatch.setenv("CODE", "2")
    else:
        here = record.machine(torch.device("cpu"))
        monkeypatch.setattr(record, "machine", lambda device: {**here, other: "another"})
    anew()
    assert reason() is None and stand_in.seen
    assert len(list(folder.glob("*.json"))) == 2


def test_off_tries_nothing_and_takes_what_has_qualified(
    anew: Anew, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOFTMAP_QUALIFY", "off")
    assert "have not been tried on this machine: SOFTMAP_QUALIFY=off" in (reason() or "")
    assert not stand_in.seen and not capsys.readouterr().err
    monkeypatch.delenv("SOFTMAP_QUALIFY")
    assert reason() is None
    monkeypatch.setenv("SOFTMAP_QUALIFY", "off")
    anew()
    assert reason() is None and not stand_in.seen


def test_now_tries_again_once_in_a_process(anew: Anew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "k")
    assert reason() is not None
    monkeypatch.delenv("FAULT")
    monkeypatch.setenv("SOFTMAP_QUALIFY", "now")
    assert reason() is None
    times = len(stand_in.seen)
    assert reason() is None and len(stand_in.seen) == times
    monkeypatch.delenv("SOFTMAP_QUALIFY")
    anew()
    assert reason() is None and not stand_in.seen


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMAP_QUALIFY", "no")
    with pytest.raises(SoftmapError, match="SOFTMAP_QUALIFY: expected off, now or nothing, found"):
        choose(a_call())


def test_a_folder_that_cannot_be_written_serves_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOFTMAP_CACHE", "/proc/no/such")
    assert reason() is None
    times = len(stand_in.seen)
    assert reason() is None and len(stand_in.seen) == times
    assert capsys.readouterr().err.strip().endswith("(it cannot be kept)")


def test_small_calls_are_as_the_call() -> None:
    """Each kind of mask is tried with it; the numbers of the call itself play no part."""
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :3] = False
    call = a_call(window=5)
    qkv = [t.expand(2, -1, -1, -1) for t in (call.q, call.k, call.v)]
    args: Any = {"tensors": call.tensors, "key_mask": mask, "window": 5}
    padded = softmap.ops.make_call(*(t * torch.nan for t in qkv), call.edits, **args)
    assert choose(padded) == "stand_in"
    assert all(c.valid is not None and not c.valid[0, 0] and c.window for c in stand_in.seen)
    assert all(t.isfinite().all() for c in stand_in.seen for t in c.flatten()[1])
    assert {c.queries for c in stand_in.seen} == {11}
    packed = replace(a_call(), starts=torch.arange(12)[None] // 4 * 4)
    assert choose(packed) == "stand_in"
    assert stand_in.seen[-1].starts is not None and stand_in.seen[-1].valid is None
    times = len(stand_in.seen)
    one = softmap.ops.make_call(
        call.q[:, :, -1:], call.k, call.v, call.edits,
        tensors=[t._replace(query={n: x[:, -1:] for n, x in t.query.items()})
                 for t in call.tensors],
    )  # fmt: skip
    assert choose(one) == "stand_in"
    assert {c.queries for c in stand_in.seen[times:]} == {1}


def test_each_dtype_and_width_qualifies_by_itself(folder: Path) -> None:
    for call in (a_call(), a_call(dtype=torch.bfloat16), a_call("talking-heads")):
        assert choose(call) == "stand_in"
    assert len(list(folder.glob("*.json"))) == 3


def test_nothing_of_the_caller_is_touched() -> None:
    call = a_call()
    torch.use_deterministic_algorithms(True)
    state = torch.get_rng_state()
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            assert choose(call) == "stand_in"
            assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
            assert torch.is_autocast_enabled("cpu")
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(torch.get_rng_state(), state)
    assert stand_in.seen[0].q.dtype == torch.float32


def test_checkpointing_does_not_see_what_is_kept_for_the_trial() -> None:
    """It counts what a layer keeps, forward and again: the trial runs in the first alone."""
    call = a_call()
    flat = [t.detach().requires_grad_() for t in call.flatten()[1]]

    def run(*flat: torch.Tensor) -> torch.Tensor:
        part = call.unflatten(flat)
        return softmap.attention(
            part.q, part.k, part.v, list(call.edits), tensors=list(part.tensors)
        )

    out = checkpoint(run, *flat, use_reentrant=False)
    grads = torch.autograd.grad(out.square().sum(), flat)
    want = torch.autograd.grad(run(*flat).square().sum(), flat)
    for a, b in zip(grads, want, strict=True):
        torch.testing.assert_close(a, b)


def test_inside_a_backward_pass_it_waits_for_a_better_moment() -> None:
    """The autograd thread of a GPU would wait for itself."""
    found = []

    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            found.append(reason())
            return grad

    Late.apply(torch.ones(1, requires_grad=True)).sum().backward()
    assert "inside a backward pass" in found[0] and not stand_in.seen
    assert reason() is None


def test_inside_the_capture_of_a_graph_it_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu: Any = SimpleNamespace(q=SimpleNamespace(device=torch.device("cuda")))
    for capturing, why in ((True, "inside the capture of a CUDA graph"), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda c=capturing: c)
        assert qualify._hindered(on_a_gpu) == why
    monkeypatch.setattr(qualify, "_hindered", lambda call: qualify._CAPTURE)
    assert "inside the capture" in (reason() or "") and not stand_in.seen


def test_a_kernel_that_takes_the_gpu_with_it_is_passed_over_by_the_next_process(
    anew: Anew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "raises")
    monkeypatch.setattr(qualify, "lost", lambda device: True)
    with pytest.raises(SoftmapError, match=r"unusable for this process: RuntimeError: out of .*;"):
        choose(a_call())
    anew()
    assert "out of shared memory" in (reason() or "") and not stand_in.seen


def test_a_child_has_a_lock_of_its_own() -> None:
    with qualify._LOCK:
        child = os.fork()
        if child == 0:  # another thread of its parent may have held it
            free = threading.Thread(target=lambda: os._exit(not qualify._LOCK.acquire(timeout=5)))
            free.start()
            free.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_compiler_takes_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    call = a_call()
    chosen = []

    def run(q: torch.Tensor) -> torch.Tensor:
        chosen.append(choose(replace(call, q=q)))
        return q + 1

    torch.compile(run, backend="eager", fullgraph=True)(call.q)
    assert chosen[0] != "stand_in" and not stand_in.seen
    assert "passing over" in (said := capsys.readouterr().err) and "a compiler is tracing" in said
    assert choose(call) == "stand_in"
    torch.compiler.reset()
    torch.compile(run, backend="eager", fullgraph=True)(call.q)
    assert chosen[-1] == "stand_in"


def test_transforms_go_by_the_reference() -> None:
    call, found = a_call(), []

    def run(q: torch.Tensor) -> torch.Tensor:
        found.append(choose(replace(call, q=q)))
        return q

    torch.vmap(run)(call.q.expand(3, -1, -1, -1, -1))
    assert found == ["reference"] and not stand_in.seen


def test_threads_try_once() -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(choose(a_call()))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == ["stand_in"] * 4
    assert len(stand_in.seen) == qualify.trial.DRAWS


def test_what_brings_a_process_down_is_left_alone(
    folder: Path, anew: Anew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two marks of processes that ended while they tried it."""
    assert reason() is None
    (path,) = folder.glob("*.json")
    path.unlink()
    path.with_suffix(".trying").write_text("1")
    anew()
    assert reason() is None and not list(folder.glob("*.trying"))
    path.unlink()
    path.with_suffix(".trying").write_text("2")
    anew()
    assert "2 processes ended while they tried it" in (reason() or "") and not stand_in.seen


def test_no_memory_shows_nothing_of_a_kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(call: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stand_in, "run", full)
    assert "have not been tried" in (reason() or "")
    assert not list(folder.glob("*.json"))
