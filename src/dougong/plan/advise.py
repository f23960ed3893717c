"""The largest batch and the longest context that fit a memory, and what each lever buys: searched, not guessed.

Each answer is a step that was traced (`memory.py`, `trace.py`), and the one beside it that no longer fits. Knows models
and tasks through their contracts; how much memory there is, who asks says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dougong.core.contracts import Task
from dougong.core.errors import UsageError
from dougong.plan.memory import Buildable, Memory, enlarged, step_memory
from dougong.plan.trace import Trace, trace_step
from dougong.train.adapter import Adapted, LoraConfig
from dougong.train.adapter.lora import targeted
from dougong.train.config import TrainConfig

MOST = 1 << 20  # a search ends here: no batch and no context is longer
ADAPTER = LoraConfig()
Limit = Literal["memory", "model", "search"]


@dataclass(frozen=True)
class Setting:
    """What is trained and how: all that a step's memory depends on.

    Attributes:
        model: The model's config, with all that the data decides.
        make_task: Returns the task for a model's config: its example is as long as the model reads.
        train: Gives batch, microbatch, optimizer and recomputation.
        dtype: The type of matrix products.
        length: How long an example is, where it is shorter than the model may read.
    """

    model: Buildable
    make_task: Callable[[Any], Task]
    train: TrainConfig
    dtype: torch.dtype = torch.float32
    length: int | None = None

    def memory(self, batch_size: int, **changes: Any) -> Memory:
        """Returns the peak of a step of so many examples, with some options of training changed."""
        train, task = self.train.replace(batch_size=batch_size, **changes), self.task()
        batch = enlarged(task.example_batch(1, "cpu"), batch_size)
        return step_memory(self.model, task, batch, train, self.dtype)

    def trace(self, batch_size: int, **changes: Any) -> Trace:
        """Returns the operations of such a step."""
        train, task = self.train.replace(batch_size=batch_size, **changes), self.task()
        batch = enlarged(task.example_batch(1, "cpu"), batch_size)
        return trace_step(self.model, task, batch, train, self.dtype)

    def longer(self, length: int) -> Setting:
        """Returns the same with examples of so many tokens, and a model that reads as many if it read fewer."""
        model: Any = self.model
        if length > model.max_seq_len:
            return dataclasses.replace(self, model=model.replace(max_seq_len=length), length=length)
        return dataclasses.replace(self, length=length)

    def task(self) -> Task:
        """Returns the task, whose example is as long as is asked for."""
        model: Any = getattr(self.model, "config", self.model)  # that of the model inside, if there is an adapter
        return self.make_task(model.replace(max_seq_len=self.length) if self.length else model)


@dataclass(frozen=True)
class Largest:
    """The largest number that fits.

    Attributes:
        value: The number; 0 if none fits.
        bytes: The peak of a step there.
        limit: What ends it: the memory, or the search.
    """

    value: int
    bytes: int
    limit: Limit


@dataclass(frozen=True)
class Lever:
    """What one change buys.

    Attributes:
        name: The change.
        option: How it is asked for with `--set`; None where training has no such option yet.
        bytes: The peak of a step with it.
        saved: How many bytes less that is.
        flops: The operations of a step with it over those without; 1.3 is almost a third more.
        largest_batch: The largest microbatch that then fits.
    """

    name: str
    option: str | None
    bytes: int
    saved: int
    flops: float
    largest_batch: int


def largest_batch(setting: Setting, there: float | int, start: int = 1, **changes: Any) -> Largest:
    """Returns the largest batch, computed in one piece, whose step fits so many bytes; looked for from a start on."""
    changes = {"microbatch_size": None, **changes}
    return _largest(lambda size: setting.memory(size, **changes).peak, there, max(1, start))


def longest_context(setting: Setting, there: float | int, batch_size: int) -> Largest:
    """Returns the longest examples, in tokens, of which a step of so many fits so many bytes; a multiple of 8."""
    found = _largest(lambda eights: setting.longer(8 * eights).memory(batch_size).peak, there, 1)
    return dataclasses.replace(found, value=8 * found.value)


def _largest(peak: Callable[[int], int], there: float | int, start: int) -> Largest:
    """Returns the largest number whose peak is at most what is there: one is measured that fits, and the next not.

    A straight line through the last two points says where to look, and bisection takes over where it does not close in.
    """
    low, high = (0, 0), (start, peak(start))
    while high[1] <= there:
        if high[0] >= MOST:
            return Largest(*high, "search")
        low, high = high, _beyond(low, high, peak, there)
    tries = 0
    while high[0] - low[0] > 1:
        slope = (high[1] - low[1]) / (high[0] - low[0]) if low[0] else 0
        guess = low[0] + int((there - low[1]) / slope) if slope > 0 and tries < 6 else (low[0] + high[0]) // 2
        guess = min(max(guess, low[0] + 1), high[0] - 1)
        found, tries = peak(guess), tries + 1
        low, high = ((guess, found), high) if found <= there else (low, (guess, found))
        if (
            found <= there and guess + 1 < high[0] and tries < 6
        ):  # a straight line is often right: is the next too much?
            after = peak(guess + 1)
            low, high = ((guess + 1, after), high) if after <= there else (low, (guess + 1, after))
    return Largest(*low, "memory")


def _beyond(
    low: tuple[int, int], high: tuple[int, int], peak: Callable[[int], int], there: float | int
) -> tuple[int, int]:
    """Returns a point further on: where a straight line reaches what is there, and at least twice as far.

    But no more than four times: where weights alone were seen so far, the line says nothing of what is to come.
    """
    slope = (high[1] - low[1]) / (high[0] - low[0]) if low[0] else 0
    reach = high[0] + int((there - high[1]) / slope) + 1 if slope > 0 else 0
    value = min(MOST, max(2 * high[0], reach), 4 * high[0])
    return value, peak(value)


def levers(setting: Setting, there: float | int, batch_size: int, most: int) -> Iterator[Lever]:
    """Yields what each change buys at the recipe's batch: recomputation, accumulation, bf16 optimizer, LoRA.

    Args:
        setting: Without the change.
        there: The bytes of memory, for the largest batch.
        batch_size: Of the step.
        most: The largest batch without a change.
    """
    plain = setting.memory(batch_size)
    before = setting.trace(batch_size).flops()
    if not setting.train.recompute and len(getattr(_network(setting), "blocks", ())):
        again = {"recompute": True}
        yield _lever(
            "recomputation",
            "train.recompute=true",
            plain,
            setting.memory(batch_size, **again),
            setting.trace(batch_size, **again).flops() / before,
            largest_batch(setting, there, most, **again).value,
        )
    size = setting.train.microbatch_size or batch_size
    if size > 1:
        half = {"microbatch_size": size // 2}
        ratio = setting.trace(batch_size, **half).flops() / before
        yield _lever(
            f"accumulation, microbatches of {size // 2}",
            f"train.microbatch_size={size // 2}",
            plain,
            setting.memory(batch_size, **half),
            ratio,
            most,
        )
    if plain.optimizer:
        light = dataclasses.replace(plain, optimizer=plain.optimizer // 2)
        freed = there + plain.optimizer - light.optimizer
        yield _lever("optimizer state in bf16", None, plain, light, 1.0, largest_batch(setting, freed, most).value)
    if not isinstance(setting.model, Adapted) and not setting.train.frozen and _layers(_network(setting)):
        adapted = dataclasses.replace(setting, model=_Lightly(setting.model))
        ratio = adapted.trace(batch_size).flops() / before
        found = adapted.memory(batch_size)
        largest = largest_batch(adapted, there, most).value
        yield _lever(f"LoRA of rank {ADAPTER.rank}", f"adapter.rank={ADAPTER.rank}", plain, found, ratio, largest)


def _lever(name: str, option: str | None, plain: Memory, found: Memory, flops: float, largest: int) -> Lever:
    return Lever(name, option, found.peak, plain.peak - found.peak, flops, largest)


def _network(setting: Setting) -> nn.Module:
    with torch.device("meta"):
        return setting.model.build()


class _Lightly:
    """A model with the adapter that a recipe gets by default, computed alike without the library, which loads slowly.

    Attributes:
        config: The model's.
    """

    def __init__(self, config: Any):
        self.config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name)

    def replace(self, **changes: Any) -> Any:
        """Returns the config of another model, adapted as well."""
        return _Lightly(self.config.replace(**changes))

    def build(self) -> nn.Module:
        """Returns the network with the additions, all else frozen."""
        network = self.config.build()
        network.requires_grad_(False)
        for layer in _layers(network):
            _add_rank(layer)
        return network


def _layers(network: nn.Module) -> list[Any]:
    """Returns the layers that the adapter of a recipe stands beside by default; none where it fits none."""
    try:
        return [network.get_submodule(path) for path in targeted(network, ADAPTER.targets)]
    except UsageError:
        return []


def _add_rank(linear: nn.Linear) -> None:
    down = nn.Parameter(torch.empty(ADAPTER.rank, linear.in_features))
    up = nn.Parameter(torch.empty(linear.out_features, ADAPTER.rank))
    scale = ADAPTER.alpha / ADAPTER.rank
    linear.register_parameter("lora_down", down)
    linear.register_parameter("lora_up", up)
    plain = linear.forward

    def with_rank(inputs: Tensor) -> Tensor:
        return plain(inputs) + nn.functional.linear(nn.functional.linear(inputs, down), up) * scale

    linear.__dict__["forward"] = with_rank
