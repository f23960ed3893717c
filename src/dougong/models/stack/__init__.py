"""A model composed in the recipe: a list of stages, nested and repeated at will, checked like a program.

Here are the config and the check, which need no torch, so that a composition that does not fit is refused in less time
than torch takes to import. The stages are in `layers.py`, `mixing.py`, `nesting.py` and `heads.py`, the types that flow
between them in `types.py`, the network in `network.py`. Knows no task and no data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from dougong.core.config import Config, Fault, Form, Keyed
from dougong.models.stack import heads, layers, mixing, nesting
from dougong.models.stack.sizes import SMALL as SMALL
from dougong.models.stack.sizes import VARIANTS as VARIANTS
from dougong.models.stack.stage import INPUT, Check, Declared, Stages
from dougong.models.stack.types import Signal

if TYPE_CHECKING:
    from torch import nn

STAGES = (heads, layers, mixing, nesting)  # importing them enters their stages under their words


class Tokens(Form):
    """A sequence of token numbers."""

    word: ClassVar[str] = "tokens"


class Features(Form):
    """A sequence of vectors, such as a spectrogram."""

    word: ClassVar[str] = "features"
    main: ClassVar[str | None] = "channels"
    channels: PositiveInt
    """Width of each vector."""


class Image(Form):
    """An image."""

    word: ClassVar[str] = "image"
    channels: PositiveInt = 3
    """Number of colours."""
    height: PositiveInt
    """Height in pixels."""
    width: PositiveInt
    """Width in pixels."""


INPUTS: dict[str, type[Form]] = {kind.word: kind for kind in (Tokens, Features, Image)}


class StackConfig(Config):
    """A model composed of stages, each of which takes what the one before gives."""

    name: Literal["stack"] = "stack"
    """Which model family."""
    input: Annotated[Form, Keyed("an input", lambda: INPUTS)] = Tokens()
    """What it takes: `tokens`, `{features: 80}` or `{image: {channels: 3, height: 32, width: 32}}`."""
    vocab_size: PositiveInt | None = None
    """Number of different tokens; absent: that of the data's tokenizer."""
    max_seq_len: PositiveInt | None = None
    """Longest sequence, in tokens or vectors, that the model reads at once."""
    num_classes: PositiveInt | None = None
    """Number of classes for a head that says none; absent: that of the data."""
    stages: Annotated[Stages, Field(min_length=1)]
    """The stages, from the first to the head."""

    def faults(self) -> Iterator[Fault]:
        """Yields every stage that does not fit what is before it, and settings without effect."""
        check, last = _checked(self)
        yield from check.faults
        if last.element != "logits" and not check.headed:
            path = f"stages[{len(self.stages) - 1}]"
            word = self.stages[-1].given_name or self.stages[-1].word
            text = "must be a head (classify, tag, next_token, ctc or regress), as it is the last stage, but gives"
            yield Fault(path, f"({word}) {text} {last}. {_HEADS[last.form]}")
        if self.num_classes is not None and not check.classes_wanted:
            yield Fault("num_classes", "has no effect, as no head takes it. Remove it.")
        if self.vocab_size is not None and not isinstance(self.input, Tokens):
            yield Fault("vocab_size", f"has no effect while input is {self.input.word}. Remove it.")
        if self.max_seq_len is not None and isinstance(self.input, Image):
            yield Fault("max_seq_len", "has no effect while input is image. Remove it.")

    def takes(self, name: str) -> bool:
        """Tells whether a number that the data decides has an effect here, so that it may be set."""
        if name == "num_classes":
            return _checked(self)[0].classes_wanted
        if name == "vocab_size":
            return isinstance(self.input, Tokens)
        return name == "max_seq_len" and not isinstance(self.input, Image)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width in pixels of the images it takes; None where it takes none."""
        given = self.input
        return (given.channels, given.height, given.width) if isinstance(given, Image) else None

    @property
    def num_outputs(self) -> int | None:
        """How many numbers the head gives for each place, if that is known."""
        return _checked(self)[1].channel

    def build(self) -> nn.Module:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The vocabulary's size or the number of classes is not known.
        """
        return importlib.import_module(f"{__name__}.network").Stack(self)


_HEADS = {
    "tokens": "Append embed: 128, pool: mean and classify.",
    "sequence": "Append pool: mean and classify; or tag, next_token or ctc.",
    "image": "Append pool: mean and classify.",
    "vector": "Append classify or regress.",
}


def declared(config: StackConfig) -> list[Declared]:
    """Returns what each stage gives, outer stages before those inside them, and of a repeated list its first time."""
    return _checked(config)[0].declared


def begin(config: StackConfig) -> tuple[Check, Signal]:
    """Returns a walk that has not begun, and the type of the model's input."""
    check = Check(config.max_seq_len, config.vocab_size, config.num_classes)
    given = config.input
    if isinstance(given, Image):
        return check, Signal("image", (given.channels, given.height, given.width), INPUT)
    if isinstance(given, Features):
        return check, Signal("sequence", (config.max_seq_len, given.channels), INPUT)
    return check, Signal("tokens", (config.max_seq_len,), INPUT, "token")


def _checked(config: StackConfig) -> tuple[Check, Signal]:
    """Returns the walk over a model, and what its last stage gives."""
    check, given = begin(config)
    return check, check.walk("stages", config.stages, given)


PART = StackConfig


def __getattr__(name: str) -> Any:
    if name not in ("Stack", "example"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.network"), name)
