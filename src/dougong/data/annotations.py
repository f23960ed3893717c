"""Objects in pictures, as annotation files have them, and what becomes of boxes that cannot be.

Knows boxes and names of classes; does not know the formats (`voc.py`, `coco.py`), nor pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dougong.data.reading import Bad

Corners = tuple[float, float, float, float]
LEAST = 1.0
"""What must be left of a box, in pixels of height and width, once it is cut at the picture's edge."""


@dataclass(frozen=True)
class Box:
    """An object in a picture.

    Attributes:
        label: The name of its class.
        corners: Its left, top, right and lower edge, in pixels, where 0 is the picture's left or upper edge.
        ignored: Whether it counts neither as found nor as missed.
        name: Where it stands, for messages.
    """

    label: str
    corners: Corners
    ignored: bool
    name: str


@dataclass(frozen=True)
class Annotation:
    """What an annotation says of one picture.

    Attributes:
        picture: The name of its file, or the beginning of it.
        boxes: The objects in it; none is an answer, too.
        size: Height and width that the picture should have, if it says so.
        name: Where it stands, for messages.
    """

    picture: str
    boxes: Sequence[Box]
    size: tuple[int, int] | None
    name: str


def fitted(corners: Corners, height: int, width: int) -> Corners:
    """Returns a box cut at the edges of its picture.

    Raises:
        Bad: It is no box, or nothing of it lies in the picture.
    """
    shown = "from {:g}, {:g} to {:g}, {:g}".format(*corners)
    if not all(map(math.isfinite, corners)):
        raise Bad(f"a box must have finite edges, but goes {shown}")
    left, top, right, bottom = corners
    if right <= left or bottom <= top:
        raise Bad(f"a box must end right of where it begins, and below, but goes {shown}")
    inside = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
    if inside[2] - inside[0] < min(LEAST, right - left) or inside[3] - inside[1] < min(LEAST, bottom - top):
        raise Bad(f"a box must lie in its picture of {height} x {width} (height, width), but goes {shown}")
    return inside
