"""Two cheap controls that the authors of Differential attention name when asked about prior art."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit, Rows
from softmap.variants._parts import Parts, Place, variant


class Temperature(Edit):
    """S' = tau_h S with one learnable tau per head, 1 at init."""

    stage = "scores"
    kernel = "temperature"

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.maps = place.heads
        self.log_temperature = nn.Parameter(torch.zeros(place.heads))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns tau, (H,), always positive."""
        return {"tau": self.log_temperature.exp()}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns tau_h S."""
        return m * t["tau"][:, None, None]

    def start_as_identity(self) -> bool:
        """Sets every tau to 1."""
        nn.init.zeros_(self.log_temperature)
        return True

    def fold_query(self, q: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns tau_h q: scaling the scores is scaling the queries."""
        return (q * t["tau"][:, None, None]).to(q.dtype)


class Gate(Edit):
    """o' = sigmoid(x_i W) o: a gate per head and token, or per channel, from the layer's input.

    Args:
        gain: o' = (1 - g_h (1 - sigmoid(x_i W))) o, a trained gain g_h, 0 at init.
    """

    stage = "output"

    def __init__(self, place: Place, gain: bool = False, channels: bool = False) -> None:
        super().__init__()
        self.maps = place.heads
        width = place.value_dim if channels else 1
        self.gate = nn.Linear(place.dim, place.heads * width, bias=False)
        self.gain = nn.Parameter(torch.zeros(place.heads)) if gain else None

    def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the gate of every query token, (B, T, H, 1) or (B, T, H, d')."""
        gate = torch.sigmoid(self.gate(x)).unflatten(-1, (self.maps, -1))  # (B, T, H, 1 or d')
        return {"gate": gate if self.gain is None else 1 + self.gain[:, None] * (gate - 1)}

    def start_as_identity(self) -> bool:
        """Sets the gains to 0, which opens every gate; without gains there is no such start."""
        if self.gain is not None:
            nn.init.zeros_(self.gain)
        return self.gain is not None

    def edit(self, m: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns the gated output, (B, H, T, d')."""
        return m * t["gate"].transpose(1, 2).to(m.dtype)


@variant("temperature", "Learnable temperature")
def temperature() -> Parts:
    """One learnable softmax temperature per head.

    A = softmax(tau_h Q K^T / sqrt(d) + causal mask),  tau_h = 1 at init
    """
    return Parts(scores=[Temperature])


@variant(
    "gated",
    "Gated attention",
    paper="arXiv 2505.06708",
    source="https://arxiv.org/abs/2505.06708",
    graft={"gain": True},
)
def gated(*, gain: bool = False, channels: bool = False) -> Parts:
    """A sigmoid gate on the attention output, computed from the layer's input.

        o'[h,i] = sigmoid(x_i W[h]) o[h,i],   W[h]: D to 1, or to d' with channels

    Args:
        channels: a gate for each channel of a head (D H d' parameters), not one for all of them (D
            H).
        gain: (1 - g_h (1 - sigmoid(x_i W[h]))) instead, g_h trained from 0: open at the start.
    """
    return Parts(output=[partial(Gate, gain=gain, channels=channels)])
