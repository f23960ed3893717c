"""How each stage that has no stages inside it is made of the blocks of `nn/`, run, and filled with initial values.

Knows blocks and the stages' options; does not know in what order stages stand, nor where lengths come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dougong.models.stack import layers, mixing
from dougong.models.stack.stage import Stage
from dougong.models.stack.types import Signal
from dougong.nn.attention import mask_for
from dougong.nn.convolution import Convolution1d, Convolution2d, Patches, flatten_space
from dougong.nn.dropout import dropout
from dougong.nn.feedforward import FeedForward, GatedFeedForward, activate
from dougong.nn.init import Embedding, Linear
from dougong.nn.lengths import Window
from dougong.nn.mask import lengths_of, mask_of
from dougong.nn.mixture import MixtureOfExperts
from dougong.nn.norm import BatchNorm, BatchNorm2d, GroupNorm, GroupNorm2d, LayerNorm, RMSNorm
from dougong.nn.pooling import mean_of_space, pool_space, pool_time, pool_windows
from dougong.nn.position import frequencies, rotary, sinusoidal
from dougong.nn.recurrence import Recurrence
from dougong.nn.scan import Kind
from dougong.nn.transformer import Attention, Block, BlockShape


class Seen(NamedTuple):
    """What a stage sees beside its input: which places hold an item (None: all), and the rows' noise (None: none)."""

    mask: Tensor | None
    noise: Tensor | None


@dataclass(frozen=True)
class Leaf:
    """How one kind of stage is made and run.

    Attributes:
        make: Returns its module for its options, what it is given and how many tokens there are.
        run: Returns what it gives, from its module, its options, its input, and what it sees.
    """

    make: Callable[[Any, Signal, int], nn.Module]
    run: Callable[[Any, Any, Tensor, Seen], Tensor]


def _width(given: Signal) -> int:
    """Returns the channels of a signal, which are known once a model is built."""
    assert given.channel is not None
    return given.channel


def _nothing(stage: Stage, given: Signal, vocab_size: int) -> nn.Module:
    return nn.Identity()


def _channels_last(function: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Applies what works on the last axis to the channels, wherever they are."""
    return function(hidden.movedim(1, -1)).movedim(-1, 1) if hidden.ndim == 4 else function(hidden)


def _embedding(stage: layers.Embed, given: Signal, vocab_size: int) -> nn.Module:
    return Embedding(vocab_size, stage.dim)


def _position(stage: layers.Position, given: Signal, vocab_size: int) -> nn.Module:
    return nn.Identity() if stage.kind == "sinusoidal" else Embedding(given.time or 1, _width(given))


def _add_position(module: Any, stage: layers.Position, hidden: Tensor, seen: Seen) -> Tensor:
    places = torch.arange(hidden.shape[1], device=hidden.device)
    if stage.kind == "learned":
        return hidden + module(places)
    return hidden + sinusoidal(places, hidden.shape[2], hidden.dtype)


def _patches(stage: layers.Patch, given: Signal, vocab_size: int) -> nn.Module:
    return Patches(_width(given), stage.dim, stage.size, stage.bias)


def _flatten(module: Any, stage: layers.Flatten, hidden: Tensor, seen: Seen) -> Tensor:
    return flatten_space(hidden) if stage.into == "time" else hidden.flatten(1)


def _norm(stage: layers.Norm, given: Signal, vocab_size: int) -> nn.Module:
    width, image = _width(given), given.form == "image"
    if stage.kind == "batch":
        return (BatchNorm2d if image else BatchNorm)(width, stage.eps, stage.momentum)
    if stage.kind == "group":
        return (GroupNorm2d if image else GroupNorm)(stage.num_groups, width, stage.eps)
    return RMSNorm(width, stage.eps) if stage.kind == "rms" else LayerNorm(width, stage.eps, bias=True)


def _normalise(module: Any, stage: layers.Norm, hidden: Tensor, seen: Seen) -> Tensor:
    if stage.kind in ("layer", "rms"):
        return _channels_last(module, hidden)
    if hidden.ndim == 4:
        return module(hidden)
    if hidden.ndim == 2:
        return module(hidden[:, None])[:, 0]
    return module(hidden, seen.mask)


def _convolution(stage: layers.Conv, given: Signal, vocab_size: int) -> nn.Module:
    width = _width(given)
    groups = width if stage.depthwise else stage.groups
    kind = Convolution2d if given.form == "image" else Convolution1d
    return kind(width, stage.dim or width, stage.window, groups, stage.bias)


def _convolve(module: Any, stage: layers.Conv, hidden: Tensor, seen: Seen) -> Tensor:
    return module(hidden) if hidden.ndim == 4 else module(hidden, seen.mask)


def _pool(module: Any, stage: layers.Pool, hidden: Tensor, seen: Seen) -> Tensor:
    if hidden.ndim == 4:
        if stage.size is not None:
            return pool_space(stage.kind, hidden, stage.window)
        return mean_of_space(hidden) if stage.kind == "mean" else hidden.amax(dim=(2, 3))
    if stage.size is not None:
        return pool_windows(stage.kind, hidden, stage.window, seen.mask)
    return pool_time(stage.kind, hidden, seen.mask)


def _subsampling(stage: layers.Subsample, given: Signal, vocab_size: int) -> nn.Module:
    widths = [_width(given)] + [stage.dim or _width(given)] * len(stage.windows)
    pairs = zip(widths, widths[1:], stage.windows, strict=False)
    return nn.ModuleList(Convolution1d(one, other, window, bias=stage.bias) for one, other, window in pairs)


def _subsample(module: Any, stage: layers.Subsample, hidden: Tensor, seen: Seen) -> Tensor:
    mask = seen.mask
    for convolution in module:
        hidden = activate("relu", convolution(hidden, mask))
        mask = shortened(mask, convolution.window, hidden.shape[1])
    return hidden


def shortened(mask: Tensor | None, window: Window, time: int) -> Tensor | None:
    """Returns the mask of what a window leaves, of which there are `time` places."""
    return None if mask is None else mask_of(window.length(lengths_of(mask)), time)


def _recurrence(stage: mixing.Recurrent, given: Signal, vocab_size: int) -> nn.Module:
    kind: Kind = stage.word  # type: ignore[assignment]
    return Recurrence(kind, _width(given), stage.dim, stage.num_layers, stage.bidirectional, stage.bias)


def _shape(stage: mixing.Heads, given: Signal) -> BlockShape:
    """Returns the shape of attention, and of the block around it where there is one."""
    names = ("num_heads", "num_kv_heads", "head_dim", "qk_norm", "bias", "causal", "attention_dropout")
    options = {name: getattr(stage, name) for name in names}
    if isinstance(stage, mixing.Transformer):
        of_block = ("hidden_dim", "activation", "gated", "norm_eps", "norm_first", "dropout")
        options |= {name: getattr(stage, name) for name in of_block} | {"norm": f"{stage.norm}norm"}
    return BlockShape(dim=_width(given), **options)


def _attend(module: Any, stage: mixing.Heads, hidden: Tensor, seen: Seen) -> Tensor:
    rotation = None
    if stage.rotary:
        attention = module.attention if isinstance(stage, mixing.Transformer) else module
        turning = frequencies(attention.head_dim, stage.rope_theta, None, hidden.device)
        rotation = rotary(torch.arange(hidden.shape[1], device=hidden.device), turning, hidden.dtype)
    mask = mask_for(seen.mask, hidden, stage.causal, stage.band)
    return module(hidden, rotation, mask, None, seen.noise)


def _feedforward(stage: mixing.FeedForward, given: Signal, vocab_size: int) -> nn.Module:
    width = _width(given)
    kind = GatedFeedForward if stage.gated else FeedForward
    return kind(width, stage.hidden_dim or 4 * width, stage.activation, stage.bias)


def _mixture(stage: mixing.Mixture, given: Signal, vocab_size: int) -> nn.Module:
    width = _width(given)
    hidden_dim = stage.hidden_dim or 4 * width
    return MixtureOfExperts(width, hidden_dim, stage.num_experts, stage.chosen, stage.activation, stage.gated)


def _alone(module: Any, stage: Stage, hidden: Tensor, seen: Seen) -> Tensor:
    """Runs what needs its input alone, and works on the last axis."""
    return _channels_last(module, hidden)


LEAVES: dict[type[Stage], Leaf] = {
    layers.Embed: Leaf(_embedding, lambda module, stage, hidden, seen: module(hidden)),
    layers.Position: Leaf(_position, _add_position),
    layers.Patch: Leaf(_patches, lambda module, stage, hidden, seen: module(hidden)),
    layers.Flatten: Leaf(_nothing, _flatten),
    layers.Project: Leaf(lambda stage, given, _: Linear(_width(given), stage.dim, bias=stage.bias), _alone),
    layers.Norm: Leaf(_norm, _normalise),
    layers.Activate: Leaf(_nothing, lambda module, stage, hidden, seen: activate(stage.kind, hidden)),
    layers.Dropout: Leaf(
        _nothing, lambda module, stage, hidden, seen: dropout(hidden, stage.probability, seen.noise, 0)
    ),
    layers.Conv: Leaf(_convolution, _convolve),
    layers.Pool: Leaf(_nothing, _pool),
    layers.Last: Leaf(_nothing, lambda module, stage, hidden, seen: pool_time("last", hidden, seen.mask)),
    layers.Subsample: Leaf(_subsampling, _subsample),
    mixing.Rnn: Leaf(_recurrence, lambda module, stage, hidden, seen: module(hidden, seen.mask)),
    mixing.Gru: Leaf(_recurrence, lambda module, stage, hidden, seen: module(hidden, seen.mask)),
    mixing.Lstm: Leaf(_recurrence, lambda module, stage, hidden, seen: module(hidden, seen.mask)),
    mixing.Attention: Leaf(lambda stage, given, _: Attention(_shape(stage, given)), _attend),
    mixing.Transformer: Leaf(lambda stage, given, _: Block(_shape(stage, given)), _attend),
    mixing.FeedForward: Leaf(_feedforward, _alone),
    mixing.Mixture: Leaf(_mixture, _alone),
}


def bound_of(module: nn.Module) -> float | None:
    """Returns the bound of the uniform values that a module's weights begin with, or None where they are normal."""
    return module.bound if isinstance(module, Recurrence) else None


def std_of(name: str, parameter: Tensor, num_blocks: int) -> float:
    """Returns the standard deviation that a weight begins with; `Stack.init_weights` has the table.

    Args:
        name: Its name in the model.
        parameter: The weight.
        num_blocks: How many Transformer blocks the model has.
    """
    if parameter.ndim >= 3 and "_mixture." not in name:  # convolutions
        return math.sqrt(2.0 / math.prod(parameter.shape[1:]))
    std = 1.0 / math.sqrt(parameter.shape[-1])
    last = name.endswith(("attention.output.weight", "feedforward.down.weight"))
    return std / math.sqrt(2 * num_blocks) if last and "_transformer." in name else std
