"""What a picture says of a module, a function and a tensor, in words.

Knows the layers of torch and of `nn/` by their classes and any other module by what it holds: its plain attributes and
its layers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from dougong.nn.convolution import Convolution1d, Convolution2d, Patches
from dougong.nn.mixture import MixtureOfExperts
from dougong.nn.recurrence import Recurrence
from dougong.plan.diagram.axes import ADAPTIVE, WINDOWS, times, window_words
from dougong.plan.diagram.trace import JOINS, NAMED, Event, Value

MANY = 5  # plain attributes, or layers, that a box names at most


def shape_words(value: Value) -> str:
    """Returns a shape in words: `batch 64 · time 128 · channel 256`; a batch of one goes without saying."""
    axes = list(zip(value.axes, value.shape, strict=True))
    if len(axes) > 1 and axes[0] == ("batch", 1):
        del axes[0]
    if not axes:
        return "one number"
    if not any(axis for axis, _ in axes):
        return " × ".join(f"{size:,}" for _, size in axes)
    return " · ".join(f"{axis} {size:,}" if axis else f"{size:,}" for axis, size in axes)


def spanned(shapes: Sequence[str]) -> str:
    """Returns several shapes in words as one: `channel 256 · height 64 to 8`, from the first to the last of them."""
    between = " × " if " × " in shapes[0] else " · "
    first, last = shapes[0].split(between), shapes[-1].split(between)
    if len(first) != len(last):
        return shapes[0]
    pairs = zip(first, last, strict=True)
    return between.join(one if one == other else f"{one} to {other.split()[-1]}" for one, other in pairs)


def short(number: int | float, letters: str = " KMBT") -> str:
    """Returns a count as people say it: 1,234 or 57.2 K or 1.81 B; with other letters 8.18 G."""
    if number < 1e4:
        return f"{number:,.0f}"
    power = 1
    while power < len(letters) - 1 and number >= 999.5 * 1000**power:
        power += 1
    return f"{number / 1000**power:.3g} {letters[power]}"


def kind_of(event: Event) -> str:
    """Returns the sort of a block, after which it is coloured."""
    module = event.module
    if module is None:
        return {"linear": "linear", "embedding": "embedding"}.get(event.name, "pool" if _pools(event) else "activation")
    for kind, classes in KINDS.items():
        if isinstance(module, classes):
            return kind
    if type(module).__module__ == "torch.nn.modules.activation":
        return "activation"
    name = f"{type(module).__name__} {getattr(module, 'kind', '')}".lower()
    return next((kind for word, kind in WORDS.items() if word in name), "other")


def _pools(event: Event) -> bool:
    return event.name in WINDOWS or event.name in ADAPTIVE or event.name in ("mean", "sum", "amax")


KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "convolution": (nn.modules.conv._ConvNd,),
    "recurrence": (nn.RNNBase, nn.RNNCellBase),
    "attention": (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
    "norm": (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LocalResponseNorm),
    "linear": (nn.Linear, nn.Bilinear),
    "pool": (
        nn.modules.pooling._MaxPoolNd,
        nn.modules.pooling._AvgPoolNd,
        nn.modules.pooling._AdaptiveAvgPoolNd,
        nn.modules.pooling._AdaptiveMaxPoolNd,
        nn.Upsample,
    ),
}
WORDS = {
    "attention": "attention",
    "norm": "norm",
    "embed": "embedding",
    "conv": "convolution",
    "patch": "convolution",
    "lstm": "recurrence",
    "gru": "recurrence",
    "rnn": "recurrence",
    "recurren": "recurrence",
    "pool": "pool",
    "feedforward": "linear",
    "mixture": "linear",
    "linear": "linear",
    "head": "linear",
}


def is_light(event: Event) -> bool:
    """Tells whether a block is a norm or an activation, which a picture may write into the box before it."""
    if event.inputs and event.outputs and event.inputs[0].shape != event.outputs[0].shape:
        return False  # as a gated linear unit
    if event.module is None:
        return event.name in NAMED and kind_of(event) == "activation"
    return kind_of(event) in ("norm", "activation")


def title_of(event: Event) -> str:
    """Returns what a block is: its class, or what the function is called."""
    if event.module is not None:
        kind = getattr(event.module, "kind", "") if isinstance(event.module, Recurrence) else ""
        return kind.upper() or type(event.module).__name__
    if event.details.startswith("over "):
        return f"{NAMED[event.name]} {event.details}"
    return JOINS.get(event.name) or NAMED.get(event.name) or {"linear": "Linear"}.get(event.name, event.name.strip("_"))


def details_of(module: nn.Module) -> str:
    """Returns the sizes that make a block what it is, in one line."""
    for kinds, details in DETAILS.items():
        if isinstance(module, kinds):
            return details(module)
    if kind_of(Event(None, "", module)) == "pool":
        return ", ".join(_window(module))
    if kind_of(Event(None, "", module)) == "norm":
        groups = getattr(module, "num_groups", None) or getattr(module, "groups", None)
        return f"{groups} groups" if groups else ""
    return ", ".join(_plain(module))


def _convolution(module: Any) -> str:
    window, into = module.window, module.weight.shape[1] * module.groups
    words = window_words(module.weight.ndim - 2, window.kernel, window.stride, window.dilation, module.groups)
    causal = ["causal"] if window.padding == "causal" else []
    return ", ".join([f"{into:,} → {module.weight.shape[0]:,}", *words, *causal])


def _recurrence(before: int, after: int, layers: int, both: bool) -> str:
    more = [f"{layers} layers"] * (layers > 1) + ["both directions"] * both
    return ", ".join([f"{before:,} → {after:,}", *more])


def _mixture(module: Any) -> str:
    experts, inner, width = module.up.shape
    gated = ", gated" if module.gate is not None else ""
    return f"{module.chosen} of {experts} experts, {width:,} → {inner:,} → {width:,}{gated}"


DETAILS: dict[tuple[type[nn.Module], ...], Callable[[Any], str]] = {
    (nn.Linear,): lambda m: f"{m.in_features:,} → {m.out_features:,}",
    (nn.Embedding,): lambda m: f"{m.num_embeddings:,} × {m.embedding_dim:,}",
    (nn.modules.conv._ConvNd,): lambda m: ", ".join([f"{m.in_channels:,} → {m.out_channels:,}", *_window(m)]),
    (Convolution1d, Convolution2d): _convolution,
    (Patches,): lambda m: f"{times(m.size, 2)} pixels → {m.weight.shape[0]:,}",
    (Recurrence,): lambda m: _recurrence(m.weight_ih_l0.shape[1], m.out_dim, m.num_layers, len(m.directions) > 1),
    (nn.RNNBase,): lambda m: _recurrence(m.input_size, m.hidden_size, m.num_layers, m.bidirectional),
    (MixtureOfExperts,): _mixture,
    (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd): lambda m: (
        f"to {times(m.output_size, _dims(m))}"
    ),
}


def _window(module: nn.Module) -> list[str]:
    """Returns what a moving window is like, where it is not the usual."""
    names = {"kernel_size": 1, "stride": 1, "dilation": 1, "groups": 1}
    found = [getattr(module, name, plain) for name, plain in names.items()]
    return list(window_words(_dims(module), *found)) if hasattr(module, "kernel_size") else []


def _dims(module: nn.Module) -> int:
    """Returns over how many axes a window of torch's moves."""
    return int(type(module).__name__[-2]) if type(module).__name__.endswith(("1d", "2d", "3d")) else 1


def _plain(module: nn.Module) -> list[str]:
    """Returns the numbers and words that a module holds in the open, as `heads 12`."""
    found = []
    for name, value in vars(module).items():
        hidden = name.startswith("_") or name in ("training", "forward", "eps")
        if hidden or not isinstance(value, int | float | str) or value in (False, 0, "", True):
            continue
        shown = f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
        found.append(f"{name.replace('_', ' ')} {shown}")
    return found[:MANY]


def layers_of(module: nn.Module) -> list[str]:
    """Returns the layers inside a block that is shown from outside, each with its sizes: `up 768 → 3,072`."""
    if isinstance(module, MixtureOfExperts):
        return []  # all is said
    found = []
    for path, inner in module.named_modules():
        leaf = path and not any(True for _ in inner.children()) and any(True for _ in inner.parameters())
        if leaf and details_of(inner):
            found.append(f"{path} {details_of(inner)}")
    more = [f"and {len(found) - MANY} more layers"] if len(found) > MANY else []
    return found[:MANY] + more


def plainly(text: str) -> str:
    """Returns a text without what XML cannot hold, and without signs that cannot be seen or turn the direction."""
    return "".join(
        " " if sign in "\t\n" else sign if unicodedata.category(sign)[0] != "C" else "\ufffd" for sign in text
    )
