"""What ``position_ids`` may say: what the mask gives, or where packed documents begin."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from softmap.errors import SoftmapError
from softmap.nn.positions import Positions


def documents_of(
    position_ids: Tensor, mask: Tensor | None, seen: int, documents: Tensor | None
) -> Tensor | None:
    """The document of each token (b, T), or None where a sequence is one document.

    Positions (b, T) that start again at 0 begin a document, as transformers reads them, in a pass
    without cached tokens (``seen``) or padding. Positions that neither count the real tokens nor
    do that would be ignored: ``ValueError``.
    """
    tokens = position_ids.shape[-1]
    if documents is None and not seen and (mask is None or bool(mask.all())):
        documents = _begun(position_ids)
    at = Positions.of(seen + tokens, mask, position_ids.device, documents).last(tokens)
    differs = position_ids != at.cols
    if bool((differs if at.valid is None else differs & at.valid).any()):
        raise SoftmapError(
            "position_ids must count the real tokens of attention_mask from 0, or start again at "
            "0 with each packed document, found others"
        )
    return documents


def _begun(position_ids: Tensor) -> Tensor | None:
    """Documents numbered from 0: one begins wherever the next position is not one more."""
    begins = position_ids.diff(dim=-1) != 1
    return pad(begins.long(), (1, 0)).cumsum(-1) if bool(begins.any()) else None
