"""The operations of one training step, in their order, found by running it with tensors that have no numbers (law 5).

Each operation has its name, phase, block, products, bytes and shapes: what a step's time and its count are made of.
Knows models and tasks through their contracts; knows no machine and no memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dougong.core.contracts import Batch, Task
from dougong.plan import formulas
from dougong.plan.memory import Buildable, blank, computing, sums_gradients, with_state
from dougong.train.average import Average
from dougong.train.blocks import prepared_blocks
from dougong.train.config import TrainConfig
from dougong.train.rates import freeze
from dougong.train.step import draws_noise

Phase = Literal["forward", "backward", "recompute", "update"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "recompute", "update")


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: Torch's: `aten.mm.default`.
        phase: In which part of a step.
        block: In which module, by its path; empty outside all of them.
        flops: Two for a product and its sum; 0 where none are counted.
        read_bytes: Of all tensors that go in, each storage at most once over.
        written_bytes: Of all tensors that come out.
        shapes: Of the tensors that go in.
        dtype: In which it computes.
    """

    name: str
    phase: Phase
    block: str
    flops: int
    read_bytes: int
    written_bytes: int
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Trace:
    """One step.

    Attributes:
        operations: In their order.
        unknown: Operations that may have products which no formula counts, and how often each is called.
    """

    operations: tuple[Operation, ...]
    unknown: Mapping[str, int]

    def flops(self, *phases: Phase) -> int:
        """Returns the operations of some phases, or of all."""
        return sum(operation.flops for operation in self.operations if not phases or operation.phase in phases)

    def flops_by_block(self, phase: Phase = "forward") -> dict[str, int]:
        """Returns the operations of a phase by the innermost module; those outside all modules under no name."""
        found: dict[str, int] = {}
        for operation in self.operations:
            if operation.flops and operation.phase == phase:
                found[operation.block] = found.get(operation.block, 0) + operation.flops
        return found


def trace_loss(network: nn.Module, task: Task, batch: Batch, recompute: bool = False) -> Trace:
    """Returns the operations of a loss and its gradient, run as it is: on the meta device, or on fake tensors.

    Args:
        network: The model.
        task: Gives the loss.
        batch: What goes in, where the model is.
        recompute: Whether blocks are computed again in the backward pass.
    """
    recorder = Recorder()
    with recorder, recorder.within(network), prepared_blocks(network, False, recompute):
        _passed(network, task, batch, recorder)
    network.zero_grad(set_to_none=True)
    return recorder.trace()


def trace_step(
    model: Buildable, task: Task, batch: Batch, config: TrainConfig, dtype: torch.dtype = torch.float32
) -> Trace:
    """Returns the operations of a step of training: forward, backward, recomputation and update.

    Args:
        model: The model's config, with all that the data decides.
        batch: The batch of a step, of whose tensors only shapes and types are read.
        config: Gives microbatch, optimizer, average and recomputation.
        dtype: The type of matrix products.
    """
    device = batch.samples.device
    recorder = Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device):
        network = model.build()
        freeze(network, config)
        optimizers = with_state(network, config)
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        average = Average(trained, config.ema.decay) if config.ema else None
        size = config.microbatch_size or len(batch)
        noisy = draws_noise(network)
        pieces = [blank(piece, device, noisy) for piece in batch.split(size)]
        with recorder, recorder.within(network), prepared_blocks(network, False, config.recompute):
            runs = [_piece(network, task, piece, recorder, dtype) for piece in _distinct(pieces)]
            recorder.forget()
            _update(network, optimizers, average, config, recorder, len(pieces))
    update = recorder.trace()
    operations = [one for run in _repeated(runs, pieces) for one in run.operations]
    unknown: dict[str, int] = {}
    for run in (*_repeated(runs, pieces), update):
        for name, times in run.unknown.items():
            unknown[name] = unknown.get(name, 0) + times
    return Trace((*operations, *update.operations), unknown)


def _distinct(pieces: list[Batch]) -> list[Batch]:
    """Returns the microbatches that differ: the first, which finds no gradients, the second, and a shorter last."""
    return [*pieces[:2], *([pieces[-1]] if len(pieces) > 2 and len(pieces[-1]) != len(pieces[0]) else [])]


def _repeated(runs: list[Trace], pieces: list[Batch]) -> list[Trace]:
    """Returns the trace of each microbatch."""
    if len(pieces) <= 2:
        return runs
    last = runs[2] if len(runs) == 3 else runs[1]
    return [runs[0], *[runs[1]] * (len(pieces) - 2), last]


def _piece(network: nn.Module, task: Task, piece: Batch, recorder: Recorder, dtype: torch.dtype) -> Trace:
    recorder.forget()
    _passed(network, task, piece, recorder, dtype)
    return recorder.trace()


def _passed(
    network: nn.Module, task: Task, batch: Batch, recorder: Recorder, dtype: torch.dtype = torch.float32
) -> None:
    recorder.phase = "forward"
    with computing(batch, dtype):
        loss = task.loss(network, batch)
    slope = torch.ones_like(loss.sum)
    recorder.phase = "backward"
    loss.sum.backward(gradient=slope)


@torch.no_grad()
def _update(
    network: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    average: Average | None,
    config: TrainConfig,
    recorder: Recorder,
    count: int,
) -> None:
    """Runs what `train/step.py` does with gradients: their norm, the division where it is needed, the update."""
    recorder.phase = "update"
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    torch._foreach_norm(gradients)
    if config.l2:
        torch._foreach_add_(gradients, [p for p in network.parameters() if p.grad is not None], alpha=config.l2)
        torch._foreach_norm(gradients)
    if count > 1 or config.l2:
        torch._foreach_mul_(gradients, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    if average:
        average.update(1)


class Recorder(TorchDispatchMode):
    """While in this context, notes every operation; numbers that are asked for are 1."""

    def __init__(self) -> None:
        super().__init__()
        self.phase: Phase = "forward"
        self._operations: list[Operation] = []
        self._unknown: dict[str, int] = {}
        self._inside: list[str] = []
        self._sum: weakref.ref[Any] | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch need not load its compiler, which takes a second and 100 MB."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        self._settle()
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.namespace in formulas.QUESTIONS:
            return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if formulas.unknown(func):
            self._unknown[str(func)] = self._unknown.get(str(func), 0) + 1
        self._operations.append(
            Operation(
                _name(func, kwargs),
                self._phase(),
                self._inside[-1] if self._inside else "",
                formulas.flops(func, args, kwargs, result),
                sum(map(_size, inputs)),
                sum(map(_size, outputs)) or (sum(map(_size, inputs)) if func.__name__.endswith("_") else 0),
                tuple(tuple(tensor.shape) for tensor in inputs),
                next((t.dtype for t in (*inputs, *outputs) if t.is_floating_point()), torch.int64),
            )
        )
        if sums_gradients(func):
            self._sum = weakref.ref(args[0].untyped_storage())
        return result

    def _settle(self) -> None:
        """Sees of a sum of two gradients, which was the last operation, whether it is really made in place.

        So it is where nobody else has the first of them: then that is gone by now.
        """
        if self._sum is not None and self._sum() is None:
            self._operations[-1] = dataclasses.replace(self._operations[-1], name="aten.add_.Tensor")
        self._sum = None

    def _phase(self) -> Phase:
        """Returns the phase; in the backward pass gradients are on only where something is computed again."""
        return "recompute" if self.phase == "backward" and torch.is_grad_enabled() else self.phase

    def forget(self) -> None:
        """Forgets what was noted so far."""
        self._operations, self._unknown, self._sum = [], {}, None

    def trace(self) -> Trace:
        """Returns what was noted."""
        self._settle()
        return Trace(tuple(self._operations), dict(self._unknown))

    @contextlib.contextmanager
    def within(self, network: nn.Module) -> Iterator[None]:
        """While in this context, notes in which module of a model an operation is."""

        def enter(name: str) -> Any:
            return lambda *_: self._inside.append(name)

        hooks: list[Any] = []
        for name, module in network.named_modules():
            hooks.append(module.register_forward_pre_hook(enter(name)))
            hooks.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self) -> None:
        self._inside.pop()


def _name(func: Any, kwargs: Mapping[str, Any]) -> str:
    """Returns an operation's name; the approximation of an activation, which takes three times as long, has its own."""
    return str(func).replace("gelu", "gelu_tanh") if kwargs.get("approximate") == "tanh" else str(func)


def _size(tensor: Tensor) -> int:
    """Returns the bytes of a tensor, of an expanded one those that are there."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
