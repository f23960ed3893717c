"""What a config is, how its faults become sentences, and how a part is found by its name.

Knows pydantic; does not know YAML, files or line numbers (see `recipe.py`), and imports no torch.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Self, TypeVar

import pydantic
from pydantic_core import PydanticCustomError

from dougong.core.errors import RecipeError, UsageError

C = TypeVar("C", bound="Config")


class Fault(NamedTuple):
    """One thing that is wrong in a config: the field, and the rest of the sentence that begins with its path."""

    field: str
    text: str


class Config(pydantic.BaseModel):
    """The frozen description of one part. Unknown keys are refused; every field has a one-line description.

    A subclass adds `faults` for conditions between fields, and `build` to make the part.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields (each field's own type and range is already checked)."""
        return iter(())

    @pydantic.model_validator(mode="after")
    def _no_faults(self) -> Self:
        found = list(self.faults())
        if found:
            raise PydanticCustomError("faults", "faults between fields", {"faults": found})
        return self

    def replace(self, **changes: Any) -> Self:
        """Returns a validated copy with the given fields changed.

        Raises:
            RecipeError: A changed value is not allowed.
        """
        return validate(type(self), {**self.model_dump(), **changes})


@dataclass(frozen=True)
class Complaint:
    """One complaint about a config: where (keys and indices from the root), and a full sentence."""

    path: tuple[str | int, ...]
    text: str


def validate(config_class: type[C], values: Any, prefix: Sequence[str | int] = ()) -> C:
    """Returns the config that `values` describe.

    Raises:
        RecipeError: With every complaint at once.
    """
    config, complaints = try_validate(config_class, values, prefix)
    if config is None:
        raise RecipeError([complaint.text for complaint in complaints])
    return config


def try_validate(
    config_class: type[C], values: Any, prefix: Sequence[str | int] = ()
) -> tuple[C | None, list[Complaint]]:
    """Returns the config and no complaints, or None and all complaints. Paths begin with `prefix`."""
    try:
        return config_class.model_validate(values), []
    except pydantic.ValidationError as error:
        return None, list(_complaints(error, config_class, tuple(prefix)))


def path_text(path: Sequence[str | int]) -> str:
    """Returns `train.optimizer.betas[1]` for ("train", "optimizer", "betas", 1)."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def did_you_mean(word: str, known: Sequence[str], prefix: str = "") -> str:
    """Returns ` Did you mean X?` for the nearest of the known words, or a list of them, or nothing."""
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {prefix}{near[0]}?"
    return f" Known: {', '.join(sorted(known))}." if 0 < len(known) <= 40 else ""


def _complaints(
    error: pydantic.ValidationError, config_class: type[Config], prefix: tuple[str | int, ...]
) -> Iterator[Complaint]:
    for item in error.errors(include_url=False):
        known, inner = _walk(config_class, item["loc"])
        path = prefix + inner
        if item["type"] == "faults":
            for field, text in item["ctx"]["faults"]:
                yield Complaint((*path, field), f"{path_text((*path, field))} {text}")
        else:
            yield Complaint(path, _sentence(item, path, known))


def _walk(config_class: type[Config], loc: tuple[str | int, ...]) -> tuple[list[str], tuple[str | int, ...]]:
    """Follows pydantic's location; returns the field names at its last step, and the path as the user wrote it.

    Pydantic puts the tag of a discriminated union into the location; the user never wrote that step, so it is dropped.
    """
    here: Any = config_class
    known: list[str] = list(config_class.model_fields)
    path: list[str | int] = []
    for key in loc:
        configs = list(_configs_in(here))
        tagged = [c for c in configs if key in _tags(c)]
        if tagged and not any(key in c.model_fields for c in configs):
            here, known = tagged[0], list(tagged[0].model_fields)
            continue
        if isinstance(key, str) and key in _TYPE_STEPS:
            continue
        path.append(key)
        if isinstance(key, int):
            continue
        known = sorted({name for c in configs for name in c.model_fields})
        field = next((c.model_fields[key] for c in configs if key in c.model_fields), None)
        here = field.annotation if field is not None else None
    return known, tuple(path)


_TYPE_STEPS = {"int", "float", "str", "bool", "none", "constrained-int", "constrained-float", "constrained-str"}


def _tags(config_class: type[Config]) -> tuple[Any, ...]:
    field = config_class.model_fields.get("name")
    return getattr(field.annotation, "__args__", ()) if field is not None else ()


def _configs_in(annotation: Any) -> Iterator[type[Config]]:
    """Yields every Config class inside an annotation such as `list[A | B] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _configs_in(argument)


def _sentence(item: Any, path: tuple[str | int, ...], known: list[str]) -> str:
    where, kind, context = path_text(path) or "the recipe", item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        parent = path_text(path[:-1])
        return f"{where} is not an option.{did_you_mean(str(path[-1]), known, parent + '.' if parent else '')}"
    if kind == "missing":
        return f"{where} is required, but absent. Add it."
    if kind == "union_tag_invalid":
        names = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
        return f"{where}.name must be a known name, but is {context['tag']!r}.{did_you_mean(context['tag'], names)}"
    if kind == "union_tag_not_found":
        return f"{where}.name is required, but absent. Say which part it is."
    shown = repr(item["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    wish = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
    wish = wish[0].lower() + wish[1:]
    return f"{where} must be {wish}, but is {shown}."


def find_part(kind: str, name: str) -> ModuleType:
    """Imports the one module that holds a part: `find_part("models", "gpt")` is `dougong.models.gpt`.

    Args:
        kind: The folder, with dots: `models`, `tasks`, `data.datasets`. Third parties add to the entry point
            group `dougong.<kind>`.
        name: The file's name without its ending.

    Raises:
        UsageError: There is no such part; the message names the nearest.
    """
    names = part_names(kind)
    if name not in names:
        singular = kind.rsplit(".", 1)[-1].rstrip("s")
        raise UsageError(f"{name!r} is not a {singular}.{did_you_mean(name, names)}")
    for entry in importlib.metadata.entry_points(group=f"dougong.{kind}", name=name):
        return importlib.import_module(entry.module)
    return importlib.import_module(f"dougong.{kind}.{name}")


def part_names(kind: str) -> list[str]:
    """Returns the names of all parts of a kind, sorted: the files of the folder, and what entry points add."""
    package = importlib.import_module(f"dougong.{kind}")
    names = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    names.update(entry.name for entry in importlib.metadata.entry_points(group=f"dougong.{kind}"))
    return sorted(names)
