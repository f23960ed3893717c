"""Design, train and run large neural models.

The verbs of the command line are functions here: `run = dougong.train("gpt-stdlib", steps=200)`, then
`dougong.load(run).generate("def ")`. Importing this imports nothing heavy; each verb does, when it is called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dougong.recipe import load as recipe
    from dougong.run import (
        Check,
        Comparison,
        Plan,
        Resume,
        Run,
        check,
        diff,
        doctor,
        draw,
        evaluate,
        evaluate_code,
        generate,
        import_weights,
        load,
        plan,
        predict,
        train,
    )
    from dougong.run import inventory as list

__version__ = "0.1.0"
__all__ = [
    "Check",
    "Comparison",
    "Plan",
    "Resume",
    "Run",
    "check",
    "diff",
    "doctor",
    "draw",
    "evaluate",
    "evaluate_code",
    "generate",
    "import_weights",
    "list",
    "load",
    "plan",
    "predict",
    "recipe",
    "train",
]

# Where each name is found: module and attribute.
_VERBS = {
    "Check": ("dougong.run", "Check"),
    "Comparison": ("dougong.run", "Comparison"),
    "Plan": ("dougong.run", "Plan"),
    "Resume": ("dougong.run", "Resume"),
    "Run": ("dougong.run", "Run"),
    "check": ("dougong.run", "check"),
    "diff": ("dougong.run", "diff"),
    "doctor": ("dougong.run", "doctor"),
    "draw": ("dougong.run", "draw"),
    "evaluate": ("dougong.run", "evaluate"),
    "evaluate_code": ("dougong.run", "evaluate_code"),
    "generate": ("dougong.run", "generate"),
    "import_weights": ("dougong.run", "import_weights"),
    "list": ("dougong.run", "inventory"),
    "load": ("dougong.run", "load"),
    "plan": ("dougong.run", "plan"),
    "predict": ("dougong.run", "predict"),
    "recipe": ("dougong.recipe", "load"),
    "train": ("dougong.run", "train"),
}


class _Verb(ModuleType):
    """A package that has the name of a verb, such as `dougong.train`: it can be called as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _verb(self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Front(ModuleType):
    """This module. Python sets a package's submodules as its attributes; those named as verbs become callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


def _verb(name: str) -> Any:
    module, attribute = _VERBS[name]
    return getattr(importlib.import_module(module), attribute)


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'dougong' has no attribute {name!r}")
    if name in ("check", "plan", "recipe", "train"):  # also packages: imported, they are callable, see above
        return importlib.import_module(f"dougong.{name}")
    return _verb(name)


def __dir__() -> Any:
    return sorted([*globals(), *__all__])


sys.modules[__name__].__class__ = _Front
