"""Recurrent networks: plain (Elman 1990), GRU (Cho et al. 2014), LSTM (Hochreiter and Schmidhuber 1997).

The loop over time is in `scan.py`. Both directions of a padded row are those of the row alone: the backward one
reads each row reversed within its own length. Knows no model.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dougong.nn.mask import at, blanked, lengths_of
from dougong.nn.scan import GATES, Kind, scan


class Recurrence(nn.Module):
    """Layers of a recurrence over time, each in one direction or in both; the initial state is zero.

    The parameters have the names, shapes and meaning of `torch.nn.RNN` (with tanh), `GRU` and `LSTM`; the usual initial
    values are uniform within `bound`.
    """

    def __init__(
        self,
        kind: Kind,
        dim: int,
        hidden_dim: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        self.kind, self.hidden_dim, self.num_layers, self.has_bias = kind, hidden_dim, num_layers, bias
        self.directions = ("", "_reverse") if bidirectional else ("",)
        rows = GATES[kind] * hidden_dim
        for layer in range(num_layers):
            width = dim if layer == 0 else self.out_dim
            for direction in self.directions:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_dim)}
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
                for name, shape in shapes.items():
                    self.register_parameter(f"{name}_l{layer}{direction}", nn.Parameter(torch.empty(shape)))

    @property
    def out_dim(self) -> int:
        """The width of what comes out: `hidden_dim` of each direction."""
        return self.hidden_dim * len(self.directions)

    @property
    def bound(self) -> float:
        """The largest initial value, `1 / sqrt(hidden_dim)`."""
        return 1.0 / math.sqrt(self.hidden_dim)

    def forward(
        self, hidden: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time out_dim"]:
        """Returns the last layer's states, forward then backward; masked places are zero."""
        reverse = None if len(self.directions) == 1 else reversal(hidden.shape[:2], mask, hidden.device)
        hidden = blanked(hidden, mask)
        for layer in range(self.num_layers):
            states = self._scan(hidden, f"l{layer}")
            if reverse is not None:
                back = turned(self._scan(turned(hidden, reverse), f"l{layer}_reverse"), reverse)
                states = torch.cat((states, back), dim=-1)
            hidden = states
        return blanked(hidden, mask)

    def final(
        self, states: Float[Tensor, "batch time out_dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch out_dim"]:
        """Returns what each direction knows once it has read the whole row: its last state, and backward its first."""
        forward = states[..., : self.hidden_dim]
        last = forward[:, -1] if mask is None else at(forward, (lengths_of(mask) - 1).clamp(min=0))
        return last if len(self.directions) == 1 else torch.cat((last, states[:, 0, self.hidden_dim :]), dim=-1)

    def _scan(self, hidden: Tensor, place: str) -> Tensor:
        """Runs one direction of one layer from the first place to the last."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.has_bias else ("weight_ih", "weight_hh")
        weights = [getattr(self, f"{name}_{place}") for name in names]
        return scan(self.kind, hidden, weights)


def reversal(
    shape: torch.Size, mask: Bool[Tensor, "batch time"] | None, device: torch.device
) -> Int[Tensor, "batch time"]:
    """Returns the place that each place changes with when a row is reversed within its length; padding stays."""
    index = torch.arange(shape[1], device=device).expand(shape)
    if mask is None:
        return shape[1] - 1 - index
    return torch.where(mask, lengths_of(mask)[:, None] - 1 - index, index)


def turned(
    hidden: Float[Tensor, "batch time dim"], places: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time dim"]:
    """Returns at each place what stands at another."""
    return hidden.gather(1, places[..., None].expand(hidden.shape))
