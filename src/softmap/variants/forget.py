"""The forget gate of the Forgetting Transformer (Lin et al. 2025, arXiv 2503.02130)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant


class Forget(Edit):
    """S' = S + sum_{j<k<=i} log f_k, f_k = sigmoid(x_k W + b) per head, b = 0 at init.

    The sum goes over the keys that the row sees. It is the paper's c_i - c_j, c the running sum,
    without the difference of two large numbers.
    """

    defined_for = "causal"
    kernel = "forget"

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.maps = place.heads
        self.gate = nn.Linear(place.dim, place.heads)
        nn.init.zeros_(self.gate.bias)

    def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Returns log f of every key token, (B, S, H), in float32 or wider."""
        gate = self.gate(x)
        wide = torch.promote_types(gate.dtype, torch.float32)  # a sum of thousands is made of these
        return {"log_f": F.logsigmoid(gate.to(wide))}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns S plus the sum of log f over the keys after j, up to i."""
        log_f = t["log_f"].transpose(1, 2)[:, :, None].to(m.dtype)  # (B, H, 1, C)
        return m + band.after(log_f)


@variant(
    "forget",
    "Forgetting attention",
    paper="arXiv 2503.02130",
    source="https://arxiv.org/abs/2503.02130",
)
def forget(*, rope: bool = False) -> Parts:
    """Every token may fade what came before it, by head and by its own content; no positions.

        S'[h,i,j] = S[h,i,j] + sum_{j<k<=i} log sigmoid(<w_h, x_k> + b_h)

    D H + H parameters; the cache keeps H numbers a token more. rope: with rotary positions all the
    same.
    """
    return Parts(scores=[Forget], backbone={} if rope else {"position": "none"})
