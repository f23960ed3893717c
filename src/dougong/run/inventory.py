"""The verb `list`: everything that a recipe can name. Knows where parts are registered; runs none of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from dougong.core.config import Config, did_you_mean, find_part, named_alternatives, part_names
from dougong.core.errors import UsageError
from dougong.recipe import shipped_names, shipped_text
from dougong.recipe.document import parse
from dougong.train.config import TrainConfig

_PARTS = {"models": "models", "tasks": "tasks", "datasets": "data.datasets", "sources": "data.sources"}


def inventory(kind: str | None = None) -> dict[str, dict[str, Any]]:
    """Returns names and one line on each, by kind: recipes, models (with variants), tasks, datasets, ...

    Raises:
        UsageError: There is no such kind.
    """
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "recipes": lambda: {name: parse(shipped_text(name), name).values["title"] for name in shipped_names()},
        **{plural: functools.partial(_parts, place) for plural, place in _PARTS.items()},
        "tokenizers": _tokenizers,
        "optimizers": lambda: _alternatives(TrainConfig, "optimizer"),
        "schedules": lambda: _alternatives(TrainConfig, "schedule"),
    }
    if kind is not None and kind not in makers:
        raise UsageError(f"{kind!r} is no kind of thing to list.{did_you_mean(kind, list(makers))}")
    return {name: make() for name, make in makers.items() if kind in (None, name)}


def _parts(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in part_names(kind):
        module = find_part(kind, name)
        variants = list(getattr(module, "VARIANTS", ()))
        found[name] = _line(module.PART) if not variants else {"about": _line(module.PART), "variants": variants}
    return found


def _tokenizers() -> dict[str, str]:
    parts = [find_part("data.datasets", name).PART for name in part_names("data.datasets")]
    found = [_alternatives(part, "tokenizer") for part in parts if "tokenizer" in part.model_fields]
    return {name: line for each in found for name, line in each.items()}


def _alternatives(config: type[Config], field: str) -> dict[str, str]:
    return {name: _line(member) for name, member in named_alternatives(config, field).items()}


def _line(config: type[Config]) -> str:
    return (inspect.getdoc(config) or "").split("\n")[0]
