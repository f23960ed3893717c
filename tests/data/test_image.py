from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from dougong.core.errors import FileError, UsageError
from dougong.data import image
from dougong.data.image import Limits, read_picture
from tests.conftest import shared
from tests.data.pictures import BAD, chunk, encoded, gradient, png

ORIENTED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""What each of EXIF's orientations makes of the pixels in the file."""


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


# What is read


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    raw = encoded(gradient(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(read_picture(raw), gradient())
    assert read_picture(raw, 1).shape == (12, 16, 1)


def test_jpeg_gives_nearly_its_pixels_and_a_file_is_read_by_its_content(tmp_path: Path) -> None:
    pixels = np.asarray(Image.fromarray(gradient(8, 8)).resize((64, 64)))
    (tmp_path / "picture.png").write_bytes(encoded(pixels, "JPEG", quality=95))
    found = read_picture(tmp_path / "picture.png")
    assert np.abs(found.astype(int) - pixels).mean() < 3


def test_pixels_given_out_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        read_picture(encoded(gradient()))[0, 0] = 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_turns_the_picture_up(kind: str, orientation: int) -> None:
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    found = read_picture(encoded(gradient(), kind, exif=exif(orientation), **options)).astype(int)
    expected = ORIENTED[orientation](gradient())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (12 if kind == "JPEG" else 0)


def test_orientation_that_is_none_is_passed_over() -> None:
    for wrong in (0, 9, 77):
        assert np.array_equal(read_picture(encoded(gradient(), "PNG", exif=exif(wrong))), gradient())
    broken = encoded(gradient(), "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    assert np.array_equal(read_picture(broken), gradient())


def test_what_is_transparent_shows_white() -> None:
    pixels = np.dstack([gradient(), np.full((12, 16), 255, np.uint8)])
    pixels[:6, :, 3] = 0
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        found = read_picture(encoded(pixels, kind, **options))
        assert np.array_equal(found[6:], gradient()[6:])
        assert (found[:6] == 255).all()
    half = read_picture(encoded(np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 51, np.uint8)])))
    assert (half == 204).all()


def test_palettes_and_their_transparent_colour_are_resolved() -> None:
    palette = Image.fromarray(gradient()).quantize(8)
    assert np.array_equal(read_picture(encoded(palette)), np.asarray(palette.convert("RGB")))
    index = np.asarray(palette)
    clear = read_picture(encoded(palette, transparency=0))
    assert (clear[index == 0] == 255).all()
    assert np.array_equal(clear[index != 0], np.asarray(palette.convert("RGB"))[index != 0])
    several = read_picture(encoded(palette, transparency=bytes([255, 0, 255])))
    assert (several[index == 1] == 255).all()


def test_one_bit_is_black_and_white() -> None:
    bits = Image.fromarray(gradient()).convert("1")
    for kind in ("PNG", "TIFF", "BMP"):
        found = read_picture(encoded(bits, kind), 1)
        assert np.array_equal(found[..., 0], np.asarray(bits).astype(np.uint8) * 255)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 300).reshape(15, 20).round().astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        found = read_picture(encoded(values, kind), 3)
        assert np.array_equal(found[..., 0], np.rint(values / 257).astype(np.uint8))
        assert np.array_equal(found[..., 0], found[..., 2])
    raw = encoded(values)
    clear = raw[:33] + chunk(b"tRNS", struct.pack(">H", int(values[3, 3]))) + raw[33:]
    assert read_picture(clear)[3, 3, 0] == 255 > read_picture(raw)[3, 3, 0]


def test_sixteen_bits_a_colour_lose_their_lower_half() -> None:
    values = (gradient(4, 5).astype(np.uint16) << 8) + 255
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    assert np.array_equal(read_picture(png(5, 4, rows, depth=16)), gradient(4, 5))


def test_thirty_two_bits_a_pixel_are_refused() -> None:
    for values in (np.ones((4, 4), np.float32), np.ones((4, 4), np.int32)):
        with pytest.raises(FileError, match="must have 8 or 16 bits a colour, but this has 32; convert it"):
            read_picture(encoded(values, "TIFF"))


def test_four_colours_of_print_become_three() -> None:
    pixels = np.asarray(Image.fromarray(gradient(8, 8)).resize((64, 64)))
    print_colours = Image.fromarray(pixels).convert("CMYK")
    for kind in ("JPEG", "TIFF"):  # Adobe's JPEG has them inverted, TIFF has not
        found = read_picture(encoded(print_colours, kind, **({"quality": 95} if kind == "JPEG" else {})))
        assert np.abs(found.astype(int) - pixels).mean() < 4, kind


# What is refused


@pytest.mark.parametrize("part", BAD)
def test_what_is_no_picture_is_refused_in_one_sentence(part: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(BAD[part])
    with pytest.raises(FileError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert part in text
    assert re.fullmatch(r"[^.]+\.jpg: a [^\n]+ must [^\n]+, but [^\n]+; [^\n]+\.", text), text


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\0\0\0\x1cftypavif", "is an AVIF picture; convert it"),
        (b"\0\0\0\x18ftypheic", "is a HEIC picture; convert it"),
        (b"%PDF-1.7", "is a PDF; convert it"),
        (b"8BPS\0\1", "is a Photoshop picture; convert it"),
        (b"PK\3\4....", "is a zip archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS; fetch what it points to"),
        (b"\0" * 50, "is nothing but zeros; fetch it again"),
        (b"\x01\x02\x03\x04", "is of no known kind (it begins with 01 02 03 04)"),
        (b"BMW and Audi are cars", "is a text"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_other_kinds_are_told_by_their_names(raw: bytes, said: str) -> None:
    with pytest.raises(FileError, match=re.escape(said)):
        read_picture(raw, name="x")


def test_several_pictures_in_one_file_are_refused() -> None:
    frames = [Image.fromarray(gradient(shift=shift)) for shift in (1, 9)]
    for kind in ("WEBP", "PNG", "TIFF"):
        raw = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.raises(FileError, match="must hold one picture, but this .* holds several"):
            read_picture(raw)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_every_truncation_is_noticed(kind: str) -> None:
    raw = encoded(gradient(40, 40), kind)
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(FileError):
            read_picture(raw[: int(len(raw) * part)])


def test_without_the_refusal_of_truncated_files_half_would_be_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encoded(gradient(64, 64), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert np.ptp(read_picture(raw[: len(raw) // 2])[-8:]) == 0


def test_each_flipped_bit_of_a_png_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bytearray(encoded(gradient(30, 30)))
    places = np.random.default_rng(0).integers(8, len(raw) - 4, 60)
    unseen = 0
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 4
        with pytest.raises(FileError):
            read_picture(bytes(changed))
        with monkeypatch.context() as off:
            off.setattr(image, "_check_png", lambda raw: None)
            try:
                read_picture(bytes(changed))
                unseen += 1
            except FileError:
                pass
    assert unseen > 0  # without the check of checksums


def test_size_is_looked_at_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    vp8x = struct.pack("<4sIB3x", b"VP8X", 10, 0) + (9_999).to_bytes(3, "little") + (9_998).to_bytes(3, "little")
    webp = b"RIFF" + struct.pack("<I", len(vp8x) + 4) + b"WEBP" + vp8x
    monkeypatch.setattr(image.PngImagePlugin.PngImageFile, "load", None)
    for raw in (png(10_000, 9_999), webp):
        with pytest.raises(
            FileError, match="at most 40,000,000 pixels, but this is 9,999 x 10,000; shrink it, or raise"
        ):
            read_picture(raw)


def test_limits_can_be_moved() -> None:
    small, line = encoded(gradient(1, 1)), encoded(gradient(1, 9))
    for raw in (small, line):
        with pytest.raises(FileError, match="must be at least 2 pixels high and wide"):
            read_picture(raw)
    assert read_picture(small, limits=Limits(min_side=1)).shape == (1, 1, 3)
    with pytest.raises(FileError, match="at most 191 pixels, but this is 12 x 16"):
        read_picture(encoded(gradient()), limits=Limits(max_pixels=191))


def test_file_that_is_larger_than_any_picture_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture.bmp"
    with path.open("wb") as file:
        file.write(encoded(gradient(), "BMP"))
        file.truncate(1 << 40)
    with pytest.raises(FileError, match="must have at most 1,064,576 bytes, but this has more"):
        read_picture(path, limits=Limits(max_pixels=1000))


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_picture(tmp_path / "nothing.png")


def test_pillow_warns_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    animated = encoded(gradient())
    odd = animated[:33] + chunk(b"acTL", struct.pack(">II", 0, 0)) + animated[33:]  # an animation of no pictures
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 192 would be worth a warning of a decompression bomb
    assert np.array_equal(read_picture(odd), gradient())
    monkeypatch.setattr(image, "_be_quiet", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileError, match="Invalid APNG"):
            read_picture(odd)


def test_full_memory_is_not_taken_for_a_broken_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(image.PngImagePlugin.PngImageFile, "load", full)
    with pytest.raises(MemoryError):
        read_picture(encoded(gradient()))


def test_draft_leaves_at_least_what_is_asked_for() -> None:
    raw = encoded(np.asarray(Image.fromarray(gradient()).resize((800, 600))), "JPEG")
    shapes = {side: read_picture(raw, limits=Limits(draft=side)).shape[:2] for side in (600, 301, 300, 100, 70)}
    assert shapes == {600: (600, 800), 301: (600, 800), 300: (300, 400), 100: (150, 200), 70: (75, 100)}
    whole = image.resize_shorter(read_picture(raw), 70).astype(int)
    quick = image.resize_shorter(read_picture(raw, limits=Limits(draft=70)), 70)
    assert np.abs(whole - quick).mean() < 2


# What is done with pixels


def test_resizing_averages_what_it_shrinks() -> None:
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = image.resize(stripes, 8, 8)
    assert (np.abs(found.astype(int) - 128) <= 6).all()
    nearest = np.asarray(Image.fromarray(stripes).resize((8, 8), Image.Resampling.NEAREST))
    assert np.ptp(nearest) in (0, 255)  # without antialiasing: all black or white
    assert np.abs(nearest.astype(int) - 128).min() > 100


def test_sides_after_resizing() -> None:
    assert image.resize_shorter(gradient(12, 17), 6).shape == (6, 8, 3)
    assert image.resize_shorter(gradient(17, 12), 6).shape == (8, 6, 3)
    assert image.resize_shorter(gradient(12, 17)[..., :1], 24).shape == (24, 34, 1)
    assert image.cover(gradient(12, 17), 6, 30).shape == (21, 30, 3)
    assert image.cover(gradient(12, 17), 30, 6).shape == (30, 42, 3)


def test_crops_are_where_they_are_meant_to_be() -> None:
    pixels = gradient(12, 17)
    assert np.array_equal(image.center_crop(pixels, 4, 6), pixels[4:8, 5:11])
    ten = image.ten_crop(pixels, 4, 6)
    corners = [pixels[:4, :6], pixels[:4, -6:], pixels[-4:, :6], pixels[-4:, -6:], pixels[4:8, 5:11]]
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(ten[:5], corners, strict=True))
    assert all(np.array_equal(mine, theirs[:, ::-1]) for mine, theirs in zip(ten[5:], corners, strict=True))
    grid = image.grid_crop(pixels, 4, 6)
    assert len(grid) == 50
    assert np.array_equal(grid[0], ten[0])
    assert np.array_equal(grid[12], pixels[4:8, 6:12])
    assert np.array_equal(grid[24], ten[3])
    with pytest.raises(FileError, match="must be at least 13 x 6 to be cut to that, but is 12 x 17"):
        image.center_crop(pixels, 13, 6)


def test_letterbox_keeps_the_ratio_and_says_its_scale() -> None:
    found, scale = image.letterbox(gradient(12, 18), 24, 24)
    assert found.shape == (24, 24, 3)
    assert scale == pytest.approx((16 / 12, 24 / 18))
    assert found[:16].any()
    assert not found[16:].any()
    tall, scale = image.letterbox(gradient(18, 12), 24, 24)
    assert not tall[:, 16:].any()
    assert scale == pytest.approx((24 / 18, 16 / 12))
    assert image.letterbox(gradient(1, 16384)[:, :3000], 5, 64)[0].shape == (5, 64, 3)


def test_normalised_pixels_are_what_the_formula_says() -> None:
    pixels, mean, std = gradient(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = image.normalise(pixels, mean, std)
    expected = ((pixels / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
    assert np.abs(found - expected).max() < 1e-6
    assert np.array_equal(found, image.normalise(pixels.astype(np.float32), mean, std))


# Real files


REAL: dict[str, Any] = {
    "img_truncated_half.jpg": "is broken: image file is truncated",
    "img_empty.jpg": "this file is empty",
    "img_text_named.jpg": "this is an HTML page",
    "img_bad_idat.png": "checksums must fit, but that of its chunk IDAT does not",
    "img_bad_ihdr_crc.png": "checksums must fit, but that of its chunk IHDR does not",
    "img_png_named.jpg": ("5/IMG_1327.JPG", 3, 0.0),
    "img_cmyk.jpg": ("5/IMG_4451.JPG", 3, 2.5),
    "img_gray16.png": ("5/IMG_1327.JPG", 1, 0.0),
    "img_exif_orientation6.jpg": ("5/IMG_4238.JPG", 3, 4.0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_odd_file_is_read_or_refused(name: str) -> None:
    path, expected = shared(f"data/dirty/{name}"), REAL[name]
    if isinstance(expected, str):
        with pytest.raises(FileError, match=f"{name}: .*{expected}"):
            read_picture(path)
        return
    original, channels, most = expected
    whole = read_picture(shared(f"data/images/sign_digits/{original}"), channels).astype(int)
    assert np.abs(whole - read_picture(path, channels)).mean() <= most
