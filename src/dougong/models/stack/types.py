"""What flows between stages: named axes and their sizes, what an element is, what it knows of the future, its lengths.

Knows no stage and imports no torch; lengths are mapped by the windows of `nn/lengths.py`, ints and tensors alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from dougong.nn.lengths import Window

Element = Literal["token", "real", "logits"]
Form = Literal["tokens", "sequence", "image", "vector"]
Length = TypeVar("Length", int, Any)

AXES: dict[Form, tuple[str, ...]] = {
    "tokens": ("time",),
    "sequence": ("time", "channel"),
    "image": ("channel", "height", "width"),
    "vector": ("channel",),
}


@dataclass(frozen=True)
class Signal:
    """The type of what a stage takes or gives; the axis `batch` comes first and is not named here.

    Attributes:
        form: Which axes it has.
        sizes: The size of each axis; None where only the data decides. That of time is the longest that may come.
        source: The stage that gives it, as a complaint calls it: `stages[3] (lstm)`.
        element: What stands at a place.
        windows: What has shortened time, from the model's input on; empty where each item has a place of its own.
        shortened_by: The stage that first did so.
        future: The first stage whose output at a place depends on what comes after it; None where all so far is causal.
    """

    form: Form
    sizes: tuple[int | None, ...]
    source: str
    element: Element = "real"
    windows: tuple[Window, ...] = ()
    shortened_by: str | None = None
    future: str | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes after `batch`."""
        return AXES[self.form]

    @property
    def channel(self) -> int | None:
        """The size of the axis `channel`; None where there is none."""
        return self.size("channel")

    @property
    def time(self) -> int | None:
        """The longest that time may be; None where there is no such axis, or nothing decides it."""
        return self.size("time")

    @property
    def causal(self) -> bool:
        """Whether every output so far depends on nothing that comes later: output `i` on inputs up to `i stride`."""
        return self.future is None

    @property
    def stride(self) -> int:
        """How many places of the model's input one place stands for."""
        product = 1
        for window in self.windows:
            product *= window.stride
        return product

    def size(self, axis: str) -> int | None:
        """Returns the size of an axis; None where there is none, or nothing decides it."""
        return self.sizes[self.axes.index(axis)] if axis in self.axes else None

    def length(self, length: Length) -> Length:
        """Returns how many valid places are left of so many of the model's input."""
        for window in self.windows:
            length = window.length(length)
        return length

    def given_by(self, source: str) -> Signal:
        """Returns the same, as another stage gives it."""
        return replace(self, source=source)

    def with_channel(self, channel: int) -> Signal:
        """Returns the same with other channels, which are real numbers."""
        sizes = tuple(channel if axis == "channel" else size for axis, size in zip(self.axes, self.sizes, strict=True))
        return replace(self, sizes=sizes, element="real")

    def as_form(self, form: Form, *sizes: int | None) -> Signal:
        """Returns the same in other axes."""
        return replace(self, form=form, sizes=sizes)

    def through(self, window: Window, source: str) -> Signal:
        """Returns what is left once a window has slid over time, or over both axes of space."""
        slid = ("time", "height", "width")
        sizes = tuple(
            window.length(size) if axis in slid and size is not None else size
            for axis, size in zip(self.axes, self.sizes, strict=True)
        )
        shorter = window.stride > 1 or (window.padding == "none" and window.reach > 0)
        found = replace(self, sizes=sizes)
        if self.form == "sequence" and shorter:
            found = replace(found, windows=(*self.windows, window), shortened_by=self.shortened_by or source)
        return found.sees_future(source) if window.reach and window.padding != "causal" else found

    def sees_future(self, source: str) -> Signal:
        """Returns the same after a stage that looks at what comes later."""
        return replace(self, future=self.future or source)

    def __str__(self) -> str:
        """Returns `batch time channel`, as a complaint has it."""
        return "batch time of tokens" if self.form == "tokens" else " ".join(("batch", *self.axes))

    def sized(self) -> str:
        """Returns the same with the sizes that are known: `batch time channel=128`."""
        pairs = zip(self.axes, self.sizes, strict=True)
        return " ".join(["batch", *(axis if size is None else f"{axis}={size}" for axis, size in pairs)])
