"""What a picture is painted of: lines of text, boxes and lines, with their places in pixels; and how wide a text is.

Texts are measured with the widths of a wide font, so that they fit in any. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SMALL, NORMAL, LARGE = 11.0, 12.0, 20.0
WIDEST = 300.0  # a line of text in a box
# Widths of the characters 32 to 126 of DejaVu Sans, a wide font, in thousandths of its size.
_WIDTHS = (
    "318 401 460 838 636 950 780 275 390 390 500 838 318 361 318 337 636 636 636 636 636 636 636 636 636 636 337 337 "
    "838 838 838 531 1000 684 686 698 770 632 575 775 752 295 295 656 557 863 748 787 603 787 695 635 611 732 684 989 "
    "685 611 685 390 337 390 838 500 500 613 635 550 635 615 352 635 634 278 278 579 278 974 634 612 635 635 411 521 "
    "392 634 592 818 592 592 525 636 337 636 838"
)
WIDTHS = {chr(32 + place): int(width) / 1000 for place, width in enumerate(_WIDTHS.split())}
BOLD = 1.14  # how much wider a bold text is


def width_of(text: str, size: float = NORMAL, bold: bool = False) -> float:
    """Returns the width that a text has at most."""
    return sum(WIDTHS.get(letter, 1.0) for letter in text) * size * (BOLD if bold else 1)


@dataclass(frozen=True)
class Text:
    """A line of text: `x` is its start, middle or end, `y` its base line."""

    x: float
    y: float
    words: str
    size: float = NORMAL
    role: str = "ink"
    anchor: Literal["start", "middle", "end"] = "start"

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what it may cover."""
        width = width_of(self.words, self.size, self.role in ("title", "strong"))
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.y - 0.8 * self.size, left + width, self.y + 0.25 * self.size


@dataclass(frozen=True)
class Rectangle:
    """A box with round corners; `says` is all that is to be read in it."""

    x: float
    y: float
    width: float
    height: float
    role: str
    says: str = ""
    radius: float = 6.0


@dataclass(frozen=True)
class Line:
    """A line through points, with a head at its end or without."""

    points: tuple[tuple[float, float], ...]
    head: bool = False


@dataclass
class Drawing:
    """What is to be painted, in this order: rectangles, lines, texts."""

    width: float = 0.0
    height: float = 0.0
    rectangles: list[Rectangle] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def line(self, *points: tuple[float, float], head: bool = False) -> None:
        """Adds a line, unless it has no length."""
        if any(point != points[0] for point in points):
            self.lines.append(Line(points, head))


def wrapped(text: str, widest: float = WIDEST) -> list[str]:
    """Returns a text in lines; a word that is too long for one is cut."""
    lines = [""]
    for word in text.split(" "):
        while width_of(word) > widest:
            word = word[: max(len(word) * 9 // 10 - 1, 1)].rstrip("…") + "…"
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer) <= widest:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
