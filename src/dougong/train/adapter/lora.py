"""Low-rank additions to linear layers: y = W x + alpha / rank * B A x, of which A and B train (Hu et al. 2022, eq. 3).

The layers are those of the library peft; which layers get one, what is drawn and what trains is decided here. Knows
models as trees of modules; knows no recipe and no file.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from dougong.checkpoint.adapter import Adapter, add
from dougong.core.errors import MissingExtra, UsageError
from dougong.core.sentence import did_you_mean
from dougong.nn.init import draw_uniform
from dougong.train.adapter import LoraConfig

_NAME = "default"  # what peft calls the only adapter of a layer
_INSIDE = ".base_layer."  # what peft adds to the name of a layer's own parameters


def attach(model: nn.Module, config: LoraConfig, new: Sequence[str] = ()) -> nn.Module:
    """Gives linear layers their additions, in place, and freezes all else but what trains in full.

    Args:
        model: On any device, the meta device too; its own values stay.
        config: Says which layers, and what trains in full.
        new: Patterns of parameters that start anew: they train in full as well.

    Returns:
        The model. The additions are empty: `draw` fills them.

    Raises:
        UsageError: A pattern fits nothing.
        MissingExtra: The library is not installed.
    """
    names = [name for name, _ in model.named_parameters()]
    _require_hits("adapter.also", config.also, names)
    full = {name for name in names if _fits(name, (*config.also, *new))}
    chosen = [path for path in targeted(model, config.targets) if not {f"{path}.weight", f"{path}.bias"} & full]
    if not chosen:
        raise UsageError("adapter.targets must fit a layer that does not train in full, but fits none. Name others.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in full)
    for path, layer in zip(chosen, _empty_layers(model, chosen, config), strict=True):
        parent, _, last = path.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
    model.adapter = config  # type: ignore[assignment]
    return model


def targeted(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Returns the names of the linear layers that patterns fit.

    Raises:
        UsageError: A pattern fits none.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    _require_hits("adapter.targets", patterns, linear)
    return [name for name in linear if _fits(name, patterns)]


def draw(model: nn.Module, seed: int) -> None:
    """Fills the additions: B with 0, so that the model is what it was, and A as a linear layer's weight usually is.

    | parameter | value |
    |---|---|
    | A | uniform in ± 1 / sqrt(inputs), a function of seed and name |
    | B | 0 |
    """
    for path, layer in layers(model).items():
        down, up = _halves(layer)
        draw_uniform(down, down.shape[1] ** -0.5, seed, f"{path}.lora_A")
        nn.init.zeros_(up)


def layers(model: nn.Module) -> dict[str, Any]:
    """Returns the layers that have an addition, by name."""
    if not hasattr(model, "adapter"):
        return {}
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def unchanging(model: nn.Module) -> frozenset[str]:
    """Returns the names of the weights that an adapter leaves as they are; none where there is no adapter."""
    if not hasattr(model, "adapter"):
        return frozenset()
    return frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)


def fingerprint(model: nn.Module) -> str:
    """Returns a hash of the weights that stay: that of what an adapter was trained beside."""
    staying, digest = unchanging(model), hashlib.sha256()
    for name, tensor in model.named_parameters():
        if name in staying:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            raw: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            digest.update(raw)
    return digest.hexdigest()


def plain(model: nn.Module, merged: bool) -> tuple[nn.Module, Adapter | None]:
    """Returns a model without its additions, sharing its memory, and what they are; one without is returned as it is.

    Args:
        model: Stays as it is.
        merged: Whether the weights take the additions in.
    """
    found = layers(model)
    if not found:
        return model, None
    config: LoraConfig = model.adapter  # type: ignore[assignment]
    trained = [n for n, p in model.named_parameters() if p.requires_grad and not _is_half(n)]
    halves = {path: _halves(layer) for path, layer in found.items()}
    adapter = Adapter(config.rank, config.alpha, halves, trained)
    tensors = {name.replace(_INSIDE, "."): tensor for name, tensor in model.state_dict().items() if not _is_half(name)}
    if merged:
        for path, (down, up) in halves.items():
            tensors[f"{path}.weight"] = add(tensors[f"{path}.weight"].clone(), down, up, adapter.scale)
    with torch.device("meta"):
        bare = model.config.build()  # type: ignore[operator, union-attr]
    bare.load_state_dict(tensors, assign=True)
    return bare.train(model.training), adapter


@contextmanager
def all_used(model: nn.Module) -> Iterator[None]:
    """Within this context a loss is computed; at its end, each addition must have been.

    Raises:
        UsageError: One was not: another part of the model reads the layer's weight itself.
    """
    silent = dict(layers(model))
    hooks = [layer.register_forward_hook(functools.partial(_heard, silent, path)) for path, layer in silent.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if silent:
        raise UsageError(
            f"adapter.targets must name layers that are computed as layers, but the weight of {next(iter(silent))} is "
            "read by another part. Leave it out, or train it in full: adapter.also."
        )


def _heard(silent: dict[str, Any], path: str, *_: Any) -> None:
    silent.pop(path, None)


def _empty_layers(model: nn.Module, paths: Sequence[str], config: LoraConfig) -> list[Any]:
    """Returns the library's layer for each linear layer of the model, with the layer itself inside.

    The library makes them around stand-ins on the meta device: it would move tensors of shapes alone, and draw from
    the global generator.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("training an adapter", "lora") from error
    inside: Mapping[str, Any] = {path: model.get_submodule(path) for path in paths}
    with _disable_current_modes(), torch.device("meta"):
        stand_ins = nn.ModuleList(
            nn.Linear(layer.in_features, layer.out_features, layer.bias is not None) for layer in inside.values()
        )
        alpha: Any = config.alpha  # a factor, whole or not
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=alpha,
            target_modules=[str(number) for number in range(len(stand_ins))],
            init_lora_weights=False,
        )
        peft.inject_adapter_in_model(settings, stand_ins, _NAME)
    for found, layer in zip(stand_ins, inside.values(), strict=True):
        wrapped: Any = found
        wrapped.base_layer = layer
        wrapped.cast_input_dtype_enabled = False  # autocast does what is needed, without a copy of the input
        for half in (wrapped.lora_A[_NAME], wrapped.lora_B[_NAME]):
            half.weight = nn.Parameter(layer.weight.new_empty(half.weight.shape))
    return list(stand_ins)


def _halves(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight


def _is_half(name: str) -> bool:
    return name.endswith((f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _require_hits(option: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    for number, pattern in enumerate(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            first = f" The first is {names[0]}." if names else " It has none."
            near = did_you_mean(pattern, names) or first
            what = "a linear layer of the model" if option.endswith("targets") else "a parameter of the model"
            raise UsageError(f"{option}[{number}] must fit {what}, but {pattern!r} fits none.{near}")
