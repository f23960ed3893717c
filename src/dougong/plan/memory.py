"""The peak memory of a training step, found by running one with tensors that have shapes and no numbers (law 5).

Every allocation of forward, backward and update is booked, so that the peak is that of the real step: of what a kernel
takes for itself inside one operation, only what `workspace.py` knows of. Knows models and tasks through their
contracts; does not know how much memory there is, nor what evaluation and compiled code take.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from dougong.core.contracts import Batch, Task
from dougong.plan.workspace import workspace
from dougong.train.average import Average
from dougong.train.blocks import prepared_blocks
from dougong.train.config import TrainConfig
from dougong.train.optim import build_optimizers, optimizer_tensors
from dougong.train.rates import freeze
from dougong.train.step import draws_noise


@runtime_checkable
class Buildable(Protocol):
    """What a step is planned of: a model's config, or what stands for one."""

    def build(self) -> nn.Module:
        """Returns the network."""


@dataclass(frozen=True)
class Memory:
    """The bytes that are held at the moment of a step's peak, by what they are for.

    Attributes:
        weights: Parameters and buffers.
        gradients: Those gradients that exist at that moment.
        optimizer: The optimizer's state.
        average: The averaged weights.
        activations: What the forward pass keeps for the backward pass, of one microbatch.
        workspace: All else: the batch, what an operation is just making, and with `recompute` one block's activations.
        staging: The copy from which checkpoints are written in the background, if there is one in the same memory.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    workspace: int
    staging: int = 0

    @property
    def peak(self) -> int:
        """All of these together."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        parts = ", ".join(f"{getattr(self, f.name) / 1e6:,.0f} {f.name}" for f in fields(self) if getattr(self, f.name))
        return f"{self.peak / 1e6:,.0f} MB at the peak of a step ({parts})"


def step_memory(
    model: Buildable, task: Task, batch: Batch, config: TrainConfig, dtype: torch.dtype = torch.float32
) -> Memory:
    """Returns the peak memory of a step of training, once the optimizer has its state.

    Args:
        model: The model's config, with the size of its vocabulary.
        batch: The batch of a step; of its tensors only shapes and types are read. Those of an accelerator are
            predicted as that accelerator's.
        config: Gives microbatch, optimizer, average and recomputation.
        dtype: The type of matrix products.
    """
    device = batch.samples.device
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), ledger, torch.device(device):
        network = model.build()
        freeze(network, config)
        ledger.tag("weights", [*network.parameters(), *network.buffers()])
        optimizers = with_state(network, config)
        ledger.tag("optimizer", _state(network, optimizers))
        ledger.begin()
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        average = Average(trained, config.ema.decay) if config.ema else None
        ledger.tag("average", average.tensors.values() if average else ())
        noisy, size = draws_noise(network), config.microbatch_size or len(batch)
        pieces = [blank(piece, device, noisy) for piece in batch.split(size)]
        with prepared_blocks(network, False, config.recompute):
            for piece in pieces[:2]:  # the second finds the gradients of the first; a third would find no more
                _pass(network, task, piece, ledger, dtype)
        for optimizer in optimizers:
            optimizer.step()
    return Memory(**ledger.at_peak())


def with_state(network: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Returns the optimizers after a first step, which makes their state."""
    named = dict(network.named_parameters())
    optimizers = build_optimizers(config.optimizer, named.items())
    for parameter in named.values():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    for optimizer in optimizers:
        optimizer.step()
    for parameter in named.values():
        parameter.grad = None
    return optimizers


def _state(network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> list[Tensor]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [*optimizer_tensors(optimizers, names).values()]


def enlarged(batch: Batch, size: int) -> Batch:
    """Returns a batch of so many examples like its first, which take no memory of their own."""
    fields = {name: tensor[:1].expand(size, *tensor.shape[1:]) for name, tensor in batch.fields.items()}
    return Batch(fields, batch.samples[:1].expand(size))


def blank(batch: Batch, device: torch.device, noisy: bool) -> Batch:
    """Returns a batch of the same shapes and types."""
    fields = {name: torch.empty(t.shape, dtype=t.dtype, device=device) for name, t in batch.fields.items()}
    samples = torch.empty(len(batch), dtype=torch.int64, device=device)
    return Batch(fields, samples, torch.empty(len(batch), dtype=torch.int32, device=device) if noisy else None)


def _pass(network: nn.Module, task: Task, batch: Batch, ledger: Ledger, dtype: torch.dtype) -> None:
    """Runs a microbatch forward and backward, and books what is kept and what becomes a gradient."""

    def keep(tensor: Tensor) -> Tensor:
        ledger.tag("activations", [tensor])
        return tensor

    with contextlib.ExitStack() as stack:
        for parameter in filter(lambda p: p.requires_grad, network.parameters()):
            hook = parameter.register_post_accumulate_grad_hook(ledger.tag_gradient)
            stack.callback(hook.remove)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), computing(batch, dtype):
            loss = task.loss(network, batch)
        loss.sum.backward(gradient=torch.ones_like(loss.sum))


def computing(batch: Batch, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Within this context products are computed in a type, where a batch is."""
    if dtype in (torch.float32, torch.float64):
        return contextlib.nullcontext()
    return torch.autocast(batch.samples.device.type, dtype=dtype)


def sums_gradients(func: Any) -> bool:
    """Tells a dispatch mode whether autograd itself asks for an operation, to add up two gradients of one tensor."""
    return func is torch.ops.aten.add.Tensor and sys._getframe(2).f_code.co_name == "_engine_run_backward"


_NOBODY = 0  # the number of memory that no tensor holds


class Ledger(TorchDispatchMode):
    """While in this context, notes when the memory of each tensor comes and goes; numbers that are asked for are 1."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[tuple[int, int]] = []
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._tags: dict[int, str] = {}
        self._sums: dict[int, int] = {}  # where a sum of two gradients is booked, by the first of the two
        self._count = self._start = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch need not load its compiler, nor stand between autograd and this."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._book, result)
        if sums_gradients(func):
            self._sums[self._number(args[0])] = len(self._entries) - 1
        if taken := workspace(func, args):
            self._entries += [(_NOBODY, taken), (_NOBODY, -taken)]
        return result

    def begin(self) -> None:
        """From here on the peak is looked for."""
        self._start = len(self._entries)

    def tag(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Says what the memory of tensors is for; what was said first holds."""
        for tensor in tensors:
            self._tags.setdefault(self._number(tensor), name)

    def tag_gradient(self, parameter: Tensor) -> None:
        """Says so of a parameter's gradient, whatever was said before."""
        if parameter.grad is not None:
            self._tags[self._number(parameter.grad)] = "gradients"

    def at_peak(self) -> dict[str, int]:
        """Returns the bytes held at the peak, by what they are for."""
        held = dict.fromkeys((field.name for field in fields(Memory)), 0)
        for number, size in self._entries[: self._top() + 1]:
            held[self._tags.get(number, "workspace")] += size
        return held

    def _top(self) -> int:
        """Returns the entry after which the most is held."""
        now, best, top = 0, -1, 0
        for place, (_, size) in enumerate(self._entries):
            now += size
            if place >= self._start and now > best:
                best, top = now, place
        return top

    def _number(self, tensor: Tensor) -> int:
        """Returns the number of a tensor's memory, a new one where it is met for the first time."""
        storage = tensor.untyped_storage()
        known = self._known.get(id(storage))
        if known is not None and known[0]() is storage:
            return known[1]
        self._count += 1
        number, size = self._count, storage.nbytes()
        self._entries.append((number, size))
        freed = functools.partial(self._free, number, size)
        self._known[id(storage)] = (weakref.ref(storage, freed), number)
        return number

    def _book(self, tensor: Tensor) -> Tensor:
        self._number(tensor)
        return tensor

    def _free(self, number: int, size: int, _: Any) -> None:
        """Books that memory is given back.

        Autograd really adds in place what it adds up, where nobody else has the first gradient; only tensors without
        numbers it adds beside. Then nothing else is made before the first is given back.
        """
        place = self._sums.pop(number, len(self._entries))
        at_once = all(given_back < 0 for _, given_back in self._entries[place + 1 :])
        self._entries.insert(place if at_once else len(self._entries), (number, -size))
