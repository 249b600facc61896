"""Work is shared among threads: any number of them gives the reference, and the same bits again."""

from __future__ import annotations

import pytest
import torch
from native_cases import Case, results, same_as_reference, spoil

from softmap.ops import native

EVERY_KIND = ["dcmha(static=true)", "diff2+sas", "dape(kernel=5)", "dape(bias=fire)", "forget"]


# A band has 32 rows, DAPE's 16: sequences are whole for a worker or shared by two or three.
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("variant", EVERY_KIND)
def test_shared_sequences(variant: str, threads: int, batch: int) -> None:
    torch.set_num_threads(threads)
    same_as_reference(Case(variant, batch=batch, tokens=71))


def test_more_threads_than_bands() -> None:
    torch.set_num_threads(7)
    same_as_reference(Case("dcmha", batch=1, tokens=40))
    same_as_reference(Case("dcmha", batch=2, tokens=3))


@pytest.mark.parametrize("layout", [{}, {"left": 700}, {"window": 300}, {"batch": 2}], ids=str)
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("variant", ["dcmha(static=true)", "talking-heads", "dape", "diff+kerple"])
def test_keys_shared_among_threads(variant: str, queries: int, layout: dict) -> None:
    """Few queries and many keys: parts of the keys, some of which no query sees."""
    torch.set_num_threads(5)
    same_as_reference(Case(variant, **{"batch": 1, **layout}, tokens=1100, queries=queries))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("variant", EVERY_KIND)
def test_a_second_run_gives_the_same_bits(variant: str, threads: int) -> None:
    torch.set_num_threads(threads)
    call = Case(variant, batch=2, tokens=71).call(torch.float32)
    once = results(native.run, call)
    spoil(Case(variant, batch=3, tokens=50).call(torch.float32))
    again = results(native.run, call)
    assert all(torch.equal(again[name], value) for name, value in once.items())


@pytest.mark.parametrize("variant", EVERY_KIND)
def test_a_sequence_alone_has_the_same_bits(variant: str) -> None:
    """With one thread nothing of a sequence depends on the others."""
    call = Case(variant, batch=3, tokens=45).call(torch.float32)
    whole = native.run(call)
    alone = native.run(call.unflatten(one_sequence(call, 1)))
    assert torch.equal(whole[1:2], alone)


def one_sequence(call, b: int) -> list[torch.Tensor]:
    kinds, flat = call.flatten()
    return [t if kind == "layer" else t[b : b + 1] for kind, t in zip(kinds, flat, strict=True)]
