"""The recurrent encoder and decoder with attention (Bahdanau et al. 2015, Luong et al. 2015). Knows no embedding.

The encoder reads the source in one direction or both; a learned layer makes the decoder's first state of the last state
of the encoder's last layer, of the backward direction where there is one (Bahdanau et al., section A.2.2).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.errors import UsageError
from dougong.models.seq2seq import Seq2SeqConfig
from dougong.models.seq2seq.memory import Memory
from dougong.nn.alignment import Alignment, Score
from dougong.nn.cell import Cell, State
from dougong.nn.dropout import dropout
from dougong.nn.init import Linear
from dougong.nn.recurrence import Recurrence
from dougong.nn.scan import GATES

SCORES: dict[str, Score] = {
    "bahdanau": "additive",
    "luong_dot": "dot",
    "luong_general": "general",
    "luong_concat": "additive",
}


def states_of(config: Seq2SeqConfig) -> int:
    """Returns how many vectors are the state of one layer: an LSTM has a cell as well."""
    return 2 if config.cell == "lstm" else 1


class Encoder(nn.Module):
    """Reads the source, place after place."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.dropout, hidden_dim = config.dropout, config.width_inside
        width = hidden_dim * (1 + config.bidirectional)
        self.layers: Any = nn.ModuleList(
            Recurrence(config.cell, width if layer else config.dim, hidden_dim, bidirectional=config.bidirectional)
            for layer in range(config.num_layers)
        )
        self.cells = config.decoder_layers * states_of(config)
        self.bridge = Linear(hidden_dim, self.cells * hidden_dim)

    def forward(
        self,
        hidden: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Memory:
        """Returns the memory of embedded sources. Arguments are those of `Seq2Seq.encode`."""
        last = hidden
        for layer, recurrence in enumerate(self.layers):
            states = recurrence(hidden, mask)
            last = recurrence.final(states, mask)[:, -recurrence.hidden_dim :]  # backward stands behind forward
            own_noise = None if noise is None else seeds.fold(noise, 1 + layer)
            hidden = dropout(states, self.dropout, own_noise, place=0)
        return Memory(hidden, mask, self.bridge(last).tanh().unflatten(-1, (self.cells, -1)))


class RecurrentCache:
    """The state after the tokens already decoded, and what of the memory is needed.

    Attributes:
        memory: What the encoder gave.
        keys: What of it every query is compared with.
        states: Of each layer.
        fed: What the step before gave the output layer; zero before the first.
        length: How many tokens have been decoded.
        max_len: How many there is room for.
        attention: With which probabilities the last token looked at the source; None where that is not asked for, and
            before the first token.
    """

    def __init__(self, memory: Memory, keys: Tensor, states: list[State], fed: Tensor, max_len: int, watches: bool):
        self.memory, self.keys, self.states, self.fed = memory, keys, states, fed
        self.max_len, self.watches, self.length = max_len, watches, 0
        self.attention: Float[Tensor, "rows source"] | None = None

    def advance(self, time: int) -> None:
        """Counts `time` more tokens.

        Raises:
            UsageError: There is no room for them.
        """
        self.length += time
        if self.length > self.max_len:
            raise UsageError(
                f"the cache must have room for {self.length} tokens, but has {self.max_len}. Make it longer."
            )

    def reorder(self, index: Int[Tensor, " rows"]) -> None:
        """Makes row `i` a copy of the former row `index[i]`: the surviving beams, or the rows not yet finished."""
        self.memory, self.keys, self.fed = self.memory.select(index), self.keys[index], self.fed[index]
        self.states = [tuple(part[index] for part in state) for state in self.states]
        self.attention = None if self.attention is None else self.attention[index]


class Decoder(nn.Module):
    """Writes the target, place after place, and looks at the source at each.

    Bahdanau: the state before a step looks; the step reads what it saw; the output layer is given a maxout of the new
    state, of the token and of what was seen (section A.2.2, with the new state, as eq. 4 has it). Luong: the state
    after a step looks; the output layer is given `tanh(W [state; seen])` (eq. 5), and so is the next step, if it is
    fed.
    """

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        hidden_dim, width = config.width_inside, config.width_inside * (1 + config.bidirectional)
        self.looks_first, self.feeds = config.attention == "bahdanau", config.input_feeding
        self.dropout = config.dropout
        self.parts, self.readout_dim = states_of(config), config.width_of_readout
        self.cells: Any = nn.ModuleList(
            Cell(config.cell, hidden_dim if layer else config.dim, hidden_dim) for layer in range(config.decoder_layers)
        )
        self.alignment = Alignment(SCORES[config.attention], hidden_dim, width)
        more, rows = width if self.looks_first else self.readout_dim, GATES[config.cell] * hidden_dim
        self.fed: Any = Linear(more, rows, bias=False) if self.looks_first or self.feeds else None
        read, pieces = (config.dim, 2) if self.looks_first else (0, 1)
        self.readout = Linear(hidden_dim + width + read, pieces * self.readout_dim, bias=self.looks_first)

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        memory: Memory | None,
        cache: RecurrentCache | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time readout_dim"]:
        """Returns what the output layer reads of embedded targets. Arguments are those of `Seq2Seq.features`."""
        if cache is None:
            assert memory is not None, "a memory or a cache of one must be given"
            cache = self.new_cache(memory, hidden.shape[1])
        begin = cache.length
        cache.advance(hidden.shape[1])
        steps = None if noise is None else seeds.fold(noise, 0)
        found = []
        for number, share in enumerate(self.cells[0].share(hidden).unbind(1), start=begin):
            own_noise = None if steps is None else seeds.fold(steps, number)
            found.append(self._step(share, cache, own_noise))
        return dropout(self._shown(torch.stack(found, dim=1), hidden, cache), self.dropout, noise, place=2)

    def new_cache(self, memory: Memory, max_len: int, attention: bool = False) -> RecurrentCache:
        """Returns an empty cache over a memory. Arguments are those of `Seq2Seq.new_cache`."""
        assert memory.state is not None, "a recurrent decoder begins with the state that its encoder gave"
        parts = memory.state.unbind(1)
        states = [parts[first : first + self.parts] for first in range(0, len(parts), self.parts)]
        fed = memory.features.new_zeros(len(memory.features), self.readout_dim)
        return RecurrentCache(memory, self.alignment.keys(memory.features), states, fed, max_len, attention)

    def _step(self, share: Tensor, cache: RecurrentCache, noise: Tensor | None) -> Tensor:
        """Takes one step; returns what the output layer is made of: see `_shown`."""
        if self.looks_first:
            seen = self._seen(cache.states[-1][0][:, None], cache)[:, 0]
            return torch.cat((self._moved(share + self.fed(seen), cache, noise), seen), dim=-1)
        if not self.feeds:
            return self._moved(share, cache, noise)
        state = self._moved(share + self.fed(cache.fed), cache, noise)
        seen = self._seen(state[:, None], cache)[:, 0]
        cache.fed = self.readout(torch.cat((state, seen), dim=-1)).tanh()
        return cache.fed

    def _shown(self, found: Tensor, hidden: Tensor, cache: RecurrentCache) -> Tensor:
        """Returns what the output layer reads, of what all steps gave: what can be done for all at once."""
        if self.looks_first:
            return self.readout(torch.cat((found, hidden), dim=-1)).unflatten(-1, (self.readout_dim, 2)).amax(dim=-1)
        if self.feeds:
            return found
        return self.readout(torch.cat((found, self._seen(found, cache)), dim=-1)).tanh()

    def _moved(self, share: Tensor, cache: RecurrentCache, noise: Tensor | None) -> Tensor:
        """Moves the states of all layers by one step; returns the last layer's."""
        for layer, cell in enumerate(self.cells):
            cache.states[layer] = cell(share, cache.states[layer])
            if layer + 1 < len(self.cells):
                share = self.cells[layer + 1].share(dropout(cache.states[layer][0], self.dropout, noise, place=layer))
        return cache.states[-1][0]

    def _seen(
        self, query: Float[Tensor, "batch time hidden_dim"], cache: RecurrentCache
    ) -> Float[Tensor, "batch time memory_dim"]:
        """Returns each query's mixture of its source."""
        probabilities = self.alignment(query, cache.keys, cache.memory.mask)
        cache.attention = probabilities[:, -1] if cache.watches else None
        return probabilities @ cache.memory.features
