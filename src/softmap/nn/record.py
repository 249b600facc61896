"""What a caller can record of a forward pass: hidden states and edited maps."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import pad

from softmap.nn.tokens import taken


@dataclass
class Record:
    """What a caller records of a forward pass beside its result; the layers fill it in order.

    Attributes:
        hidden: the input (B, T, D) of every layer, and last the result.
        maps: the edited weights of every layer, (B, H', T, S), if ``wants_maps``.
    """

    wants_maps: bool = False
    hidden: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)

    def add_map(self, weights: Tensor, queries: int, keys: int, order: Tensor | None) -> None:
        """Add the last ``queries`` rows of ``weights`` (B, H', R, C), over all ``keys`` seen so
        far.

        Keys that a bounded cache has dropped get weight zero.

        Args:
            order: (B, keys) the order in which the keys are held, if it is not that in which they
                were given.
        """
        rows = weights[:, :, weights.shape[2] - queries :]
        rows = pad(rows, (keys - rows.shape[3], 0))
        self.maps.append(rows if order is None else taken(rows, order.argsort(1), 3))
