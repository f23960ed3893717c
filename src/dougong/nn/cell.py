"""One step of a recurrence, for a loop whose next input is not known before the step: GRU and LSTM. Knows no model.

Where all inputs are known, `recurrence.py` is faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dougong.nn.scan import GATES, Kind

State = tuple[Float[Tensor, "batch hidden_dim"], ...]


class Cell(nn.Module):
    """A layer of GRU or LSTM; its parameters have the names, shapes and meaning of `torch.nn.GRUCell` and `LSTMCell`.

    A state is a tuple: what the layer gives, and of an LSTM its cell.
    """

    def __init__(self, kind: Kind, dim: int, hidden_dim: int):
        super().__init__()
        self.kind, rows = kind, GATES[kind] * hidden_dim
        self.weight_ih = nn.Parameter(torch.empty(rows, dim))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_dim))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))

    def share(self, given: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch rows"]:
        """Returns what an input adds to the gates: for many steps at once, where they are known."""
        return F.linear(given, self.weight_ih, self.bias_ih)

    def forward(self, share: Float[Tensor, "batch rows"], state: State) -> State:
        """Returns the state after one step, given the input's share of the gates."""
        of_state = F.linear(state[0], self.weight_hh, self.bias_hh)
        if self.kind == "lstm":
            enter, keep, new, show = (share + of_state).chunk(4, dim=-1)
            cell = keep.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
            return show.sigmoid() * cell.tanh(), cell
        reset, update, new = share.chunk(3, dim=-1)
        state_reset, state_update, state_new = of_state.chunk(3, dim=-1)
        update = (update + state_update).sigmoid()
        new = (new + (reset + state_reset).sigmoid() * state_new).tanh()
        return (new + update * (state[0] - new),)
