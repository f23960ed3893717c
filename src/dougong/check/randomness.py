"""Randomness is a function (law 1): what is dropped depends on seed, step and sample, never on a global generator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dougong.check.result import Claim, Result
from dougong.check.subject import Outcome, Subject, compared, global_randomness, stepped
from dougong.core.contracts import Batch
from dougong.train.step import draws_noise

CLAIM = Claim("randomness", "dropout depends on seed, step and sample, and on no global generator")


def randomness(subject: Subject) -> Result:
    """Runs the same step under two states of all global generators, and another step; names the module that draws."""
    model = subject.model().to(subject.device)
    batch = subject.rows(4, subject.limits.exact / 3)
    with _deterministic(subject.device):
        one, first = _run(subject, subject.model().to(subject.device), batch, 1)
        other, second = _run(subject, model, batch, 2)
    difference, worst = compared(one, other)
    if difference != 0:
        where = next((name for name, value in first.items() if value != second.get(name)), "")
        place = f"{where} ({type(model.get_submodule(where)).__name__})" if where else worst
        return CLAIM.broken(
            f"{place} computes something else when the global generators of torch, numpy and random stand elsewhere: "
            "it draws from one of them. Draw from the keys in batch.noise instead (nn/dropout.py), or no run can be "
            "resumed or repeated.",
            f"{difference:.1e} relative",
            "equal to the bit",
        )
    if draws_noise(model) and one.loss == stepped(subject, model, batch, torch.float32, step=1).loss:
        return CLAIM.broken("dropout is on, but two steps drop the same: the noise of the batch is not used.")
    return CLAIM.held("equal to the bit", "equal to the bit", 0.0, 0.0)


def _run(subject: Subject, model: nn.Module, batch: Batch, seed: int) -> tuple[Outcome, dict[str, float]]:
    """Returns a step's outcome, and a number that stands for each module's output, in the order in which they end."""
    outputs: dict[str, float] = {}
    with contextlib.ExitStack() as stack, global_randomness(seed):
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(_noting(outputs, name))
                stack.callback(hook.remove)
        return stepped(subject, model.train(), batch, torch.float32), outputs


def _noting(outputs: dict[str, float], name: str) -> Any:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        if isinstance(tensor, Tensor):
            weights = torch.arange(tensor.numel(), device=tensor.device).remainder(8191).float()
            outputs[name] = float((tensor.detach().flatten().float() * weights).double().sum())

    return note


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Within this context an accelerator adds in a fixed order, where it can."""
    before = torch.are_deterministic_algorithms_enabled()
    if device.type != "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
