"""What a caller may see of a pass: hidden states and edited maps."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import pad

from softmap.nn.tokens import taken


@dataclass
class Record:
    """What a caller wants to see of a pass beside its result; the layers fill it in order.

    Attributes:
        hidden: the input (B, T, D) of every layer, and last the result.
        maps: the edited weights of every layer, (B, H', T, S), where ``wants_maps``.
    """

    wants_maps: bool = False
    hidden: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)

    def add_map(self, weights: Tensor, queries: int, keys: int, order: Tensor | None) -> None:
        """The last ``queries`` rows of ``weights`` (B, H', R, C), over all ``keys`` seen so far:
        those that a bounded cache has let go have weight zero. order: (B, keys) in which keys are
        held, where that is not the order in which they were given."""
        rows = weights[:, :, weights.shape[2] - queries :]
        rows = pad(rows, (keys - rows.shape[3], 0))
        self.maps.append(rows if order is None else taken(rows, order.argsort(1), 3))
