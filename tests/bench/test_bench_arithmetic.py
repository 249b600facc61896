"""Operations and bytes: the formulas of the page, the code, and what edits declare agree."""

from __future__ import annotations

import itertools

import pytest
import torch

from softmap.bench.arithmetic import mean_keys, work
from softmap.bench.case import Case, make_problem
from softmap.bench.formulas import OPERATORS, Operator, shown
from softmap.bench.machine import H100, Machine, measured
from softmap.bench.work import Work, edit_work
from softmap.maps import Edit
from softmap.nn import ModelConfig, accounting
from softmap.variants import names

IDS = [o.title for o in OPERATORS]


def meta(variant: str, **sizes: object) -> Case:
    given = {"batch": 2, "heads": 4, "tokens": 10, "head_dim": 8, "device": "meta"} | sizes
    return Case(variant, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [False, True], ids=["streamed", "held"])
@pytest.mark.parametrize("operator", OPERATORS, ids=IDS)
def test_formulas_are_the_code(operator: Operator, held: bool) -> None:
    for B, H, d, rank in ((1, 4, 8, 2), (3, 8, 4, 1)):
        variant = "dcmha(rank=1)" if (operator.variant, rank) == ("dcmha", 1) else operator.variant
        k = 1 if "version=1" in variant else 3
        symbols = {"B": B, "H": H, "d": d, "R": rank, "M": 32, "k": k}
        case = meta(variant, batch=B, heads=H, head_dim=d, tokens=6)
        cells = B * 6 * 7 / 2
        for direction, row in zip(
            ("forward", "backward"), operator.held if held else operator.streamed, strict=True
        ):
            found = work(make_problem(case.resized(direction=direction)), held=held)
            expected = [cells * eval(formula, {}, symbols) for formula in row]
            assert list(found[:3]) == pytest.approx(expected), direction


@pytest.mark.parametrize("operator", OPERATORS, ids=IDS)
def test_numbers_a_token(operator: Operator) -> None:
    """Bytes without what does not grow with the tokens: a difference of two lengths."""
    B, H, d = 2, 4, 8
    symbols = {"H": H, "d": d, "R": 2}
    maps = 2 * H if operator.variant == "diff2" else H
    found = [
        work(make_problem(meta(operator.variant, tokens=t, direction=direction)), held=True).bytes
        for t, direction in itertools.product((10, 11), ("forward", "both"))
    ]
    inputs = 4 * eval(operator.inputs, {}, symbols)
    out, statistics = 4 * H * d, 4 * maps
    assert found[2] - found[0] == B * (inputs + out)
    assert found[3] - found[1] == B * (3 * inputs + 3 * out + 2 * statistics)


@pytest.mark.parametrize("operator", OPERATORS, ids=IDS)
def test_a_decoded_token_reads_each_key_once(operator: Operator) -> None:
    symbols = {"H": 4, "d": 8, "R": 2}
    found = [
        work(
            make_problem(meta(operator.variant, tokens=1, keys=n, direction="forward")), held=True
        ).bytes
        for n in (50, 51)
    ]
    assert found[1] - found[0] == 2 * 4 * eval(operator.cached, {}, symbols)


def test_formulas_for_people() -> None:
    assert shown("6*H*d + 16*H*H/B") == "6Hd + 16H²/B"


@pytest.mark.parametrize("name", names())
def test_forward_of_an_edit_is_what_it_declares(name: str) -> None:
    """Products and vector operations at one cell, for edits that do not make a bias beside."""
    for edit in make_problem(meta(name)).call.edits:
        if edit.stage == "output":
            continue
        ours, declared = edit_work(edit, 1).forward, edit.flops_per_cell()
        kind = type(edit).__name__
        if kind == "ScoreConv":
            assert ours.products == declared
        elif kind in ("Alibi", "Fire"):  # theirs counts the addition alone
            assert ours.vector > declared
        elif not edit.folds_output:
            assert ours.products + ours.vector == declared


def test_plain_attention_is_what_the_accounting_counts() -> None:
    B, H, d, T = 2, 4, 8, 10
    case = meta("transformer++", batch=B, heads=H, head_dim=d, tokens=T, direction="forward")
    shape = {"vocab_size": 32, "hidden_size": H * d, "num_hidden_layers": 1}
    config = ModelConfig(num_attention_heads=H, max_position_embeddings=2 * T, **shape)
    # The part that grows with the context, forward alone, of T tokens each of B sequences.
    grown = accounting.flops_per_token(config, T) - accounting.flops_per_token(config, 1)
    one_key = 4 * H * d
    products = work(make_problem(case), held=True).products
    assert products == pytest.approx(B * T * (grown / 3 + one_key))


@pytest.mark.parametrize("window", [None, 1, 3, 7, 50])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 7), (1, 9), (4, 9)])
def test_mean_keys(queries: int, keys: int, window: int | None) -> None:
    rows = [min(n, window or n) for n in range(keys - queries + 1, keys + 1)]
    assert mean_keys(queries, keys, window) == pytest.approx(sum(rows) / len(rows))


def test_mixing_heads_after_the_softmax_needs_a_second_pass_where_maps_are_streamed() -> None:
    pre = make_problem(meta("talking-heads(post=false)", direction="forward"))
    post = make_problem(meta("talking-heads(pre=false)", direction="forward"))
    assert work(pre, held=False) == work(pre, held=True)
    cells, one = 2 * 55, 2 * 4 * 8  # one product of scores, all heads
    assert work(post, held=False).products == work(post, held=True).products + cells * one


def test_floor_is_the_slowest_unit_or_the_sum() -> None:
    spent = Work(products=10.0, vector=20.0, exp=30.0, bytes=40.0)
    rates = {"name": "m", "products": 10.0, "vector": 10.0, "exp": 10.0, "source": ""}
    apart = Machine(**rates, bytes=100.0, shared=False, held=False)  # type: ignore[arg-type]
    assert apart.floor(spent) == 3.0
    assert apart.unhidden(spent) == pytest.approx(6.4)
    one = Machine(**rates, bytes=100.0, shared=True, held=True)  # type: ignore[arg-type]
    assert one.floor(spent) == 6.0
    slow = Machine(**rates, bytes=4.0, shared=True, held=True)  # type: ignore[arg-type]
    assert slow.floor(spent) == 10.0


def test_an_unknown_edit_costs_what_it_declares() -> None:
    class Mine(Edit):
        def flops_per_cell(self) -> float:
            return 5.0

    assert edit_work(Mine(), 1).forward == Work(vector=5.0)


def test_rates_of_this_machine_are_positive() -> None:
    found = measured(torch.device("cpu"), torch.float32)
    assert min(found.products, found.vector, found.exp, found.bytes) > 0
    assert found.shared and found.held and not H100.shared
