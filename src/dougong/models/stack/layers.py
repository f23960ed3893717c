"""Stages that change what stands at a place, or what a place is: their options, and the types they take and give.

Embedding, position, patches, projection, normalisation, activation, dropout, convolution, pooling, subsampling. Knows
types; knows no torch (the network is in `network.py`).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dougong.models.stack.stage import Here, Stage
from dougong.models.stack.types import Signal
from dougong.nn.lengths import Window
from dougong.nn.named import Activation

NormKind = Literal["layer", "rms", "batch", "group"]


class Embed(Stage):
    """A learned vector for each token."""

    word: ClassVar[str] = "embed"
    main: ClassVar[str | None] = "dim"
    dim: PositiveInt
    """Width of the vectors."""
    std: PositiveFloat | None = None
    """Standard deviation of the initial vectors; absent: 0.02 if a head is tied to them, else 1."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns `batch time channel`."""
        given = here.expect(given, "tokens")
        if not here.check.passes:
            here.check.embeddings.append((here.label, self.dim))
        return given.as_form("sequence", given.time, self.dim).with_channel(self.dim)


class Position(Stage):
    """Tells the stages after it where each place is: a vector is added to it."""

    word: ClassVar[str] = "position"
    main: ClassVar[str | None] = "kind"
    kind: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Fixed sines and cosines (Vaswani et al. 2017, section 3.5), or a learned vector for each position."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what it is given."""
        given = here.expect(given, "sequence")
        if self.kind == "learned" and given.time is None:
            here.complain("must know how long the input may be, but model.max_seq_len is absent. Set it.")
        if self.kind == "sinusoidal" and (given.channel or 0) % 2:
            here.complain(
                f"must take an even number of channels, but {given.source} gives {given.channel}. "
                f"Insert project: {(given.channel or 0) + 1}, or set position: learned."
            )
        return given


class Patch(Stage):
    """Cuts an image into square patches and projects each to a vector (Dosovitskiy et al. 2021, eq. 1)."""

    word: ClassVar[str] = "patch"
    size: PositiveInt
    """Height and width of a patch, in pixels (or in places of the stage before)."""
    dim: PositiveInt
    """Width of the vectors."""
    bias: bool = True
    """Whether the projection has a bias."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns one place for each patch, row by row."""
        given = here.expect(given, "image")
        height, width = given.size("height"), given.size("width")
        of = f"that {given.source} gives"
        whole = here.divides("size", self.size, height, f"places of height {of}")
        whole = (width == height or here.divides("size", self.size, width, f"places of width {of}")) and whole
        count = None if height is None or width is None else (height // self.size) * (width // self.size)
        return given.as_form("sequence", count if whole else None, self.dim).sees_future(here.label)


class Flatten(Stage):
    """Turns an image into a sequence, place by place and row by row, or into one long vector."""

    word: ClassVar[str] = "flatten"
    main: ClassVar[str | None] = "into"
    into: Literal["time", "channel"] = "time"
    """Which axis takes up height and width."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns `batch time channel`, or `batch channel`."""
        given = here.expect(given, "image")
        sizes = [given.size("height"), given.size("width")]
        if self.into == "time":
            return given.as_form("sequence", _product(sizes), given.channel).sees_future(here.label)
        return given.as_form("vector", _product([given.channel, *sizes]))


class Project(Stage):
    """A linear map of the channels at each place."""

    word: ClassVar[str] = "project"
    main: ClassVar[str | None] = "dim"
    dim: PositiveInt
    """Width of what comes out."""
    bias: bool = True
    """Whether a learned vector is added."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the same axes with `dim` channels."""
        return here.expect(given, "sequence", "image", "vector").with_channel(self.dim)


class Norm(Stage):
    """Normalisation."""

    word: ClassVar[str] = "norm"
    main: ClassVar[str | None] = "kind"
    kind: NormKind = "layer"
    """Of each place (layer, rms), of each channel over the batch, or of groups of channels over all of a row."""
    eps: PositiveFloat = 1e-5
    """Added to the variance (or mean square) that is divided by."""
    num_groups: PositiveInt = 32
    """Number of groups, for `group`."""
    momentum: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share of each batch in the running mean and variance, for `batch`."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what it is given."""
        given = here.expect(given, "sequence", "image", "vector")
        if self.kind != "group":
            here.idle(f"while kind is {self.kind}", "num_groups")
        if self.kind != "batch":
            here.idle(f"while kind is {self.kind}", "momentum")
        if self.kind == "group":
            given = here.expect(given, "image", "sequence")
            here.divides("num_groups", self.num_groups, given.channel, f"channels that {given.source} gives")
        return given.sees_future(here.label) if self.kind in ("batch", "group") else given


class Activate(Stage):
    """A non-linearity at each place."""

    word: ClassVar[str] = "activate"
    main: ClassVar[str | None] = "kind"
    kind: Activation = "relu"
    """Which one."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what it is given."""
        return here.expect(given, "sequence", "image", "vector")


class Dropout(Stage):
    """Sets elements to zero while training (Srivastava et al. 2014)."""

    word: ClassVar[str] = "dropout"
    main: ClassVar[str | None] = "probability"
    probability: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Probability of dropping an element."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what it is given."""
        return here.expect(given, "sequence", "image", "vector")


class Conv(Stage):
    """A convolution over time, or over the height and width of images."""

    word: ClassVar[str] = "conv"
    main: ClassVar[str | None] = "dim"
    dim: PositiveInt | None = None
    """Number of channels that come out; absent: as many as go in."""
    kernel: PositiveInt = 3
    """How many places each output sees; over images, in height and in width."""
    stride: PositiveInt = 1
    """How far apart the outputs are, in places."""
    dilation: PositiveInt = 1
    """How far apart the places are that an output sees."""
    padding: Literal["centred", "none"] = "centred"
    """Whether zeros stand around the ends, or only whole windows count."""
    causal: bool = False
    """Whether each output sees only its own place and earlier ones."""
    groups: PositiveInt = 1
    """Number of groups of channels that are mixed apart."""
    depthwise: bool = False
    """Whether each channel is a group of its own."""
    bias: bool = True
    """Whether a learned vector is added."""

    @property
    def window(self) -> Window:
        """Which places each output sees."""
        padding = "causal" if self.causal else self.padding
        return Window(self.kernel, self.stride, self.dilation, padding)

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the same axes, shorter by the stride, with `dim` channels."""
        given = here.expect(given, "sequence", "image")
        if self.causal and given.form == "image":
            here.complain_of("causal", f"must be false over images, but {given.source} gives {given}. Remove it.")
            return given.with_channel(self.dim or given.channel or 1)
        if self.causal:
            here.idle("while causal, which pads before the first place alone", "padding")
        if self.kernel == 1:
            here.idle("while kernel is 1", "dilation", "causal")
        if self.depthwise:
            here.idle("while depthwise", "groups")
        self._check_groups(given, here)
        slid = here.slide(given, self.window)
        return slid if self.dim is None else slid.with_channel(self.dim)

    def _check_groups(self, given: Signal, here: Here) -> None:
        if not self.depthwise:
            if here.divides("groups", self.groups, given.channel, f"channels that {given.source} gives"):
                here.divides("groups", self.groups, self.dim, "channels of dim")
        elif given.channel and (self.dim or given.channel) % given.channel:
            here.complain_of(
                "dim",
                f"must be a multiple of the {given.channel} channels that {given.source} gives, as it is depthwise, "
                f"but is {self.dim}. Leave it out, and add project: {self.dim}.",
            )


class Pool(Stage):
    """The mean or maximum over all of time or space, or over windows."""

    word: ClassVar[str] = "pool"
    main: ClassVar[str | None] = "kind"
    kind: Literal["mean", "max"] = "mean"
    """Which one."""
    size: PositiveInt | None = None
    """How many places a window has; absent: all, and the axis is gone."""
    stride: PositiveInt | None = None
    """How far apart the windows are, in places; absent: size."""
    padding: Literal["centred", "none"] = "none"
    """Whether windows reach over the ends (where nothing is counted), or only whole windows count."""

    @property
    def window(self) -> Window:
        """Which places each output sees, where it has a size."""
        return Window(self.size or 1, self.stride or self.size or 1, 1, self.padding)

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns `batch channel`, or the same axes, shorter by the stride."""
        given = here.expect(given, "sequence", "image")
        if self.size is not None:
            return here.slide(given, self.window)
        here.idle("while size is absent", "stride", "padding")
        return given.as_form("vector", given.channel)


class Last(Stage):
    """What stands at the last place of each row: what a causal stage knows once it has read all of it."""

    word: ClassVar[str] = "last"

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns `batch channel`."""
        given = here.expect(given, "sequence")
        return given.as_form("vector", given.channel)


class Subsample(Stage):
    """Shortens time by strided convolutions of kernel 3, each followed by a ReLU, as models of speech begin."""

    word: ClassVar[str] = "subsample"
    main: ClassVar[str | None] = "factor"
    factor: Literal[2, 4, 8] = 4
    """By how much; each convolution halves time."""
    dim: PositiveInt | None = None
    """Number of channels that come out; absent: as many as go in."""
    bias: bool = True
    """Whether the convolutions have a bias."""

    @property
    def windows(self) -> list[Window]:
        """What each convolution sees."""
        return [Window(3, 2)] * int(math.log2(self.factor))

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns `batch time channel` with a place for every `factor`."""
        given = here.expect(given, "sequence")
        for window in self.windows:
            given = here.slide(given, window)
        return given if self.dim is None else given.with_channel(self.dim)


def _product(sizes: list[int | None]) -> int | None:
    """Returns the product, or None if one of the sizes is not known."""
    return None if None in sizes else math.prod(size for size in sizes if size is not None)
