"""Packed documents: what a row sees, by hand, and what is refused; ``packing`` does the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import softmap
from softmap.errors import SoftmapError
from softmap.maps import Edit
from softmap.ops import BACKENDS, make_call
from softmap.ops.documents import starts_of
from softmap.testing import bands

# Those that ``auto`` may take there.
ON_A_CPU = ("native", "folded", "chunked", "reference")
DOCUMENTS = torch.tensor([[3, 3, 3, 3, 8, 8, 5], [0, 0, 1, 1, 1, 2, 2]])
FIRST = [[0, 0, 0, 0, 4, 4, 6], [0, 0, 2, 2, 2, 5, 5]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_starts(dtype: torch.dtype) -> None:
    got = starts_of(DOCUMENTS.to(dtype), 2, 7)
    assert got.tolist() == FIRST and got.dtype == torch.int64
    assert starts_of(DOCUMENTS[:1], 2, 7).tolist() == FIRST[:1]


def one_hot(queries: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Equal scores and one-hot values: the output is the map, each row's weights 1 / keys seen."""
    q = torch.zeros(2, 2, 7, 4, dtype=torch.float64)
    v = torch.eye(7, dtype=torch.float64).expand(2, 2, 7, 7)
    return q[:, :, :queries], q, v


@pytest.mark.parametrize("impl", ON_A_CPU)
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("queries", [7, 4, 1])
def test_a_row_sees_its_own_document(impl: str, window: int | None, queries: int) -> None:
    call = make_call(*one_hot(queries), documents=DOCUMENTS, window=window)
    if why := BACKENDS[impl].refuses(call):
        pytest.skip(why)
    with bands(3):
        got = BACKENDS[impl].run(call)
    for b in range(2):
        for row, i in zip(got[b, 1], range(7 - queries, 7), strict=True):
            seen = range(max(FIRST[b][i], 0 if window is None else i - window + 1), i + 1)
            assert row.nonzero().flatten().tolist() == list(seen)
            torch.testing.assert_close(row[i], torch.tensor(1 / len(seen)).double())


def test_one_row_of_documents_is_all_sequences() -> None:
    torch.manual_seed(0)
    qkv = [torch.randn(2, 2, 7, 4) for _ in range(3)]
    for backend in [BACKENDS[impl] for impl in ON_A_CPU]:
        one = make_call(*qkv, documents=DOCUMENTS[:1])
        each = make_call(*qkv, documents=DOCUMENTS[:1].expand(2, -1))
        if backend.refuses(one) is None:
            assert torch.equal(backend.run(one), backend.run(each))


def test_positions_count_from_the_start() -> None:
    call = make_call(*one_hot(3), documents=DOCUMENTS)
    assert call.cols.tolist() == [[0, 1, 2, 3, 0, 1, 0], [0, 1, 0, 1, 2, 0, 1]]
    assert call.rows.tolist() == [[0, 1, 0], [2, 0, 1]]


def test_bands_leave_out_what_no_sequence_sees() -> None:
    """Rows 5 and 6 see places 4.. in the first sequence and 5.. in the second."""
    assert make_call(*one_hot(), documents=DOCUMENTS).span(5, 7).first == 4
    assert make_call(*one_hot(2), documents=DOCUMENTS).span(0, 2).first == 4
    assert make_call(*one_hot(), documents=DOCUMENTS, window=2).span(6, 7).first == 5


class TwoRows(Edit):
    halo = 1


def bad() -> dict[str, tuple[dict, str]]:
    ok = DOCUMENTS
    sums = (torch.zeros(2, 2, 7), torch.zeros(2, 1))
    again = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [2, 2, 1, 1, 2, 2, 2]])
    return {
        "float": ({"documents": ok.float()}, "documents must be integers.*torch.float32"),
        "bool": ({"documents": ok > 2}, "documents must be integers.*torch.bool"),
        "keys": ({"documents": ok[:, 1:]}, r"documents must be .*\(2, 7\) or \(1, 7\), .*\(2, 6\)"),
        "batch": ({"documents": ok.repeat(2, 1)}, r"documents must be .*found \(4, 7\)"),
        "rank": ({"documents": ok[0]}, r"documents must be .*found \(7,\)"),
        "again": ({"documents": again}, "neighbours, found .* comes back in sequence 1"),
        "running": ({"documents": ok, "running": sums}, "expected None with documents="),
        "halo": ({"documents": ok, "edits": [TwoRows()]}, "TwoRows reads 1 earlier rows"),
    }


@pytest.mark.parametrize("name", bad())
def test_bad_documents_are_one_line(name: str) -> None:
    options, message = bad()[name]
    with pytest.raises(SoftmapError, match=message) as error:
        softmap.attention(*one_hot(), **options)
    assert "\n" not in str(error.value)
