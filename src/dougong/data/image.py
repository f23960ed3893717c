"""One picture: decoded by its content, or refused in a sentence; resized, cut, normalised.

Knows Pillow and the ways in which a file can be no picture; does not know datasets, labels or random changes. No file
is opened here: Pillow is given bytes, by the decoder of the format that they begin with.

Resizing is bilinear with antialiasing (the triangle grows with the reduction), as Pillow has it.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from dougong.core import files
from dougong.core.errors import FileError, is_memory
from dougong.data.reading import Bad

Pixels = UInt8[np.ndarray, "height width channel"]
Part = UInt8[np.ndarray, "part_height part_width channel"]
Mode = Literal[1, 3]

MOST_PIXELS = 40_000_000
"""Pixels of the largest picture that is decoded, where nothing else is said."""
BILINEAR = 2
"""Pillow's number for bilinear resizing, which `preprocessor_config.json` names it by."""
_PNG = b"\x89PNG\r\n\x1a\n"
_BYTES_OF_PIXEL = 16  # the largest file that is read has so many per pixel allowed, and a megabyte
_SCANS = 100  # a progressive JPEG has some ten; each costs a pass over all pixels, however short it is
_ORIENTATION = 0x0112
_STEPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
_QUIET = [("ignore", None, Warning, re.compile(r"PIL\."), 0)]
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_FORMATS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("JPEG", r"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    ("PNG", r"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    ("WebP", r"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    ("BMP", r"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", BmpImagePlugin.BmpImageFile),
    ("TIFF", r"II\*\0|MM\0\*|II\+\0|MM\0\+", TiffImagePlugin.TiffImageFile),
)
_CONVERT, _FETCH = "convert it", "fetch it again"
_OTHERS: tuple[tuple[str, str, str], ...] = (
    ("a GIF", r"GIF8[79]a", _CONVERT),
    ("an AVIF picture", r".{4}ftypavi[fs]", _CONVERT),
    ("a HEIC picture", r".{4}ftyp(?:hei|hev|mif|msf)", _CONVERT),
    ("a JPEG XL picture", r"\xff\x0a|\0\0\0\x0cJXL ", _CONVERT),
    ("a JPEG 2000 picture", r"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _CONVERT),
    ("a Photoshop picture", r"8BPS", _CONVERT),
    ("an icon", r"\0\0[\x01\x02]\0", _CONVERT),
    ("a PDF", r"%PDF", _CONVERT),
    ("a portable pixmap", r"P[1-7]\s", _CONVERT),
    ("an OpenEXR picture", r"v/1\x01", _CONVERT),
    ("a NumPy array", r"\x93NUMPY", _CONVERT),
    ("a zip archive", r"PK\x03\x04", "unpack it"),
    ("gzip", r"\x1f\x8b", "unpack it"),
    ("an HTML page, as a failed download leaves", r"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", _FETCH),
    ("an SVG drawing", r"(?:\xef\xbb\xbf)?\s*(?:<svg|<[?!].*?<svg)", _CONVERT),
    ("an XML text", r"(?:\xef\xbb\xbf)?\s*<\?xml", _FETCH),
    ("a pointer of Git LFS", r"version https://git-lfs", "fetch what it points to"),
)


@dataclass(frozen=True)
class Limits:
    """What of a picture is too little, too much or more than is needed.

    Attributes:
        min_side: The least height and width, in pixels: one of a single pixel is a placeholder, not a picture.
        max_pixels: The most pixels; looked for in the header, before anything is decoded.
        draft: The shorter side that will do, in pixels, or None: a JPEG is then decoded at a half, quarter or eighth
            of its size, if that leaves as much. Quicker; the pixels differ slightly from those of a whole decoding.
    """

    min_side: int = 2
    max_pixels: int = MOST_PIXELS
    draft: int | None = None


def read_picture(
    source: str | Path | bytes, channels: Mode = 3, name: str | None = None, limits: Limits = Limits()
) -> Pixels:
    """Returns the pixels of a picture, the right way up: shades of grey, or red, green and blue.

    Args:
        source: A file, or its content.
        channels: How many a pixel shall have: 1 or 3.
        name: What a message calls it; absent: the file's path.
        limits: What is too small, or too large.

    Raises:
        UsageError: The file does not exist.
        FileError: It is no picture, or a broken one, or beyond the limits.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the picture")
    raw = source if isinstance(source, bytes) else read_raw(source, limits)
    try:
        return decode(raw, channels, limits)
    except Bad as bad:
        raise FileError(f"{name}: {bad}.") from bad


def read_raw(path: str | Path, limits: Limits) -> bytes:
    """Returns the content of a file that may be a picture, but no more than one can have; see `decode`."""
    return files.read_bytes(path, _most_bytes(limits) + 1)


def decode(raw: bytes, channels: Mode = 3, limits: Limits = Limits()) -> Pixels:
    """Returns the pixels of the content of a file: JPEG, PNG, WebP, BMP or TIFF, by how it begins.

    EXIF's orientation is applied. CMYK becomes RGB without a colour profile (JPEG has it inverted, as Adobe writes
    it), 16 bits become 8 by their share of 65,535, and what is transparent shows white.

    Raises:
        Bad: It is no picture, or a broken one, or beyond the limits; the text is a sentence without its full stop.
    """
    if len(raw) > _most_bytes(limits):
        raise Bad(f"a picture must have at most {_most_bytes(limits):,} bytes, but this has more; shrink it")
    _be_quiet()
    with _translated():
        picture = _opened(raw, limits)
        if limits.draft is not None:
            _draft(picture, limits.draft)
        picture.load()
        turned = picture.getexif().get(_ORIENTATION) if _has_exif(picture) else None
        pixels = _upright(_plain(picture, channels), turned)
    pixels.flags.writeable = False  # it may be kept and given out again
    return pixels


def _most_bytes(limits: Limits) -> int:
    return _BYTES_OF_PIXEL * limits.max_pixels + (1 << 20)


def _opened(raw: bytes, limits: Limits) -> Any:
    """Returns the picture with its header read; nothing is decoded yet."""
    kind, opener = _format(raw)
    if kind == "JPEG" and raw.count(b"\xff\xda") > _SCANS:
        raise Bad(f"a JPEG must have at most {_SCANS} scans, but this has more, to keep its reader busy; convert it")
    if kind == "PNG":
        _check_png(raw)
    if kind == "WebP":
        _check_size(_webp_size(raw), limits)  # before the decoder, which takes memory for all of it at once
    picture = opener(io.BytesIO(raw))
    _check_size(picture.size, limits)
    if getattr(picture, "is_animated", False):
        raise Bad(f"a file must hold one picture, but this {kind} holds several; keep one of them")
    return picture


def _format(raw: bytes) -> tuple[str, Callable[..., Any]]:
    if not raw:
        raise Bad("a picture must have content, but this file is empty; fetch it again")
    for name, begin, opener in _FORMATS:
        if re.match(begin.encode("latin-1"), raw, re.DOTALL):
            return name, opener
    found, advice = _what_else(raw)
    raise Bad(f"a picture must be JPEG, PNG, WebP, BMP or TIFF, but this is {found}; {advice}")


def _what_else(raw: bytes) -> tuple[str, str]:
    """Returns what a file is that is no picture, and what to do with it."""
    head = raw[:1024]
    for name, begin, advice in _OTHERS:
        if re.match(begin.encode("latin-1"), head, re.DOTALL | re.IGNORECASE):
            return name, advice
    if not raw.strip(b"\0"):
        return "nothing but zeros", _FETCH
    if re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]*", head):
        return "a text", _FETCH
    return f"of no known kind (it begins with {head[:4].hex(' ')})", "convert or remove it"


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if min(height, width) < limits.min_side:
        raise Bad(
            f"a picture must be at least {limits.min_side} pixels high and wide, but this is {height} x {width}; "
            "replace it"
        )
    if height * width > limits.max_pixels:
        raise Bad(
            f"a picture must have at most {limits.max_pixels:,} pixels, but this is {height:,} x {width:,}; shrink it, "
            "or raise max_pixels"
        )


def _check_png(raw: bytes) -> None:
    """Sees what Pillow does not: that each chunk's checksum fits, up to the last one."""
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        head = raw[place : place + 8]
        if len(head) < 8:
            raise Bad("a PNG must be whole, but this ends in the middle; fetch it again")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        body = memoryview(raw)[place + 4 : place + 8 + length]
        stated = raw[place + 8 + length : place + 12 + length]
        if len(stated) < 4:
            raise Bad("a PNG must be whole, but this ends in the middle; fetch it again")
        if zlib.crc32(body) != int.from_bytes(stated, "big"):
            shown = kind.decode("latin-1") if kind.isalpha() else kind.hex(" ")
            raise Bad(f"a PNG's checksums must fit, but that of its chunk {shown} does not; fetch it again")
        place += 12 + length


def _webp_size(raw: bytes) -> tuple[int, int]:
    """Returns the width and height that a WebP's first chunk states."""
    head = raw[12:30].ljust(18, b"\0")
    if head[:4] == b"VP8X":
        return 1 + int.from_bytes(head[12:15], "little"), 1 + int.from_bytes(head[15:18], "little")
    if head[:4] == b"VP8L":
        bits = int.from_bytes(head[9:13], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[14:18])
    return width & 0x3FFF, height & 0x3FFF


def _draft(picture: Any, side: int) -> None:
    """Lets a JPEG be decoded at a half, a quarter or an eighth, whose shorter side is still as long as asked for."""
    width, height = picture.size
    ratio = side / min(width, height)
    if ratio < 1:
        picture.draft(None, (int(np.ceil(width * ratio)), int(np.ceil(height * ratio))))


def _has_exif(picture: Any) -> bool:
    """TIFF's own orientation is applied by Pillow while it decodes."""
    return picture.format != "TIFF"


def _plain(picture: Any, channels: Mode) -> Pixels:
    """Returns the pixels as they lie in the file, as grey or RGB of 8 bits."""
    if picture.mode in _SIXTEEN_BITS:
        picture = _eight_bits(picture)
    if picture.mode in ("I", "F"):
        raise Bad("a picture must have 8 or 16 bits a colour, but this has 32; convert it")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        picture = white
    wanted = "L" if channels == 1 else "RGB"
    if picture.mode != wanted:
        picture = picture.convert(wanted)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def _eight_bits(picture: Any) -> Any:
    values = np.asarray(picture).astype(np.uint32)
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    clear = picture.info.get("transparency")
    if not isinstance(clear, int):
        return grey
    alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _upright(pixels: Pixels, orientation: object) -> Part:
    """Applies EXIF's orientation: what 2 to 8 say of where the first row and column are (Exif 2.3, 4.6.4)."""
    if not isinstance(orientation, int) or orientation not in _STEPS:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = _STEPS[orientation]
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _be_quiet() -> None:
    """Keeps Pillow from warning: what it says names no file, and what matters is an error here.

    For the process, as the module `warnings` has no way that is safe between threads.
    """
    if warnings.filters[:1] != _QUIET:
        warnings.filters[:0] = _QUIET  # type: ignore[index]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turns whatever Pillow raises about a file into `Bad`."""
    try:
        yield
    except Bad:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything: OSError, SyntaxError, struct.error, ...
        if is_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise Bad(f"a picture must be whole, but this is broken: {reason}; fetch it again") from error


def resize(pixels: Pixels, height: int, width: int, resample: int = BILINEAR) -> Part:
    """Returns the picture at another size, with antialiasing; `resample` is Pillow's number of a filter: bilinear."""
    if pixels.shape[:2] == (height, width):
        return pixels
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    found = Image.fromarray(flat).resize((width, height), Image.Resampling(resample))
    return np.asarray(found).reshape(height, width, pixels.shape[2])


def resize_shorter(pixels: Pixels, side: int, resample: int = BILINEAR) -> Part:
    """Returns the picture with a shorter side of `side` pixels; the longer one is cut to whole pixels."""
    height, width = pixels.shape[:2]
    if height <= width:
        return resize(pixels, side, int(side * width / height), resample)
    return resize(pixels, int(side * height / width), side, resample)


def cover(pixels: Pixels, height: int, width: int) -> Part:
    """Returns the picture resized so that it just covers a size; the longer side may be longer."""
    ratio = max(height / pixels.shape[0], width / pixels.shape[1])
    return resize(pixels, max(height, int(ratio * pixels.shape[0])), max(width, int(ratio * pixels.shape[1])))


def crop(pixels: Pixels, top: int, left: int, size: tuple[int, int]) -> Part:
    """Returns a part of the picture, of height and width `size`, as a view.

    Raises:
        FileError: It does not lie inside.
    """
    height, width = size
    if not (0 <= top <= pixels.shape[0] - height and 0 <= left <= pixels.shape[1] - width):
        raise FileError(
            f"a picture must be at least {height} x {width} to be cut to that, but is {pixels.shape[0]} x "
            f"{pixels.shape[1]}. Resize it first."
        )
    return pixels[top : top + height, left : left + width]


def center_crop(pixels: Pixels, height: int, width: int) -> Part:
    """Returns the middle of the picture; where no half pixel is, it lies towards the top left."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return crop(pixels, top, left, (height, width))


def ten_crop(pixels: Pixels, height: int, width: int) -> list[Part]:
    """Returns the four corners and the middle, and the same mirrored (Krizhevsky et al. 2012, section 4.1)."""
    bottom, right = pixels.shape[0] - height, pixels.shape[1] - width
    corners = [crop(pixels, top, left, (height, width)) for top in (0, bottom) for left in (0, right)]
    return _mirrored([*corners, center_crop(pixels, height, width)])


def grid_crop(pixels: Pixels, height: int, width: int, count: int = 5) -> list[Part]:
    """Returns `count` by `count` evenly spaced crops, and the same mirrored (Simonyan and Zisserman 2015, 3.2)."""
    tops = np.linspace(0, pixels.shape[0] - height, count).round().astype(int).tolist()
    lefts = np.linspace(0, pixels.shape[1] - width, count).round().astype(int).tolist()
    return _mirrored([crop(pixels, top, left, (height, width)) for top in tops for left in lefts])


def _mirrored(crops: Sequence[Part]) -> list[Part]:
    return [*crops, *(each[:, ::-1] for each in crops)]


def letterbox(pixels: Pixels, height: int, width: int) -> tuple[Part, tuple[float, float]]:
    """Returns the picture resized to fit into a size with its aspect ratio kept; the rest, right or below, is black.

    With it comes its scale: how many pixels of the result one pixel of the picture is, downwards and to the right.
    """
    ratio = min(height / pixels.shape[0], width / pixels.shape[1])
    rows = min(height, max(1, round(ratio * pixels.shape[0])))
    columns = min(width, max(1, round(ratio * pixels.shape[1])))
    found = np.zeros((height, width, pixels.shape[2]), dtype=np.uint8)
    found[:rows, :columns] = resize(pixels, rows, columns)
    return found, (rows / pixels.shape[0], columns / pixels.shape[1])


def normalise(
    pixels: UInt8[np.ndarray, "height width channel"] | Float[np.ndarray, "height width channel"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[np.ndarray, "channel height width"]:
    """Returns `(pixels / 255 - mean) / std` for each channel, float32, channels first.

    Args:
        pixels: From 0 to 255.
        mean: Of each channel, where brightness goes from 0 to 1.
        std: Likewise.
    """
    found = np.empty((pixels.shape[2], *pixels.shape[:2]), dtype=np.float32)
    for channel in range(pixels.shape[2]):
        ratio = np.float32(1 / (255 * std[channel]))
        np.multiply(pixels[..., channel], ratio, out=found[channel], casting="same_kind")
        found[channel] -= np.float32(mean[channel] / std[channel])
    return found
