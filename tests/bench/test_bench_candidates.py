"""Peers compute what they are compared with, in our layout, gradients too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from softmap.bench import candidates, parity
from softmap.bench.candidates import Candidate, Runner
from softmap.bench.case import Case, Problem, make_problem
from softmap.bench.entry import CandidateResult, choose_candidates
from softmap.ops import BACKENDS

ALL = {c.name: c for c in candidates.candidates()}
SIZES = {"batch": 2, "heads": 4, "tokens": 20, "head_dim": 8}


def case(variant: str, **given: object) -> Case:
    return Case(variant, **(SIZES | given))  # type: ignore[arg-type]


def checked(name: str, of: Case) -> parity.Parity:
    problem = make_problem(of)
    why = ALL[name].applies(problem)
    assert why is None, why
    with torch._dynamo.config.patch(recompile_limit=1000):
        return parity.check(ALL[name].prepare(problem), parity.truth(problem))


def test_ours_come_first_and_all_of_them() -> None:
    assert list(ALL)[: len(BACKENDS)] == list(BACKENDS)
    assert {"sdpa flash", "sdpa math", "flex", "dense compiled", "hf diffllama"} <= set(ALL)


def test_a_file_in_the_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from softmap.bench.candidates import Candidate\n"
        "class Mine(Candidate):\n"
        "    name = 'mine'\n"
        "    def applies(self, problem): return 'not today'\n"
        "    def prepare(self, problem): raise NotImplementedError\n"
    )
    monkeypatch.setattr(candidates, "__path__", [*candidates.__path__, str(tmp_path)])
    assert "mine" in [c.name for c in candidates.candidates()]
    assert [c.name for c in choose_candidates(["chunked"], ["min"]) if not c.plain] == [
        "chunked", "mine",
    ]  # fmt: skip


@pytest.mark.parametrize("kernel", ["sdpa flash", "sdpa math"])
@pytest.mark.parametrize("given", [{}, {"kv_heads": 2}, {"window": 6}], ids=str)
def test_sdpa(kernel: str, given: dict[str, int]) -> None:
    found = checked(kernel, case("transformer++", **given))
    assert found.ok, found.summary()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_diffllama(dtype: str) -> None:
    found = checked("hf diffllama", case("diff", dtype=dtype))
    assert found.ok, found.summary()
    assert {"output", "d q", "d k", "d v"} <= set(found.errors)


@pytest.mark.parametrize("variant", ["diff2", "diff(head_norm=false)", "dcmha"])
def test_diffllama_is_for_diff_alone(variant: str) -> None:
    assert ALL["hf diffllama"].applies(make_problem(case(variant)))


@pytest.mark.slow  # compiles C++
@pytest.mark.parametrize("given", [{}, {"window": 6}], ids=str)
@pytest.mark.parametrize("variant", ["transformer++", "alibi", "kerple", "diff", "diff2"])
def test_flex(variant: str, given: dict[str, int]) -> None:
    found = checked("flex", case(variant, direction="forward", **given))
    assert found.ok, found.summary()


@pytest.mark.slow  # compiles C++
@pytest.mark.parametrize("variant", ["diff", "dcmha", "dape", "talking-heads", "sas"])
def test_dense_compiled(variant: str) -> None:
    found = checked("dense compiled", case(variant))
    assert found.ok, found.summary()


@pytest.mark.skipif(
    importlib.util.find_spec("x_transformers") is None, reason="x-transformers is not installed"
)
def test_x_transformers() -> None:
    found = checked("x-transformers", case("talking-heads"))
    assert found.ok, found.summary()


@pytest.mark.parametrize("variant", ["dcmha", "talking-heads", "dape", "fire", "diff+kerple"])
def test_flex_cannot_express(variant: str) -> None:
    assert ALL["flex"].applies(make_problem(case(variant, direction="forward")))


def test_flex_has_no_backward_on_a_cpu() -> None:
    assert "CPU" in str(ALL["flex"].applies(make_problem(case("alibi"))))


class Doubled(Candidate):
    """Takes half of q, in its own layout."""

    name = "doubled"

    def applies(self, problem: Problem) -> str | None:
        return None

    def prepare(self, problem: Problem) -> Runner:
        def run(leaves: object) -> Tensor:
            q, k, v = leaves  # type: ignore[misc]
            return torch.nn.functional.scaled_dot_product_attention(2 * q, k, v, is_causal=True)

        return Runner(run, lambda leaves: [leaves[0] / 2, *leaves[1:]])


def test_gradients_are_compared_in_our_layout_and_timed_in_the_peers() -> None:
    problem = make_problem(case("transformer++"))
    found = parity.check(Doubled().prepare(problem), parity.truth(problem))
    assert found.ok and "d q" in found.errors
    entry = CandidateResult(Doubled(), problem, runner=Doubled().prepare(problem))
    assert torch.equal(entry.leaves()[0], problem.call.q / 2)
    assert all(t.is_leaf and t.requires_grad for t in entry.leaves())
    grads = entry.backward(entry.forward())
    assert len(grads) == 3


def test_fixed_tensors_have_no_gradient() -> None:
    names = make_problem(case("alibi")).names
    assert names[3:] == ["0.Alibi.layer.slopes"]
    assert make_problem(case("alibi")).learnt == (True, True, True, False)
    assert make_problem(case("kerple")).learnt == (True,) * 5


def test_inputs_are_a_function_of_the_seed_and_no_edit_is_the_identity() -> None:
    one, two = make_problem(case("talking-heads")), make_problem(case("talking-heads"))
    for a, b in zip(one.leaves, two.leaves, strict=True):
        assert torch.equal(a, b)
    mix = one.leaves[3]
    assert (mix - torch.eye(4)).abs().max() > 0.05
    other = make_problem(case("talking-heads", seed=1))
    assert not torch.equal(one.call.q, other.call.q)


def test_last_rows_are_the_same_rows() -> None:
    problem = make_problem(case("dcmha", direction="forward"))
    run = BACKENDS["reference"].run
    part = problem.last_rows(3)
    assert torch.allclose(run(part.call), run(problem.call)[:, :, -3:], atol=1e-6)
