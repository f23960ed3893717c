"""Finding, after the fact, the first tensor that was not finite; and the error that names it.

Knows a state and the microbatches of a step that failed; does not know what is done about it. Nothing of this runs in
a step whose numbers are finite, so it may take its time: the batch is computed a second time, uncompiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.core.errors import NonFiniteError
from dougong.train.blocks import eager
from dougong.train.state import State

Losses = Callable[[Batch], Loss]


class NonFiniteStep(NonFiniteError):
    """A step with a number that is not finite; the weights are those of before.

    Attributes:
        step: Its number, counted from 1.
        reason: What was found, without the advice.
    """

    def __init__(self, step: int, finding: str, advice: str):
        self.step, self.reason = step, f"step {step}: {finding}"
        super().__init__(f"{self.reason} {advice}")


@dataclass
class _Watch:
    """What the hooks saw: the modules in the order in which they ended, and the first bad output."""

    ended: list[str] = field(default_factory=list)
    bad: str | None = None


@torch.no_grad()
def first_bad(state: State, microbatches: Sequence[Batch], losses: Losses) -> str:
    """Returns, as part of a sentence, the first tensor of a failed step that is not finite, and its module.

    Looked at in this order: the weights; the batch; the outputs of the modules as they are computed again; the
    loss; the gradients, from the last module to the first.

    Args:
        state: With the gradients of the failed step.
        microbatches: What the step saw, on the device.
        losses: Gives the loss of a microbatch, as the step computed it.
    """
    watch = _Watch()
    return (
        _bad_before(state.model)
        or _bad_field(microbatches)
        or _bad_output(state, microbatches, losses, watch)
        or _bad_gradient(state, watch.ended)
        or _bad_sum(state)
        or "none: computed once more, every number is finite. It may be the machine: look at its memory and clock"
    )


def require_finite_weights(state: State) -> None:
    """Sees that no weight has overflowed: even a finite gradient can do that, and it must not be saved.

    Raises:
        NonFiniteStep: One has.
    """
    largest = torch._foreach_norm([p.detach() for p in state.parameters.values()], torch.inf)
    if not bool(torch.isfinite(torch.stack([norm.float() for norm in largest])).all()):
        raise NonFiniteStep(
            state.step,
            f"every weight must be finite to be saved, but {_bad_weight(state.model)} is not.",
            "Nothing was saved of it: the last checkpoint is as it was. Lower the learning rate, or add warm-up.",
        )


def _bad_before(model: nn.Module) -> str | None:
    bad = _bad_weight(model)
    return None if bad is None else f"the weight {bad} was not finite before this step"


def _bad_weight(model: nn.Module) -> str | None:
    """Returns the name and module of the first parameter that is not finite, or None."""
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"{name}{_of_module(model, name)}"
    return None


def spoiled_buffer(model: nn.Module) -> str | None:
    """Returns the name and module of the first buffer with a NaN, or None: forward changes buffers, as averages do.

    Infinities are left alone, as masks have them.
    """
    for name, buffer in model.named_buffers():
        if bool(torch.isnan(buffer).any()):
            return f"{name}{_of_module(model, name)}"
    return None


def _bad_field(microbatches: Sequence[Batch]) -> str | None:
    for name in microbatches[0].fields:
        if not all(_finite(microbatch[name]) for microbatch in microbatches):
            return f"the field {name} of the batch is not finite"
    return None


def _bad_output(state: State, microbatches: Sequence[Batch], losses: Losses, watch: _Watch) -> str | None:
    """Computes the losses again, and looks at the output of every module as it ends."""
    with eager(state.model), _watched(state.model, watch):
        for microbatch in microbatches:
            loss = losses(microbatch)
            if watch.bad is not None:
                return watch.bad
            for name, value in (("sum", loss.sum), ("weight", loss.weight)):
                if not _finite(value):
                    return f"the loss: its {name} is not finite, the output of every module is"
    return None


@contextlib.contextmanager
def _watched(model: nn.Module, watch: _Watch) -> Iterator[None]:
    """Within this context, every module that ends is noted, and the first that turned finite into bad."""

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            watch.ended.append(name)
            if watch.bad is None and all(map(_sound, _tensors((args, kwargs)))):
                watch.bad = _complaint(f"{name} ({type(module).__name__})".strip(), list(_tensors(output)))

        return hook

    handles = [module.register_forward_hook(look(name), with_kwargs=True) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _complaint(module: str, outputs: Sequence[Tensor]) -> str | None:
    bad = [number for number, output in enumerate(outputs, start=1) if not _finite(output)]
    if not bad:
        return None
    which = f"its output {bad[0]} of {len(outputs)}" if len(outputs) > 1 else "its output"
    return f"{module}: {which} is not finite, its input is"


def _bad_gradient(state: State, ended: Sequence[str]) -> str | None:
    """Names the bad gradient that backward met first: that of the module that ended last.

    A module that is not called, but whose weight is used, is taken for the last: a head is used so.
    """
    last = {name: place for place, name in enumerate(ended)}
    bad = [name for name, p in state.parameters.items() if p.grad is not None and not _finite(p.grad)]
    if not bad:
        return None
    name = max(bad, key=lambda name: last.get(name.rpartition(".")[0], len(ended)))
    return f"the gradient of {name}{_of_module(state.model, name)} is not finite, the loss is"


def _bad_sum(state: State) -> str | None:
    """Tells whether values that are finite one by one are too large together, which `clip_norm` cannot mend."""
    for what, tensors in (
        ("gradient", [p.grad for p in state.parameters.values() if p.grad is not None]),
        ("weights (for l2)", [p.detach() for p in state.parameters.values()] if state.config.l2 else []),
    ):
        squares = sum((float(norm) ** 2 for norm in torch._foreach_norm(tensors)), 0.0) if tensors else 0.0
        if not squares < torch.finfo(torch.float32).max:
            return f"the norm of the {what} is not finite: each value is, but together they are too large"
    return None


def _of_module(model: nn.Module, name: str) -> str:
    """Returns ` of <module> (<class>)` for a parameter's or a buffer's name."""
    path = name.rpartition(".")[0]
    return f" of {path} ({type(model.get_submodule(path)).__name__})" if path else ""


def _finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all())


def _sound(tensor: Tensor) -> bool:
    """Tells whether an input is finite, but for the minus infinities of a mask."""
    return _finite(tensor.clamp(min=0) if tensor.is_floating_point() else tensor)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yields the tensors of nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
