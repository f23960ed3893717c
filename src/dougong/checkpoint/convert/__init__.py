"""Foreign dialects of model folders, one file each; the folder is the registry.

A dialect is a module with

- `MODEL_TYPE`: the `model_type` in config.json that it reads;
- `PREFIX`: what begins the names of its tensors, but is left out by some writers;
- `IGNORED`: a pattern of tensors that carry nothing learned;
- `TIED`: tensors that some writers save a second time, each with the name of the first;
- `read_config(config)`: the values of our config, from theirs;
- `write_config(values)`: their config from our values, or None where it cannot say what ours says (a value that ours
  derives from others is given written out);
- `layout(values, names)`: where each of our tensors lies in their file;
- `counters(names)`, where theirs has such: the names of whole numbers in their file that count training steps and
  decide nothing; they are written as 0;
- `renamed(name)`, where their names have changed: the name of today for one of old;
- `BESIDE`, where a folder says more than its config.json: names of further JSON files; `read_config` finds what is in
  them under their names; and `write_beside(values)`: the contents of such files, by name;
- `BARE`, where there is one: their class of the model without a head, whose own names do not begin with `PREFIX`;
- `recognise(shapes)`, where files come without a config: the values of our config from the names and shapes of their
  tensors, or None. A dialect of such files alone has neither `MODEL_TYPE` nor the functions about configs.

Knows how configs and names correspond; knows no model class, and opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dougong.core.config import find_part, part_names
from dougong.core.errors import FileError

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


@dataclass(frozen=True)
class Piece:
    """One tensor of their file, and what it is of ours.

    Attributes:
        name: Its name in their file.
        rows: Which rows of our tensor it is; None is all of them.
        transposed: Whether their matrix has inputs before outputs.
        window: The side of the square window, where theirs is a convolution and ours a matrix over all its places.
        as_row: Whether theirs is a matrix of one row, and ours a vector.
    """

    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False
    window: int | None = None
    as_row: bool = False


_TIMM = "timm-"
Layout = Mapping[str, tuple[Piece, ...]]
Shapes = Mapping[str, Sequence[int]]


def dialects() -> list[ModuleType]:
    """Returns the foreign dialects that have a config, by name; our own form is not among them."""
    return [dialect for dialect in _modules() if hasattr(dialect, "MODEL_TYPE") and dialect is not own_form()]


def recognisers() -> list[ModuleType]:
    """Returns the dialects that tell a model by the names and shapes of its tensors."""
    return [dialect for dialect in _modules() if hasattr(dialect, "recognise")]


def _modules() -> list[ModuleType]:
    return [find_part("checkpoint.convert", name) for name in part_names("checkpoint.convert")]


def own_form() -> ModuleType:
    """Returns our own form, in which every model can be written."""
    return find_part("checkpoint.convert", "native")


def dialect_of(config: Mapping[str, Any]) -> ModuleType:
    """Returns the dialect that reads a config.json, by its `model_type`; one of timm has an `architecture` instead.

    Raises:
        FileError: There is none.
    """
    known = {dialect.MODEL_TYPE: dialect for dialect in dialects()}
    model_type, architecture = config.get("model_type"), config.get("architecture")
    if model_type is None and isinstance(architecture, str):
        family = _TIMM + re.split(r"\d", architecture)[0]
        if family not in known:
            theirs = [name.removeprefix(_TIMM) for name in known if name.startswith(_TIMM)]
            raise refuse("architecture", f"of timm's {' or '.join(theirs)}", architecture)
        return known[family]
    if isinstance(model_type, str) and model_type.startswith(own_form().MODEL_TYPE):
        return own_form()
    if not isinstance(model_type, str) or model_type not in known:
        names = ", ".join(name for name in known if not name.startswith(_TIMM))
        raise FileError(
            f"model_type in config.json must be one of {names} or our own, but is {model_type!r}. "
            "Choose a model of one of these families."
        )
    return known[model_type]


def need(config: Mapping[str, Any], key: str) -> Any:
    """Returns a setting that their config must have.

    Raises:
        FileError: It has not.
    """
    if config.get(key) is None:
        raise FileError(f"config.json must have {key}, but it is absent. Take the folder's original config.json.")
    return config[key]


def refuse(key: str, wanted: str, found: Any) -> FileError:
    """Returns the error for a setting whose computation we do not have."""
    return FileError(f"{key} in config.json must be {wanted}, but is {found!r}: that computation is not built here.")


def number_of_labels(config: Mapping[str, Any]) -> int:
    """Returns how many classes a config of transformers has; it leaves out what is its default, 2.

    Raises:
        FileError: It names several classes at once, or a number: not the one class that our heads name.
    """
    problem = config.get("problem_type")
    if problem not in (None, "single_label_classification"):
        raise refuse("problem_type", "single_label_classification", problem)
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)


def read_classifier(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the head of a decoder that names the class of a text, or nothing if it goes on with it."""
    named = config.get("architectures") or [""]
    if not str(named[0]).endswith("ForSequenceClassification"):
        return {}
    classes = {"num_classes": number_of_labels(config), "pad_id": config.get("pad_token_id")}
    return {"head": "classify", "tie_embeddings": True, **classes}


def write_classifier(values: Mapping[str, Any], stem: str) -> dict[str, Any]:
    """Returns the settings of such a head, of a decoder whose class begins with `stem`; nothing if it has another."""
    if values["head"] != "classify":
        return {}
    numbers = {"num_labels": values["num_classes"], "pad_token_id": values["pad_id"]}
    return {"architectures": [f"{stem}ForSequenceClassification"], **numbers}


def norm_names(name: str) -> str:
    """Returns a name with the running variance called as torch calls it."""
    return name.replace("running_variance", "running_var")


def variant_values(family: str, variant: str) -> dict[str, Any]:
    """Returns the values of a named size of ours.

    Raises:
        FileError: There is no such size.
    """
    variants = find_part("models", family).VARIANTS
    if variant not in variants:
        raise refuse("architecture", f"one of {', '.join(variants)}", variant)
    return {"name": family, **variants[variant]}


def timm_name(config: Mapping[str, Any]) -> str:
    """Returns the architecture of a config of timm, without the tag of how it was trained: `resnet50.a1_in1k`."""
    return str(need(config, "architecture")).partition(".")[0]


def timm_shape(config: Mapping[str, Any]) -> Sequence[int]:
    """Returns channels, height and width of the pictures of a config of timm."""
    return (config.get("pretrained_cfg") or config).get("input_size", (3, 224, 224))


def timm_classes(config: Mapping[str, Any]) -> int:
    """Returns how many classes a config of timm has."""
    return need({**(config.get("pretrained_cfg") or {}), **config}, "num_classes")


def activation(config: Mapping[str, Any], key: str, default: str) -> str:
    """Returns our name of an activation.

    Raises:
        FileError: We do not have it.
    """
    theirs = config.get(key, default)
    if theirs not in ACTIVATIONS:
        raise refuse(key, f"one of {', '.join(ACTIVATIONS)}", theirs)
    return ACTIVATIONS[theirs]


def foreign_activation(ours: str) -> str:
    """Returns their name of an activation."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)
