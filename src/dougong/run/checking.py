"""The verb `check`: a recipe's parts, prepared as `train` does, put to the proof one claim after the other.

Knows the order of the checks and how a recipe becomes their subject; what each proves, `check/` knows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dougong.check import (
    builds,
    compiled,
    gradients,
    initial_loss,
    memory,
    microbatches,
    overfit,
    precision,
    processes,
    randomness,
    resume,
    samples,
    separate,
)
from dougong.check.result import Claim, Result, found
from dougong.check.subject import Limits, Subject
from dougong.core import log
from dougong.core.contracts import Batch
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import CheckError
from dougong.data.loader import Batches, BatchSizes, count
from dougong.plan.count import build_on_meta, flops_per_sample, foreseen_model
from dougong.plan.memory import step_memory
from dougong.recipe import Recipe, load, name_of
from dougong.recipe.sources import Source
from dougong.run.memory import require_memory
from dougong.run.parts import Parts, prepare
from dougong.run.training import new_model
from dougong.train.config import TrainConfig

CHECKS: Sequence[tuple[Claim, Callable[[Subject], Result]]] = (
    (builds.CLAIM, builds.builds),
    (samples.CLAIM, samples.samples),
    (gradients.CLAIM, gradients.gradients),
    (microbatches.CLAIM, microbatches.microbatches),
    (separate.CLAIM, separate.separate),
    (randomness.CLAIM, randomness.randomness),
    (compiled.CLAIM, compiled.compiled),
    (precision.CLAIM, precision.precision),
    (resume.CLAIM, resume.resume),
    (processes.CLAIM, processes.processes),
    (initial_loss.CLAIM, initial_loss.initial_loss),
    (overfit.CLAIM, overfit.overfit),
    (memory.CLAIM, memory.memory),
)
SHORTEST = 16  # tokens: as far as a row is cut to save time


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        recipe: The recipe's name.
        results: One for each check, in their order.
    """

    recipe: str
    results: Sequence[Result]

    @property
    def failed(self) -> list[Result]:
        """The results of the checks that failed."""
        return [result for result in self.results if result.verdict == "failed"]

    @property
    def passed(self) -> bool:
        """Whether none failed."""
        return not self.failed

    @property
    def exit_code(self) -> int:
        """What a process returns: 0, or the code of the first check that failed."""
        return self.failed[0].exit_code if self.failed else 0

    @property
    def seconds(self) -> float:
        """How long all took together."""
        return sum(result.seconds for result in self.results)

    def require(self) -> None:
        """Sees that none failed.

        Raises:
            CheckError: One did; the message names all that did.
        """
        if self.failed:
            names = ", ".join(result.name for result in self.failed)
            text = f"all of {len(self.results)} checks must pass, but {len(self.failed)} failed: {names}."
            raise CheckError(f"{text} What each means: docs/how-to/check.md.", self.exit_code)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        facts = {"recipe": self.recipe, "passed": self.passed, "exit_code": self.exit_code, "seconds": self.seconds}
        return {**facts, "checks": [result.as_dict() for result in self.results]}


def check(source: Source, *, overrides: Sequence[str] = (), **options: Any) -> Check:
    """Proves a recipe before a run, on its own model and data: `check("gpt-stdlib").passed`. Takes about a minute.

    Args:
        source: A recipe's name, a file, a run folder, inline YAML, values, or a recipe.
        overrides: `path=value` texts, as `--set` takes them.
        options: Values by path; a name without a section means `train.<name>`.

    Raises:
        RecipeError: The recipe has faults; all of them, with file and line.
        UsageError: A path does not exist, or parts do not fit each other.
        FileError: The data is broken or too short.
        ResourceError: The memory cannot hold the model.
    """
    recipe = load(source, overrides, options)
    return Check(name_of(source), prove(subject_of(recipe)))


def prove(subject: Subject) -> list[Result]:
    """Runs all checks in their order, and tells of each as it ends."""
    results = []
    for number, (claim, of_subject) in enumerate(CHECKS, 1):
        result = found(claim, functools.partial(of_subject, subject))
        results.append(result)
        name = claim.name.replace("_", " ")
        log.say(f"{number}/{len(CHECKS)} {name}: {result.verdict}, {result.seconds:.1f} s")
    return results


def subject_of(recipe: Recipe, limits: Limits | None = None) -> Subject:
    """Prepares what a recipe names, in the order in which `train` does.

    Raises:
        UsageError: A path does not exist, or parts do not fit each other.
        FileError: The data is broken or too short.
        ResourceError: The memory cannot hold the model.
    """
    if not foreseen_model(recipe)[1]:
        require_memory(recipe)
    parts = prepare(recipe)
    recipe = parts.recipe
    require_memory(recipe)
    device = choose_device(recipe.train.device)
    dtype = choose_precision(recipe.train.precision, device).dtype
    values = recipe.values()

    def predicted(batch: Batch, config: TrainConfig) -> int:
        return step_memory(parts.network, parts.task, batch, config, dtype).peak

    return Subject(
        config=recipe.train,
        model=functools.partial(_quiet_model, recipe),
        blank=functools.partial(build_on_meta, parts.network),
        task=parts.task,
        batches=parts.batches,
        rows=_Rows(parts),
        sections={name: values[name] for name in ("model", "task", "adapter", "init_new")},
        device=device,
        dtype=dtype,
        samples=count(parts.data.train),
        from_scratch=recipe.init_from is None,
        predicted=predicted,
        limits=limits or Limits(),
    )


def _quiet_model(recipe: Recipe) -> nn.Module:
    """Returns the model as training would begin with it, and says nothing of it."""
    with log.listening(lambda _: None):
        return new_model(recipe)


class _Rows:
    """Gives a batch of the first training examples, cut short where they would cost too much."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self.found: dict[int | None, tuple[Batches, int]] = {}

    def __call__(self, wanted: int, operations: float) -> Batch:
        """Returns so many examples, each as short as the operations demand; or fewer, where they cannot be short."""
        number = min(wanted, count(self.parts.data.train))
        for length in self._lengths():
            batches, cost = self._of_length(length)
            if number * cost <= operations:
                break
        else:
            number = max(1, min(number, int(operations // max(cost, 1))), min(number, 2))
        return Batches(batches.examples, batches.collate, BatchSizes.constant(number))[0]

    def _lengths(self) -> Sequence[int | None]:
        """Returns the lengths to try, from the data's own down; None stands for data that cannot be cut."""
        if "seq_len" not in type(self.parts.recipe.data).model_fields:
            return [None]
        lengths = [self.parts.data.seq_len]
        while lengths[-1] >= 2 * SHORTEST:
            lengths.append(lengths[-1] // 2)
        return lengths

    def _of_length(self, length: int | None) -> tuple[Batches, int]:
        """Returns the batches of rows of a length, and the operations of one row."""
        if length not in self.found:
            whole = length is None or length == self.parts.data.seq_len
            parts = self.parts if whole else self._cut(length)
            with torch.enable_grad():
                operations = flops_per_sample(build_on_meta(parts.recipe.model), parts.task)
            self.found[length] = (parts.batches(), operations)
        return self.found[length]

    def _cut(self, length: int | None) -> Parts:
        recipe = self.parts.recipe
        data: Any = recipe.data
        with log.listening(lambda _: None):
            return prepare(recipe.replace(data=data.replace(seq_len=length)))
