"""Where packed documents begin, in each of the ways in which collators say it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from softmap.errors import SoftmapError
from softmap.nn.positions import Positions, recorded


def documents_of(
    position_ids: Tensor | None,
    mask: Tensor | None,
    seen: int,
    documents: Tensor | None,
    packing: Mapping[str, Any],
    tokens: Tensor,
) -> Tensor | None:
    """Returns the document of each token (b, T), or None where a sequence is one document.

    Args:
        tokens: (B, T, ...), the tokens or embeddings of this pass.
        packing: ``seq_idx`` (B, T), the number of each token's document, and ``cu_seq_lens_q`` (n +
            1,), the indices where the documents of one long sequence begin and the last ends.

    In a pass without cached tokens (``seen``) or padding, a position (b, T) that starts again at 0
    begins a document, as in transformers. Raises ``ValueError`` for positions that neither count
    the real tokens nor do that, since they would be ignored, and for sources that contradict each
    other.
    """
    length = tokens.shape[1]
    read = {"position_ids": position_ids, **packing}
    if recorded() and (given := [name for name, value in read.items() if value is not None]):
        raise SoftmapError(
            f"{given[0]} would become a constant of a model that is exported or traced: "
            "expected attention_mask or documents instead"
        )
    said = {} if documents is None else {"documents": documents}
    said |= _said(packing, tokens)
    if position_ids is not None:
        _check_positions(position_ids, length)
        if position_ids.device.type == "meta":  # there is nothing to compare
            return documents
        if not said and not seen and (mask is None or bool(mask.all())):
            documents = _begun(position_ids)
    elif not said:
        return None
    for (first, one), (second, other) in pairwise(said.items()):
        if bool(((one.diff(dim=-1) != 0) != (other.diff(dim=-1) != 0)).any()):
            raise SoftmapError(
                f"{first} and {second} must name the same documents, found different ones"
            )
    documents = next(iter(said.values()), documents)
    if position_ids is not None:
        _check_agreement(position_ids, mask, seen, documents)
    return documents


def _said(packing: Mapping[str, Any], tokens: Tensor) -> dict[str, Tensor]:
    said = {}
    if (numbers := packing.get("seq_idx")) is not None:
        if numbers.ndim != 2 or numbers.shape[1] != tokens.shape[1]:
            raise SoftmapError(
                f"seq_idx must be (batch, {tokens.shape[1]}), found {tuple(numbers.shape)}"
            )
        said["seq_idx"] = numbers.to(tokens.device)
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        if (ends := packing.get(name)) is not None:
            said[name] = _between(torch.as_tensor(ends), tokens, name)
    longest = {"max_length_q", "max_length_k"} & set(packing)
    if longest and not said:
        raise SoftmapError(f"{min(longest)} needs cu_seq_lens_q beside it, found none")
    return said


def _between(ends: Tensor, tokens: Tensor, name: str) -> Tensor:
    """Returns the documents (1, T) from the indices where they begin and end."""
    batch, length = tokens.shape[:2]
    places = ends.tolist()
    rising = all(a <= b for a, b in pairwise(places))
    if batch != 1 or not rising or places[:1] != [0] or places[-1:] != [length]:
        raise SoftmapError(
            f"{name} must rise from 0 to {length} in a batch of one sequence, found "
            f"{places[:1]} .. {places[-1:]} in a batch of {batch}"
        )
    at = torch.arange(length, device=tokens.device)
    return torch.searchsorted(ends[1:].to(at), at, right=True)[None]


def _check_positions(positions: Tensor, length: int) -> None:
    if positions.ndim != 2 or positions.shape[1] != length:
        raise SoftmapError(
            f"position_ids must be (batch, {length}) for {length} tokens, "
            f"found {tuple(positions.shape)}"
        )


def _check_agreement(
    positions: Tensor, mask: Tensor | None, seen: int, documents: Tensor | None
) -> None:
    tokens = positions.shape[1]
    at = Positions.of(seen + tokens, mask, positions.device, documents).last(tokens)
    differs = positions != at.cols
    if bool((differs if at.valid is None else differs & at.valid).any()):
        raise SoftmapError(
            "position_ids must count the real tokens of attention_mask from 0, or start again at "
            "0 with each packed document, found others"
        )


def _begun(position_ids: Tensor) -> Tensor | None:
    """Returns documents numbered from 0; one begins wherever the next position is not one more."""
    begins = position_ids.diff(dim=-1) != 1
    return pad(begins.long().cumsum(-1), (1, 0)) if bool(begins.any()) else None
