"""A small step of training that every calibration ends with: how much longer operations take in company than alone.

Within a step what an operation reads was just written by another or long ago, the interpreter works in between, and
results lie wherever there is room. Knows only torch.
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dougong.plan.match import calibrated, is_crowded
from dougong.plan.tables import Calibration
from dougong.plan.trace import Recorder, Trace

BATCH, TIME, DIM, VOCAB = 32, 64, 96, 1000
LEAST, MOST = 1.0, 2.5
"""Beyond these the machine was doing something else."""


class Reference(nn.Module):
    """A bit of everything: an embedding, two residual blocks of norm, product and activation, a masked maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2))
        self.mix = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(2))
        self.head = nn.Linear(DIM, 2)

    def forward(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """Returns the sum of the losses."""
        mask = (torch.arange(TIME) < lengths[:, None])[..., None]
        hidden = self.embed(tokens)
        for norm, mix in zip(self.norms, self.mix, strict=True):
            inner = F.gelu(mix(norm(hidden))).masked_fill(~mask, 0.0)
            hidden = F.relu(hidden + inner * 0.5)
        pooled = hidden.masked_fill(~mask, float("-inf")).amax(1)
        return F.cross_entropy(self.head(pooled), labels, reduction="sum")


def crowding_on(machine: Calibration, seconds: float = 2.0) -> float:
    """Returns how many times as long as alone what merely moves numbers takes within a step.

    Args:
        machine: Measured, but for this.
        seconds: For how long steps are timed.
    """
    heavy = light = 0.0
    for operation in _trace().operations:
        kind, taken = calibrated(operation, machine)
        if is_crowded(kind):
            light += taken
        else:
            heavy += taken
    return min(MOST, max(LEAST, (_measured(seconds) - heavy) / light))


def _prepared() -> tuple[Reference, torch.optim.Optimizer, tuple[Tensor, Tensor, Tensor]]:
    network = Reference()
    tokens = torch.arange(BATCH * TIME).view(BATCH, TIME) * 7 % VOCAB
    inputs = (tokens, torch.full((BATCH,), TIME - 3), torch.zeros(BATCH, dtype=torch.int64))
    return network, torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True), inputs


def _update(network: Reference, optimizer: torch.optim.Optimizer) -> None:
    torch._foreach_norm([p.grad for p in network.parameters() if p.grad is not None])
    optimizer.step()


def _trace() -> Trace:
    recorder = Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, optimizer, inputs = _prepared()
        network(*inputs).backward()
        optimizer.step()
        optimizer.zero_grad()
        with recorder:
            loss = network(*inputs)
            slope = torch.ones_like(loss)
            recorder.phase = "backward"
            loss.backward(gradient=slope)
            recorder.phase = "update"
            _update(network, optimizer)
    return recorder.trace()


def _measured(seconds: float) -> float:
    """Returns the median of real steps, after three that are not timed."""
    found: list[float] = []
    with torch.random.fork_rng(devices=[]):
        network, optimizer, inputs = _prepared()
    end = time.perf_counter() + seconds
    while len(found) < 13 or time.perf_counter() < end:
        begin = time.perf_counter()
        network(*inputs).backward()
        _update(network, optimizer)
        optimizer.zero_grad()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[3:])
