"""How windows that slide over places shorten what they slide over: arithmetic alone, of ints and of tensors alike.

A window is what a convolution or a pooling looks at. Knows no tensor and imports no torch, so that a composition is
checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Padding = Literal["centred", "causal", "none"]
Length = TypeVar("Length", int, Any)


@dataclass(frozen=True)
class Window:
    """Which places each output sees: output `i` sees `kernel` places, `dilation` apart, around or up to `i stride`.

    What stands left of the first place is fixed, whatever the length, so that what a row gives does not depend on how
    far it is padded.

    Attributes:
        kernel: How many places an output sees.
        stride: How far the window moves from one output to the next, in places.
        dilation: How far apart the places are that an output sees.
        padding: "centred": `i stride` is in the middle (of an even kernel, just before it); "causal": it is the last;
            "none": it is the first, and only whole windows count.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: Padding = "centred"

    @property
    def reach(self) -> int:
        """The distance in places between the first and the last place that an output sees."""
        return self.dilation * (self.kernel - 1)

    @property
    def before(self) -> int:
        """How many places are added before the first."""
        if self.padding == "none":
            return 0
        return self.reach if self.padding == "causal" else self.dilation * ((self.kernel - 1) // 2)

    @property
    def after(self) -> int:
        """How many places are added after the last."""
        return 0 if self.padding == "none" else self.reach - self.before

    def length(self, length: Length) -> Length:
        """Returns how many outputs there are over so many places: an int, or a tensor of ints.

        `ceil(length / stride)` where padded; without padding `floor((length - reach - 1) / stride) + 1`, at least 0.
        """
        if self.padding != "none":
            return -(-length // self.stride)
        whole = (length - self.reach - 1) // self.stride + 1
        return whole * (whole > 0)
