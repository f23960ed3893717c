"""From a recipe to its parts, built and fitted to each other: data, model, task, batches.

Knows how sections depend on one another (the data decides the vocabulary); knows no concrete part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dougong.core.config import Config, path_text, validate
from dougong.core.contracts import Batch
from dougong.core.errors import UsageError
from dougong.data.loader import Batches, BatchSizes, Bucketed, augmented, count, everything, in_order, order
from dougong.recipe import Recipe
from dougong.recipe.sources import paths_in
from dougong.train.loop import batch_sizes


@dataclass(frozen=True)
class Parts:
    """What a recipe describes.

    Attributes:
        recipe: The recipe, with the model's fields that the data decides filled in.
        data: The prepared dataset.
        task: The objective.
    """

    recipe: Recipe
    data: Any
    task: Any

    @property
    def model(self) -> Any:
        """The model's config."""
        return self.recipe.model

    @property
    def network(self) -> Any:
        """What builds the network that trains: the model's config, with its adapter if there is one."""
        return self.recipe.trained()

    @property
    def writes_text(self) -> bool:
        """Whether what is trained is a language model, whose items are tokens."""
        return self.task.item == "tokens"

    def sizes(self) -> BatchSizes:
        """Returns how many examples each step takes."""
        return batch_sizes(self.recipe.train, count(self.data.train))

    def batches(self) -> Batches:
        """Returns the training batches."""
        train = self.recipe.train
        whole = train.batch_size == "all"
        examples = everything(self.data.train) if whole else order(self.data.train, train.seed)
        change = getattr(self.data, "augment", None)
        examples = examples if change is None else augmented(examples, change, train.seed)
        if train.bucket_batches and isinstance(train.batch_size, int):
            examples = Bucketed(examples, self.data.length, train.batch_size, train.bucket_batches, train.seed)
        return Batches(examples, self.task.collate, self.sizes(), train.workers)

    def validation(self) -> Callable[[], Iterable[Batch]]:
        """Returns what gives a fresh iterator over the validation batches."""
        train = self.recipe.train
        size = train.microbatch_size or (train.batch_size if isinstance(train.batch_size, int) else 32)
        size = min(size, 64) // getattr(self.data, "views", 1)  # several views of one example go through at once
        return lambda: in_order(self.data.validation, self.task.collate, max(1, size))

    def items(self, steps: int) -> int:
        """Returns how many of the task's items (`task.item`: tokens, examples) so many steps take in."""
        each = self.data.seq_len if self.writes_text else getattr(self.task, "per_example", 1)
        return self.sizes().start(steps) * each


def prepare(recipe: Recipe) -> Parts:
    """Prepares the data and fits the other parts to it.

    Raises:
        UsageError: A path does not exist, or parts do not fit each other.
        FileError: The data is broken or too short.
    """
    data = _prepared(recipe)
    model = _determined(recipe.model, data.determines)
    recipe = recipe.replace(model=model)
    whole = recipe.train.batch_size == "all"
    if whole and any(weight is not None for _, weight in data.train):
        raise UsageError("data.sources: a weight has no effect with train.batch_size all. Remove one of the two.")
    if recipe.train.bucket_batches and not hasattr(data, "length"):
        raise UsageError("train.bucket_batches has no effect, as the data's examples are all of one length. Remove it.")
    length = getattr(data, "seq_len", None)
    # The task's example is as long as the data's rows.
    seen = model.replace(max_seq_len=length) if length is not None and model.takes("max_seq_len") else model
    parts = Parts(recipe, data, recipe.task.build(seen, data))  # type: ignore[attr-defined]
    if recipe.train.samples.prompts and not parts.writes_text:
        raise UsageError("train.samples.prompts has no effect, as the task writes no text. Remove it.")
    return parts


def _prepared(recipe: Recipe) -> Any:
    config: Any = recipe.data
    longest = getattr(recipe.model, "max_seq_len", None)
    asked = getattr(config, "seq_len", None)
    if asked and longest and asked > longest:
        raise UsageError(
            f"data.seq_len must be at most model.max_seq_len, but {asked} > {longest}. Lower one or raise the other."
        )
    try:
        return config.prepare(seq_len=longest)
    except UsageError as error:
        for option, name in paths_in({"data": config.model_dump(mode="json")}):
            if error.name == "E-PATH" and name in str(error):
                listed = isinstance(getattr(config, option.removeprefix("data."), ()), list | tuple)
                yours = f"'{option}=[FILE]'" if listed else f"{option}=YOURS"
                raise UsageError(f"{error} Or name yours: --set {yours}", name=error.name) from error
        raise


def _determined(model: Config, decided: dict[str, Any]) -> Any:
    """Returns the model with the fields that the data decides; a larger number, or a token, of its own may stay.

    Raises:
        UsageError: A number of the recipe is smaller, or the shape of its pictures another.
    """
    changes = {}
    for name, value in decided.items():
        if not model.takes(name):
            continue
        given = getattr(model, name)
        if given is None:
            changes[name] = value
        elif name == "image_shape":
            if tuple(given) != tuple(value):
                raise UsageError(
                    f"{path_text(('model', name))} must be that of the data's pictures, {' x '.join(map(str, value))} "
                    f"(channels, height, width), but is {' x '.join(map(str, given))}. Leave it out to take the "
                    "data's, or set data.size."
                )
        elif not name.endswith("_id") and given < (least := decided["vocab_size"] if value is None else value):
            raise UsageError(
                f"{path_text(('model', name))} must be at least the data's {least}, but is {given}. "
                "Leave it out to take the data's."
            )
    return validate(type(model), {**model.model_dump(), **changes}, ("model",))
