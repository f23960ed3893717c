"""Pictures made on the fly, sound and broken, and data sets of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
HTML = b"<!DOCTYPE html><html><body>Not Found</body></html>"


def gradient(height: int = 12, width: int = 16, shift: int = 0) -> np.ndarray:
    """Returns RGB that differs everywhere and from corner to corner, and so has no symmetry."""
    rows, columns = np.mgrid[:height, :width]
    planes = (rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1), (rows * columns + shift) % 256)
    return np.stack(planes, -1).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Returns the file of a picture."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, body: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """Returns a PNG with a header of any size; `body` is the pixels, not yet compressed."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG, whose checksum fits."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BAD: dict[str, bytes] = {
    "empty": b"",
    "is an HTML page": HTML,
    "is an SVG drawing": SVG,
    "is a text": "no picture, but words: é".encode(),
    "is a GIF": encoded(gradient(), "GIF"),
    "is 1 x 1": encoded(gradient(1, 1)),
    "pixels, but this is 5,000 x 10,000": png(10_000, 5_000),
    "is truncated": encoded(gradient(64, 64), "JPEG")[:900],
    "its chunk IDAT does not": encoded(gradient()).replace(b"IDAT", b"IDAT\x00", 1)[:-1],
}
"""What is no picture, by a part of the sentence that says so."""


def folder(root: Path, classes: Mapping[str, int], size: tuple[int, int] = (12, 16)) -> Path:
    """Writes a folder of pictures for each class, no two alike."""
    for place, (label, count) in enumerate(classes.items()):
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = gradient(*size, shift=1000 * place + number)
            (root / label / f"{number:03}.png").write_bytes(encoded(pixels))
    return root


def idx(values: np.ndarray) -> bytes:
    """Returns the file of bytes in idx form."""
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def voc_xml(name: str, boxes: Iterable[tuple[str, Any, Any, Any, Any]], size: tuple[int, int] = (12, 16)) -> str:
    """Returns an annotation in VOC's form; boxes are label, xmin, ymin, xmax, ymax."""
    objects = "".join(
        f"<object><name>{label}</name><difficult>{int(label == 'dim')}</difficult><bndbox><xmin>{left}</xmin>"
        f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for label, left, top, right, bottom in boxes
    )
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{stated}{objects}</annotation>"


def voc_folder(root: Path, pictures: Mapping[str, Iterable[tuple[str, Any, Any, Any, Any]]], apart: int = 1) -> Path:
    """Writes a folder in VOC's form; the last pictures are those to validate on."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number, (name, boxes) in enumerate(pictures.items()):
        (root / "JPEGImages" / f"{name}.png").write_bytes(encoded(gradient(shift=number)))
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(name, boxes))
    names = list(pictures)
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names[:-apart]) + "\n")
    (root / "ImageSets/Main/val.txt").write_text("\n".join(f"{name} 1" for name in names[-apart:]) + "\n")
    return root
