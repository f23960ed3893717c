"""Pictures for people: a grid of examples with captions, and the boxes of objects drawn with their names.

Knows pixels, boxes and Pillow; does not know datasets or models, and writes no file.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from dougong.core.errors import UsageError
from dougong.data.image import Pixels

Colour = tuple[int, int, int]
Boxes = Float[np.ndarray, "box 4"]

# Okabe and Ito's colours, which colour-blind people can tell apart, without black; more classes get hues of a circle.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
GOLDEN = (math.sqrt(5) - 1) / 2  # steps of this share of a circle never come close to each other
PAPER, INK = (255, 255, 255), (32, 32, 32)
GAP = 8  # pixels between tiles
MOST_COLUMNS = 8


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    Attributes:
        pixels: Of one channel or three.
        caption: What stands below it, in a line or more.
        boxes: Left, top, right and lower edge of what is in it, in its pixels; None: nothing is drawn.
        labels: The number of each box's class, or None.
        scores: How sure a model is of each, from 0 to 1, or None.
    """

    pixels: Pixels
    caption: str = ""
    boxes: Boxes | None = None
    labels: Sequence[int] | None = None
    scores: Sequence[float] | None = None


def contact_sheet(
    tiles: Sequence[Tile], names: Sequence[str] | None = None, side: int = 224, columns: int | None = None
) -> Image.Image:
    """Returns a grid of pictures.

    Args:
        tiles: The pictures, row by row; at least one.
        names: The name of each class; None: boxes bear its number.
        side: What each picture is fitted into, in pixels; a small one is enlarged without smoothing.
        columns: How many stand side by side; None: a grid about as wide as it is high, of at most eight.

    Raises:
        UsageError: There is no picture.
    """
    if not tiles:
        raise UsageError("a sheet must have at least one picture, but has none. Give one.")
    across = min(columns or min(MOST_COLUMNS, math.ceil(math.sqrt(len(tiles)))), len(tiles))
    font = _font(max(11, side // 16))
    captions = [[_fitted(line, font, side) for line in tile.caption.splitlines()] for tile in tiles]
    line = _height(font)
    pictures = [drawn(_enlarged(tile, side), names) for tile in tiles]
    rows = [range(start, min(start + across, len(tiles))) for start in range(0, len(tiles), across)]
    heights = [
        max(pictures[i].height for i in row) + line * max(len(captions[i]) for i in row) + GAP // 2 for row in rows
    ]
    sheet = Image.new("RGB", (across * (side + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), PAPER)
    pen = ImageDraw.Draw(sheet)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, number in enumerate(row):
            left = GAP + column * (side + GAP)
            sheet.paste(pictures[number], (left + (side - pictures[number].width) // 2, top))
            below = top + pictures[number].height + GAP // 2
            for place, words in enumerate(captions[number]):
                pen.text((left, below + place * line), words, INK, font)
        top += height + GAP
    return sheet


def annotated_picture(
    pixels: Pixels,
    boxes: Boxes,
    labels: Sequence[int],
    scores: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> Image.Image:
    """Returns a picture with its boxes, each with its class and its score.

    Args:
        pixels: The picture.
        boxes: Left, top, right and lower edge of each object.
        labels: The number of each one's class.
        scores: How sure the model is of each, from 0 to 1.
        names: The name of each class; None: its number is shown.
    """
    return drawn(Tile(pixels, "", boxes, labels, scores), names)


def drawn(tile: Tile, names: Sequence[str] | None = None) -> Image.Image:
    """Returns a tile's picture with its boxes; the surest is drawn last, over the others."""
    pixels = tile.pixels
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    if tile.boxes is None or not len(tile.boxes):
        return picture
    pen = ImageDraw.Draw(picture)
    shorter = min(picture.size)
    font, width = _font(min(28, max(10, shorter // 24))), max(2, round(shorter / 200))
    edges = np.rint(tile.boxes).astype(int).tolist()
    order = range(len(edges)) if tile.scores is None else np.argsort(np.asarray(tile.scores), kind="stable").tolist()
    labels = [None] * len(edges) if tile.labels is None else [int(label) for label in tile.labels]
    for number in order:
        left, top, right, bottom = edges[number]
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))  # Pillow draws the last row and column, too
        pen.rectangle(corners, outline=colour_of(labels[number] or 0), width=width)
    for number in order:  # after all lines, so that none crosses a word
        words = _words(labels[number], None if tile.scores is None else float(tile.scores[number]), names)
        if words:
            left, top = edges[number][:2]
            _tag(pen, (left, top), words, colour_of(labels[number] or 0), font)
    return picture


def _words(label: int | None, score: float | None, names: Sequence[str] | None) -> str:
    name = "" if label is None else str(label) if names is None or label >= len(names) else names[label]
    return " ".join([*filter(None, [name]), *([] if score is None else [f"{score:.2f}"])])


def _tag(pen: ImageDraw.ImageDraw, corner: tuple[int, int], words: str, colour: Colour, font: _Font) -> None:
    """Writes on a ground of the colour: above the corner, or below it where the picture ends."""
    width, height = math.ceil(font.getlength(words)) + 4, _height(font)
    picture = pen.im.size if pen.im is not None else (width, height)
    left = max(0, min(corner[0], picture[0] - width))
    top = corner[1] - height if corner[1] >= height else max(0, corner[1])
    pen.rectangle((left, top, left + width, top + height - 1), fill=colour)
    brightness = (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) / 1000
    pen.text((left + 2, top), words, INK if brightness > 120 else PAPER, font)


def colour_of(label: int) -> Colour:
    """Returns the colour of a class: always the same, and unlike those of the classes before it."""
    if label < len(PALETTE):
        return PALETTE[label]
    turn = (label * GOLDEN) % 1
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.75, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def unnormalised(
    pixels: Float[np.ndarray, "channel height width"], mean: Sequence[float], std: Sequence[float]
) -> Pixels:
    """Returns the pixels that were normalised; see `image.normalise`."""
    shown = np.moveaxis(pixels, 0, -1) * np.array(std, dtype=np.float32) + np.array(mean, dtype=np.float32)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def _enlarged(tile: Tile, side: int) -> Tile:
    """Returns a tile whose picture just fits into a square; its boxes with it."""
    height, width = tile.pixels.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    flat = tile.pixels[..., 0] if tile.pixels.shape[-1] == 1 else tile.pixels
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR
    pixels = np.asarray(Image.fromarray(flat).resize(size, how)).reshape(size[1], size[0], -1)
    boxes = None if tile.boxes is None else tile.boxes * np.array([size[0] / width, size[1] / height] * 2)
    return replace(tile, pixels=pixels, boxes=boxes)


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=8)
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _height(font: _Font) -> int:
    """Returns the distance of two lines, in pixels."""
    return math.ceil(font.getbbox("Äg")[3]) + 2


def _fitted(line: str, font: _Font, width: int) -> str:
    """Returns a line, cut off with an ellipsis where it is wider than so many pixels."""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
