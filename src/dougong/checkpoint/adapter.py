"""Adapters in the format of the library peft: adapter_config.json and adapter_model.safetensors (laws 6 and 8).

Names are those of the foreign architecture, where the model has one: what is one product of ours and three layers of
theirs becomes three adapters with the same A, each with its rows of B. Knows files, tensors and dialects; how an
adapter trains, it does not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from dougong.checkpoint.convert import Layout, Piece
from dougong.core import files
from dougong.core.errors import FileError, UntrustedError

FOLDER = "adapter"
"""Where the adapter of a model folder is."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BEGIN = "base_model.model."
_NOT_BUILT = (
    "use_dora", "lora_bias", "alpha_pattern", "layer_replication", "target_parameters", "trainable_token_indices",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config",
    "monteclora_config",
)  # fmt: skip
"""Settings of theirs that make another computation of it, if they are set."""
_BESIDE_THE_MODEL = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""Beginnings of theirs that leave the model as it was; PiSSA and its like first take a part of the weights away."""


@dataclass(frozen=True)
class Adapter:
    """Low-rank additions to linear layers, and what else was trained beside them.

    Attributes:
        rank: Their width.
        alpha: They are multiplied by `alpha / rank`.
        halves: A [rank, inputs] and B [outputs, rank] by the name of the layer.
        full: The names of parameters that were trained in full.
        begun_from: The model folder whose weights it was trained beside, for people and tools.
    """

    rank: int
    alpha: float | int
    halves: Mapping[str, tuple[Tensor, Tensor]]
    full: Sequence[str] = ()
    begun_from: str | None = None

    @property
    def scale(self) -> float:
        """What the additions are multiplied by."""
        return self.alpha / self.rank


@torch.no_grad()
def add(
    weight: Float[Tensor, "outputs inputs"],
    down: Float[Tensor, "rank inputs"],
    up: Float[Tensor, "outputs rank"],
    scale: float | int,
) -> Float[Tensor, "outputs inputs"]:
    """Adds `scale * B A` to a weight, in place; returns the weight. The product is computed in at least fp32."""
    wide = torch.promote_types(torch.float32, down.dtype)
    return weight.add_((up.to(wide) @ down.to(wide)).to(weight.device), alpha=scale)


def written(adapter: Adapter, tensors: Mapping[str, Tensor], layout: Layout, prefix: str = "") -> dict[str, bytes]:
    """Returns the two files of an adapter, by name.

    Args:
        adapter: With our names.
        tensors: Those of the model without the adapter, by our names.
        layout: Where each of them lies in the folder of the model.
        prefix: What begins names there, but not in the class that the folder is of.
    """
    layout = {
        name: tuple(replace(piece, name=piece.name.removeprefix(prefix)) for piece in pieces)
        for name, pieces in layout.items()
    }
    found: dict[str, Tensor] = {}
    targets, turned = [], False
    for path, (down, up) in adapter.halves.items():
        for piece in layout[f"{path}.weight"]:
            theirs = piece.name.removesuffix(".weight")
            targets.append(theirs)
            turned = turned or piece.transposed
            found[f"{_BEGIN}{theirs}.lora_A.weight"] = down
            found[f"{_BEGIN}{theirs}.lora_B.weight"] = rows(piece, up)
    names = [piece.name for pieces in layout.values() for piece in pieces]
    whole = sorted({_module(piece.name) for name in adapter.full for piece in layout[name]})
    for name, pieces in layout.items():
        for piece in pieces:
            if _module(piece.name) in whole:
                tensor = rows(piece, tensors[name])
                found[_BEGIN + piece.name] = tensor.T if piece.transposed else tensor
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.begun_from,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": turned,
        "target_modules": _shortest(targets, {_module(name) for name in names}),
        "modules_to_save": whole or None,
        "inference_mode": True,
    }
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}
    return {_CONFIG: json.dumps(settings, indent=2).encode(), _WEIGHTS: save(content, metadata={"format": "pt"})}


def is_adapter(folder: Path) -> bool:
    """Tells whether a folder has an adapter in it."""
    return (folder / _CONFIG).exists()


@torch.no_grad()
def merge(folder: Path, tensors: Mapping[str, Tensor], layout: Layout, dialect: ModuleType) -> None:
    """Takes the adapter of a folder into a model's weights.

    Args:
        folder: Where its two files are.
        tensors: Those of the model, by our names, changed in place; what the layout has and they have not is left out.
        layout: Where each tensor lies in the folder of the model that the adapter was trained beside.
        dialect: Of that folder.

    Raises:
        UntrustedError: Its weights are pickled.
        FileError: It is corrupt, of another kind, or not of this model.
    """
    settings = _settings(folder)
    wanted = {piece.name: (name, piece) for name, pieces in layout.items() for piece in pieces}
    halves: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, theirs in files.read_tensors(files.member(folder, _WEIGHTS)).items():
        found = re.fullmatch(re.escape(_BEGIN) + r"(.+?)\.lora_([AB])\.weight", name)
        plain = _known(f"{found[1]}.weight" if found else name.removeprefix(_BEGIN), wanted, dialect)
        if plain is None or not name.startswith(_BEGIN):
            unknown.append(name)
        elif found:
            halves.setdefault(plain, {})[found[2]] = theirs
        elif wanted[plain][0] in tensors:
            _replace(folder, wanted[plain][1], tensors[wanted[plain][0]], theirs)
    if unknown:
        raise FileError(
            f"{folder / _WEIGHTS} must hold an adapter of the model beside it, but {len(unknown)} of its tensors are "
            f"unknown to it ({', '.join(unknown[:3])}). Take the adapter that belongs to this model."
        )
    for plain, pair in halves.items():
        name, piece = wanted[plain]
        if name in tensors:
            _add(folder, settings, rows(piece, tensors[name]), pair)


def _settings(folder: Path) -> Mapping[str, Any]:
    settings, path = files.read_settings(files.member(folder, _CONFIG)), folder / _CONFIG
    if settings.get("peft_type") != "LORA":
        raise FileError(
            f"{path} must have peft_type LORA, but has {settings.get('peft_type')!r}: no other is built here."
        )
    others = [key for key in _NOT_BUILT if settings.get(key)] + ["bias"] * (settings.get("bias", "none") != "none")
    if others:
        raise FileError(f"{path} must describe plain LoRA, but sets {', '.join(others)}: that is not built here.")
    begun = settings.get("init_lora_weights")
    if begun not in _BESIDE_THE_MODEL:
        raise FileError(
            f"{path} must be of an adapter beside a model as it was, but init_lora_weights is {begun!r}, which changes "
            "the model's own weights. Merge it with peft, or convert it to plain LoRA there."
        )
    if not isinstance(settings.get("lora_alpha"), int | float):
        raise FileError(f"{path} must have a number lora_alpha, but it is {settings.get('lora_alpha')!r}.")
    if not (folder / _WEIGHTS).exists():
        if (folder / "adapter_model.bin").exists():
            raise UntrustedError(
                f"{folder} must hold {_WEIGHTS}, but holds adapter_model.bin, a pickle, which can run anything when "
                "opened. Ask for safetensors."
            )
        raise FileError(f"{folder} must hold {_WEIGHTS}, but does not. Check the path.")
    return settings


def _known(name: str, wanted: Iterable[str], dialect: ModuleType) -> str | None:
    """Returns the full name of one of their tensors, or None if there is no such."""
    return next((full for full in (name, dialect.PREFIX + name) if full in wanted), None)


def _add(folder: Path, settings: Mapping[str, Any], weight: Tensor, pair: Mapping[str, Tensor]) -> None:
    down, up = pair.get("A"), pair.get("B")
    if down is None or up is None or not (down.ndim == up.ndim == weight.ndim == 2):
        raise FileError(f"{folder / _WEIGHTS} must hold matrices A and B for each layer, but lacks one. Take another.")
    rank = down.shape[0]
    if up.shape != (weight.shape[0], rank) or down.shape[1] != weight.shape[1] or not rank:
        raise FileError(
            f"{folder / _WEIGHTS} must fit the model, but A {list(down.shape)} and B {list(up.shape)} stand beside "
            f"weights {list(weight.shape)}. Take the adapter that belongs to this model."
        )
    add(weight, down, up, settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _replace(folder: Path, piece: Piece, ours: Tensor, theirs: Tensor) -> None:
    mine, given = rows(piece, ours), theirs.T if piece.transposed else theirs
    if mine.shape != given.shape:
        raise FileError(
            f"{folder / _WEIGHTS} must fit the model, but {piece.name} is {list(theirs.shape)}. Take the adapter that "
            "belongs to this model."
        )
    mine.copy_(given)


def rows(piece: Piece, ours: Tensor) -> Tensor:
    """Returns the part of our tensor that a piece is; a view."""
    return ours if piece.rows is None else ours[slice(*piece.rows)]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _shortest(targets: Sequence[str], modules: Iterable[str]) -> list[str]:
    """Returns the shortest endings of names that fit the targets and no other module, as peft reads them."""
    others = set(modules) - set(targets)
    found: dict[str, None] = {}
    for target in targets:
        parts = target.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        found[next(e for e in endings if not any(o == e or o.endswith(f".{e}") for o in others))] = None
    return list(found)
