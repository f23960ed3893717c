"""What moves or cuts a picture, with the boxes in it: crops, flips, affine maps, and the fit to the model's size.

Coordinates are continuous, in pixels: the left edge of the first column is 0, and its middle 0.5. Every draw comes from
the generator that is given. Knows arrays and Pillow; does not know where pictures come from, nor what follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from dougong.data.augment import Affine, BoxCrop, Crop, Flip, FlipVertical, PadCrop, Rotate, ScaleCrop, ScaleJitter
from dougong.data.image import Pixels, letterbox

Size = tuple[int, int]  # height and width
Window = tuple[int, int, int, int]  # left, top, right and lower edge
Edges = tuple[float | int, float | int, float | int, float | int]  # likewise
Bounds = tuple[float | int, float | int]  # the smallest and the largest

ATTEMPTS = 10  # how often a part is drawn before the next best is taken
LEAST_VISIBLE = 0.25  # share of a box that an affine map or a jitter must leave, or it no longer counts
LEAST_SIDE = 1.0  # pixels; a thinner box cannot be found


@dataclass(frozen=True)
class Scene:
    """A picture and what is left of its boxes.

    Attributes:
        picture: The picture.
        boxes: Left, top, right and lower edge of each, in its pixels.
        kept: Which of the boxes it had at first they are.
    """

    picture: Image.Image
    boxes: Float[np.ndarray, "box 4"]
    kept: Int[np.ndarray, " box"]

    @property
    def size(self) -> Size:
        """Its height and width."""
        return self.picture.height, self.picture.width

    def only(self, mask: Bool[np.ndarray, " box"]) -> Scene:
        """Returns the scene with some of its boxes."""
        return replace(self, boxes=self.boxes[mask], kept=self.kept[mask])

    def seen(self, picture: Image.Image, boxes: Float[np.ndarray, "box 4"], least: float) -> Scene:
        """Returns the scene with another picture and the boxes moved, clipped to it.

        Args:
            picture: The picture.
            boxes: Where the boxes have come to lie in it, perhaps beyond its edge.
            least: The share of its area that must be left of each.
        """
        edges = np.array([picture.width, picture.height] * 2, dtype=boxes.dtype)
        clipped = np.clip(boxes, 0, edges)
        enough = (_sides(clipped).min(-1) >= LEAST_SIDE) & (_areas(clipped) >= least * _areas(boxes))
        return Scene(picture, clipped, self.kept).only(enough)


def image_of(pixels: Pixels) -> Image.Image:
    """Returns Pillow's image of pixels of one channel or three."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def pixels_of(picture: Image.Image) -> Pixels:
    """Returns the pixels of one of Pillow's images; the array is the caller's."""
    pixels = np.array(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _sides(boxes: Float[np.ndarray, "box 4"]) -> Float[np.ndarray, "box 2"]:
    return boxes[:, 2:] - boxes[:, :2]


def _areas(boxes: Float[np.ndarray, "box 4"]) -> Float[np.ndarray, " box"]:
    return _sides(boxes).prod(-1)


def between(rng: np.random.Generator, bounds: Bounds) -> float:
    """Returns a number drawn evenly between two bounds."""
    return float(rng.uniform(*bounds))


def either(rng: np.random.Generator, most: float | int) -> float:
    """Returns a number drawn evenly from -`most` to `most`."""
    return float(rng.uniform(-most, most))


def part(size: Size, scale: Bounds, ratio: Bounds, rng: np.random.Generator) -> Window | None:
    """Returns a random part of a picture, or None if none fitted in ten attempts.

    Args:
        size: The picture's height and width.
        scale: Smallest and largest area, as a share of the picture's.
        ratio: Smallest and largest width over height; drawn evenly on a logarithmic scale.
        rng: What is drawn from.
    """
    rows, columns = size
    for _ in range(ATTEMPTS):
        area = rows * columns * between(rng, scale)
        shape = math.exp(between(rng, (math.log(ratio[0]), math.log(ratio[1]))))
        height, width = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < height <= rows and 0 < width <= columns:
            top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
            return left, top, left + width, top + height
    return None


# The fit to a size


def scaled(scene: Scene, size: Size, window: Edges | None = None, least: float = 0.0) -> Scene:
    """Returns what is within a window (None: all), scaled to a size."""
    height, width = size
    left, top, right, bottom = window or (0, 0, scene.picture.width, scene.picture.height)
    left, top = max(0.0, left), max(0.0, top)  # what rounding put beyond the edge
    right, bottom = min(right, float(scene.picture.width)), min(bottom, float(scene.picture.height))
    whole = (left, top, right, bottom) == (0, 0, width, height) and size == scene.size
    picture = scene.picture
    if not whole:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, (left, top, right, bottom))
    factor = np.array([width / (right - left), height / (bottom - top)] * 2)
    return scene.seen(picture, (scene.boxes - np.array([left, top] * 2)) * factor, least)


def _window_of(scene: Scene, size: Size, factor: float, down: float, right: float) -> Scene:
    """Returns a part of a size of the scaled picture; `down` and `right` are which part of the way it lies along."""
    height, width = size[0] / factor, size[1] / factor
    top, left = (scene.size[0] - height) * down, (scene.size[1] - width) * right
    return scaled(scene, size, (left, top, left + width, top + height))


def letterboxed(scene: Scene, size: Size) -> Scene:
    """Returns the whole picture, scaled until it just fits, with black below it or at its right, as in evaluation."""
    if scene.size == size:
        return scene.seen(scene.picture, scene.boxes, 0.0)
    pixels, (down, right) = letterbox(pixels_of(scene.picture), *size)
    return scene.seen(image_of(pixels), scene.boxes * np.array([right, down, right, down]), 0.0)


def padded(scene: Scene, size: Size) -> Scene:
    """Returns the picture with black below it and at its right, up to a size."""
    return scene if scene.size == size else replace(scene, picture=scene.picture.crop((0, 0, size[1], size[0])))


# Crops


def crop(scene: Scene, options: Crop, size: Size, rng: np.random.Generator) -> Scene:
    """Returns a random part, scaled to the size; where none fits, the middle with the nearest allowed shape."""
    window = part(scene.size, options.scale, options.ratio, rng)
    if window is None:
        rows, columns = scene.size
        shape = min(max(columns / rows, options.ratio[0]), options.ratio[1])
        height, width = min(rows, columns / shape), min(columns, rows * shape)
        left, top = (columns - width) / 2, (rows - height) / 2
        return scaled(scene, size, (left, top, left + width, top + height))
    return scaled(scene, size, window)


def scale_crop(scene: Scene, options: ScaleCrop, size: Size, rng: np.random.Generator) -> Scene:
    """Returns a random part of the size, of the picture scaled to a random length of its shorter side."""
    shorter = int(rng.integers(options.shorter[0], options.shorter[1], endpoint=True))
    rows, columns = scene.size
    factor = max(shorter / min(rows, columns), size[0] / rows, size[1] / columns)
    return _window_of(scene, size, factor, rng.random(), rng.random())


def pad_crop(scene: Scene, options: PadCrop, size: Size, rng: np.random.Generator) -> Scene:
    """Returns the picture, of the size already, moved by a few pixels."""
    left, top = (int(move) for move in rng.integers(-options.padding, options.padding, 2, endpoint=True))
    return _cut(scene, (left, top, left + size[1], top + size[0]), 0.0)


def _cut(scene: Scene, window: Window, least: float) -> Scene:
    left, top = window[:2]
    return scene.seen(scene.picture.crop(window), scene.boxes - np.array([left, top] * 2, dtype=float), least)


def box_crop(scene: Scene, options: BoxCrop, size: Size, rng: np.random.Generator) -> Scene:
    """Returns a random part that has at least one of the boxes, if there are any; else the scene as it is."""
    if options.enlarge > 1 and rng.random() < 0.5:
        scene = _on_larger_ground(scene, between(rng, (1, options.enlarge)), rng)
    if rng.random() >= options.probability:
        return scene
    for _ in range(ATTEMPTS):
        window = part(scene.size, options.scale, options.ratio, rng)
        if window is None:
            continue
        found = _objects_of(scene, window, options.visible)
        if len(found.kept) or not len(scene.kept):
            return found
    return scene


def _objects_of(scene: Scene, window: Window, visible: float | None) -> Scene:
    """Returns a part with the boxes of which so much is left; None: those whose middle is."""
    if visible is not None:
        return _cut(scene, window, visible)
    centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    inside = (centres >= window[:2]) & (centres < window[2:])
    return _cut(scene.only(inside.all(-1)), window, 0.0)


def _on_larger_ground(scene: Scene, factor: float, rng: np.random.Generator) -> Scene:
    """Returns the picture made smaller, somewhere on a black ground of its former size."""
    rows, columns = scene.size
    small = scaled(scene, (max(1, round(rows / factor)), max(1, round(columns / factor))))
    down, right = (int(rng.integers(a - b + 1)) for a, b in zip(scene.size, small.size, strict=True))
    return _cut(small, (-right, -down, columns - right, rows - down), 0.0)


def scale_jitter(scene: Scene, options: ScaleJitter, size: Size, rng: np.random.Generator) -> Scene:
    """Returns the picture scaled at random; a random part where that is larger than the size, padded where smaller."""
    fitting = min(size[0] / scene.size[0], size[1] / scene.size[1])
    factor = fitting * between(rng, options.scale)
    down, right = rng.random(), rng.random()
    rows, columns = (max(1, min(most, round(side * factor))) for side, most in zip(scene.size, size, strict=True))
    height, width = min(scene.size[0], rows / factor), min(scene.size[1], columns / factor)
    top, left = (scene.size[0] - height) * down, (scene.size[1] - width) * right
    window = (left, top, left + width, top + height)
    return padded(scaled(scene, (rows, columns), window, LEAST_VISIBLE), size)


# What moves


def flip(scene: Scene, options: Flip, size: Size, rng: np.random.Generator) -> Scene:
    """Returns the picture mirrored from left to right, or as it is."""
    if rng.random() >= options.probability:
        return scene
    left, top, right, bottom = scene.boxes.T
    boxes = np.stack([scene.size[1] - right, top, scene.size[1] - left, bottom], axis=-1)
    return replace(scene, picture=scene.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), boxes=boxes)


def flip_vertical(scene: Scene, options: FlipVertical, size: Size, rng: np.random.Generator) -> Scene:
    """Returns the picture mirrored from top to bottom, or as it is."""
    if rng.random() >= options.probability:
        return scene
    left, top, right, bottom = scene.boxes.T
    boxes = np.stack([left, scene.size[0] - bottom, right, scene.size[0] - top], axis=-1)
    return replace(scene, picture=scene.picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM), boxes=boxes)


def rotate(scene: Scene, options: Rotate, size: Size, rng: np.random.Generator) -> Scene:
    """Returns the picture turned about its centre."""
    return mapped(scene, _linear(math.radians(either(rng, options.degrees)), 1.0, (0.0, 0.0)), (0.0, 0.0))


def affine(scene: Scene, options: Affine, size: Size, rng: np.random.Generator) -> Scene:
    """Returns the picture turned, scaled, slanted and moved."""
    angle, factor = math.radians(either(rng, options.degrees)), between(rng, options.scale)
    slant = math.radians(either(rng, options.shear)), math.radians(either(rng, options.shear))
    move = either(rng, options.translate) * scene.size[1], either(rng, options.translate) * scene.size[0]
    return mapped(scene, _linear(angle, factor, slant), move)


def _linear(angle: float, factor: float, slant: tuple[float, float]) -> Float[np.ndarray, "2 2"]:
    """Returns the map of (right, down): first slanted, then scaled, then turned clockwise; angles in radians."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return factor * turn @ np.array([[1, math.tan(slant[0])], [math.tan(slant[1]), 1]])


def mapped(scene: Scene, linear: Float[np.ndarray, "2 2"], move: tuple[float, float]) -> Scene:
    """Returns the picture under a linear map about its centre, then moved (right, down), in pixels.

    A box becomes the smallest upright one around its four mapped corners.
    """
    centre = np.array([scene.size[1], scene.size[0]]) / 2
    back = np.linalg.inv(linear)
    start = centre - back @ (centre + np.array(move))
    numbers = (*back[0].tolist(), float(start[0]), *back[1].tolist(), float(start[1]))
    picture = scene.picture.transform(
        scene.picture.size, Image.Transform.AFFINE, numbers, resample=Image.Resampling.BILINEAR
    )
    corners = scene.boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    moved = (corners - centre) @ linear.T + centre + np.array(move)
    return scene.seen(picture, np.concatenate([moved.min(1), moved.max(1)], axis=-1), LEAST_VISIBLE)
