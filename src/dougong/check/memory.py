"""The memory that a step takes is the memory that was predicted."""

from __future__ import annotations

import torch

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject
from dougong.core.contracts import Batch
from dougong.train.blocks import prepared_blocks
from dougong.train.config import TrainConfig
from dougong.train.measure import step_peak
from dougong.train.state import State
from dougong.train.step import optimizer_step

CLAIM = Claim("memory", "the peak memory of a step is what was predicted", 4)
BOUND = 0.15
WORKSPACE = 48e6  # bytes that libraries of an accelerator hold beside the tensors, whatever the model


def memory(subject: Subject) -> Result:
    """Measures the second step, when the optimizer has its state: every allocation on a CPU, the peak elsewhere."""
    if subject.predicted is None:
        return CLAIM.skipped("nothing was predicted.")
    if subject.device.type not in ("cpu", "cuda"):
        return CLAIM.skipped(f"{subject.device.type} does not tell how much memory was taken.")
    config = subject.config
    size = subject.samples if config.batch_size == "all" else config.batch_size
    piece = min(config.microbatch_size or size, size)
    batch = subject.rows(min(size, 2 * piece), subject.allowance / 3)
    piece = min(piece, len(batch))
    config = config.replace(batch_size=len(batch), batch_ramp=None, microbatch_size=piece)
    predicted = subject.predicted(batch.to(subject.device), config)
    measured = _on_cpu(subject, batch, config) if subject.device.type == "cpu" else _on_cuda(subject, batch, config)
    slack = 0.0 if subject.device.type == "cpu" else WORKSPACE
    difference = max(abs(measured - predicted) - slack, 0.0) / predicted
    shown, allowed = f"{measured / 1e6:,.1f} MB", f"{predicted / 1e6:,.1f} MB within {BOUND:.0%}"
    if difference <= BOUND:
        return CLAIM.held(shown, allowed, difference, BOUND)
    return CLAIM.broken(
        f"a step over {len(batch)} examples took {measured / 1e6:,.1f} MB at its peak, and {predicted / 1e6:,.1f} MB "
        "were predicted. Something holds memory that the model does not need, or is made outside of torch's sight.",
        shown,
        allowed,
    )


def _on_cpu(subject: Subject, batch: Batch, config: TrainConfig) -> int:
    """Returns the bytes of the state, and on top the highest sum of what torch's allocator gave and took back."""
    state = State.create(config, subject.model().train(), subject.dtype)
    return step_peak(state, batch, subject.task)


def _on_cuda(subject: Subject, batch: Batch, config: TrainConfig) -> int:
    before = torch.cuda.memory_allocated(subject.device)
    state = State.create(config, subject.model().to(subject.device).train(), subject.dtype)
    with prepared_blocks(state.model, False, config.recompute):
        optimizer_step(state, batch, subject.task)
        torch.cuda.reset_peak_memory_stats(subject.device)
        optimizer_step(state, batch, subject.task)
    return torch.cuda.max_memory_allocated(subject.device) - before
