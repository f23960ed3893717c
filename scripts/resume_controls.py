"""What makes a resumed run the unbroken one, each part with a patch that switches it off in the process that calls it.

For `prove_resume.py` and the tests: a proof must be able to fail. Nothing here is an option of the product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Control:
    """One mechanism that can be switched off.

    Attributes:
        words: What is switched off.
        patch: Does it, in this process.
        needs: Tells whether a resolved recipe has the mechanism at all.
        throughout: It is off in every run, not only in the resuming one: the unbroken run is made anew.
    """

    words: str
    patch: Callable[[], None]
    needs: Callable[[Any], bool] = lambda recipe: True
    throughout: bool = False


def _forgetting(forget: Callable[[Any, dict[str, Any], dict[str, Any]], None]) -> Callable[[], None]:
    """Returns a patch: what a checkpoint gives is spoiled before the state takes it."""

    def patch() -> None:
        from dougong.train.state import State

        original = State.load

        def load(self: Any, tensors: Any, scalars: Any) -> None:
            tensors, scalars = {name: dict(group) for name, group in tensors.items()}, dict(scalars)
            forget(self, tensors, scalars)
            original(self, tensors, scalars)

        State.load = load  # type: ignore[method-assign]

    return patch


def _lose_samples() -> None:
    """The resuming run begins the order of samples anew."""
    from dougong.data.loader import Batches

    make, prefetching = Batches._make, Batches.prefetching
    begins: list[int] = []

    def from_the_start(self: Any, step: int) -> Any:
        return make(self, step - begins[0] if begins else step)

    @contextlib.contextmanager
    def noted(self: Any, start: int, depth: int = 2) -> Iterator[None]:
        begins.append(start)
        with prefetching(self, start, depth):
            yield

    Batches._make, Batches.prefetching = from_the_start, noted  # type: ignore[method-assign]


def _read_global_generator() -> None:
    """Dropout draws from torch's global generator, which starts from its seed in each process."""
    import torch

    from dougong.core import seed

    torch.manual_seed(0)

    def draw_bits(keys: Any, shape: tuple[int, ...], place: int) -> Any:
        return torch.randint(0, 1 << 24, (len(keys), *shape), dtype=torch.int32)

    seed.draw_bits = draw_bits


def _shuffle_by_state() -> None:
    """The order of samples is that of a generator: which comes next depends on how many came before."""
    from dougong.data.loader import Batches

    make = Batches._make

    def next_one(self: Any, step: int) -> Any:
        self.made = getattr(self, "made", -1) + 1
        return make(self, self.made)

    Batches._make = next_one


CONTROLS = {
    "nothing": Control("nothing is switched off", lambda: None),
    "weights": Control("weights", _forgetting(lambda state, t, s: t.update(model=state.tensors()["model"]))),
    "optimizer": Control(
        "optimizer's state",
        _forgetting(lambda state, t, s: t.update(optimizer={})),
        lambda recipe: recipe.train.optimizer.name != "sgd" or bool(recipe.train.optimizer.momentum),
    ),
    "average": Control(
        "averaged weights",
        _forgetting(lambda state, t, s: t.update(average=state.tensors()["average"])),
        lambda recipe: recipe.train.ema is not None,
    ),
    "schedule": Control(
        "state of the schedule",
        _forgetting(lambda state, t, s: s.update(schedule=state.schedule.state())),
        lambda recipe: recipe.train.schedule.name == "plateau",
    ),
    "step": Control("number of the step", _forgetting(lambda state, t, s: s.update(step=s["step"] - 1))),
    "samples": Control("position in the samples", _lose_samples, lambda recipe: recipe.train.batch_size != "all"),
    "order": Control("order by number", _shuffle_by_state, lambda recipe: recipe.train.batch_size != "all"),
    "dropout": Control(
        "dropout by step and sample",
        _read_global_generator,
        lambda recipe: bool(getattr(recipe.model, "dropout", 0.0)),
        throughout=True,
    ),
}
