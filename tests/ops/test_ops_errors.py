"""Bad calls of ``softmap.attention``: each is one line that names the thing, expected and found."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import softmap
from softmap.errors import SoftmapError
from softmap.maps import Edit, Tensors
from softmap.ops import attention_map, make_call
from softmap.variants import Place
from softmap.variants.biases import Alibi
from softmap.variants.controls import Gate, Temperature
from softmap.variants.dcmha import Compose
from softmap.variants.diff import Difference

Case = tuple[tuple, dict[str, Any], str]
T = torch.zeros(2, 4, 7, 4)
NONE = Tensors({}, {}, {})


def place(heads: int = 4) -> Place:
    return Place(heads=heads, dim=8, head_dim=4, value_dim=4, layer=0, depth=1)


class Later(Edit):
    stage = "after"


class Factor(Edit):
    """One number a query and a key token, from the input."""

    def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
        return {"q": x[..., :1]}

    def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
        return {"k": x[..., :1]}

    def edit(self, m: Tensor, band: Any, t: dict[str, Tensor]) -> Tensor:
        return m * t["q"][:, None] * t["k"][:, None, :, 0]


def inputs() -> dict[str, Case]:
    return {
        "rank": ((T[0], T, T), {}, r"q, k, v must be \(batch, heads, tokens, width\), found q"),
        "list": (([1], T, T), {}, "q must be a tensor, found list"),
        "batch": ((T, T[:1], T[:1]), {}, "one batch size"),
        "keys": ((T, T, T[:, :, :5]), {}, "as many keys as values"),
        "queries": ((T, T[:, :, :5], T[:, :, :5]), {}, "1..keys queries"),
        "none": ((T[:, :, :0], T, T), {}, "1..keys queries"),
        "width": ((T[..., :3], T, T), {}, "queries and keys must have one width"),
        "dtype": ((T, T.double(), T), {}, r"one floating dtype, found torch.float32"),
        "integer": ((T.long(), T.long(), T.long()), {}, "one floating dtype"),
        "device": ((T, T.to("meta"), T), {}, "must be on one device, found cpu, meta, cpu"),
        "heads": ((T, T[:, :3], T[:, :3]), {}, "found 4 and 3"),
    }


def options() -> dict[str, Case]:
    up, down = torch.arange(7)[None], torch.arange(7).flip(0)[None]
    given: dict[str, tuple[dict[str, Any], str]] = {
        "name": ({"widow": 3}, "attention has no option 'widow' .did you mean 'window'"),
        "both ways": ({"is_causal": False}, "no option 'is_causal': here it is named causal$"),
        "mask": ({"attn_mask": None}, "no option 'attn_mask': padding is key_mask"),
        "impl": ({"impl": "refrence"}, "did you mean 'reference'"),
        "window": ({"window": 0}, r"window must be at least 1 key"),
        "window float": ({"window": 2.0}, "window must be an integer .*, found 2.0"),
        "window bool": ({"window": True}, "window must be an integer .*, found True"),
        "scale": ({"scale": math.nan}, "scale must be finite, found nan"),
        "scale inf": ({"scale": -math.inf}, "scale must be finite, found -inf"),
        "scale tensor": ({"scale": T}, "scale must be a number, found Tensor"),
        "mask short": ({"key_mask": torch.ones(2, 6).bool()}, r"key_mask .*\(2, 7\), .*\(2, 6\)"),
        "mask long": ({"key_mask": torch.ones(2, 8).bool()}, r"key_mask .*\(2, 7\), .*\(2, 8\)"),
        "mask added": ({"key_mask": torch.zeros(2, 7)}, "must be boolean, .* torch.float32"),
        "mask list": ({"key_mask": [1, 1]}, "key_mask must be boolean, .*, found list"),
        "cols": ({"cols": down}, "cols must increase .*, found 6 and then 5 at keys 0 and 1"),
        "cols again": ({"cols": up % 4}, "cols must increase .*, found 3 and then 0 at keys 3"),
        "cols same": ({"cols": up // 6}, "cols must increase .*, found 0 and then 0"),
        "cols shape": ({"cols": up[0]}, r"cols must be \(2, 7\) or \(1, 7\), found \(7,\)"),
        "rows shape": ({"rows": up[:, :6]}, r"rows must be \(2, 7\) .*, found \(1, 6\)"),
        "x": ({"x": torch.zeros(2, 6, 8)}, r"x must be .*\(2, 7, D\), found \(2, 6, 8\)"),
        "x rank": ({"x": torch.zeros(2, 7)}, r"x must be .*\(2, 7, D\), found \(2, 7\)"),
    }
    return {name: ((T, T, T), option, message) for name, (option, message) in given.items()}


def edits() -> dict[str, Case]:
    two = [Alibi(place()), Temperature(place())]
    factor, halved = [Factor()], [Difference(place()), Gate(place())]
    short, long = torch.zeros(2, 6, 8), torch.zeros(2, 8, 8)
    given: dict[str, tuple[Any, dict[str, Any], str]] = {
        "text": ("diff", {}, "edits must be a list of Edit modules, found the text 'diff'"),
        "single": (two[0], {}, "edits must be a list of Edit modules, found Alibi"),
        "number": (3, {}, "edits must be a list of Edit modules, found int"),
        "module": ([*two, torch.nn.Identity()], {}, "must be Edit modules, found Identity"),
        "class": ([Alibi], {}, "must be Edit modules, found the class Alibi"),
        "names": (["diff"], {}, "must be Edit modules, found str"),
        "stage": ([Later()], {}, "Later.stage must be one of scores, .*, found 'after'"),
        "scores": ([Temperature(place(8))], {}, "Temperature was made for 8 maps, found 4 query"),
        "alibi": ([Alibi(place(1))], {}, "Alibi was made for 1 maps, found 4 query heads"),
        "output": (halved, {}, "Gate was made for 4 maps, found 2 maps that reach it"),
        "input": ([Compose(place(), "scores")], {}, "Compose computes tensors from the layer's"),
        "no tensors": (two, {"tensors": []}, "one entry for each edit, expected 2, found 0"),
        "more": (two[:1], {"tensors": [NONE] * 2}, "one entry for each edit, expected 1, found 2"),
        "dict": (two[:1], {"tensors": [{}]}, "gives for each, found dict for Alibi"),
        "query": (factor, {"tensors": [factor[0](short)]},
                  r"Factor: query tensor 'q' must be \(2, 7, ...\), found \(2, 6, 1\)"),
        "key": (factor, {"tensors": [Tensors({}, {}, factor[0](long).key)]},
                r"Factor: key tensor 'k' must be \(2, 7, ...\), found \(2, 8, 1\)"),
    }  # fmt: skip
    return {name: ((T, T, T, chain), option, m) for name, (chain, option, m) in given.items()}


CASES = inputs() | options() | {f"edits {name}": case for name, case in edits().items()}


@pytest.mark.parametrize("name", CASES)
def test_bad_call_is_one_line(name: str) -> None:
    args, given, message = CASES[name]
    with pytest.raises(SoftmapError, match=message) as error:
        softmap.attention(*args, **given)
    assert "\n" not in str(error.value)


def test_map_refuses_likewise() -> None:
    with pytest.raises(SoftmapError, match="no option 'widow'"):
        attention_map(T, T, widow=3)  # type: ignore[call-arg]
    with pytest.raises(SoftmapError, match="found the text 'diff'"):
        attention_map(T, T, "diff")  # type: ignore[arg-type]


def test_good_calls_are_let_through() -> None:
    """What the checks must not catch: positions of padding and documents, a past, modules."""
    mask = torch.tensor([[0, 0, 1, 1, 1, 0, 1]]).expand(2, -1)
    padded = torch.tensor([[-1, -1, 0, 1, 2, 2, 3]])
    make_call(T, T, T, cols=padded, key_mask=mask)
    make_call(T, T, T, cols=torch.arange(7)[None] % 4, documents=torch.arange(7)[None] // 4)
    x, factor = torch.zeros(2, 7, 8), torch.nn.ModuleList([Factor()])
    call = make_call(T[:, :, :2], T, T, factor, x=x)  # type: ignore[arg-type]
    assert call.tensors[0].query["q"].shape == (2, 2, 1) and call.valid is None
    make_call(T, T, T, factor, tensors=[Factor()(x[:1])])  # type: ignore[arg-type]
