"""Row 25: malformed pictures and annotations: headers of 10^18 pixels, chunks that lie about their length, files that
unpack to a thousand times their size, scans without end, entities that multiply, numbers of 10^400. Promise: exit 3
within a second, before anything is decoded, in bounded memory; thousands of random changes to small files lead to no
crash, no hang and no traceback.
"""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.core.errors import FileError
from dougong.data import image
from dougong.data.coco import read_coco
from dougong.data.idx import read_idx
from dougong.data.image import Limits, read_picture
from dougong.data.reading import Bad
from dougong.data.voc import read_voc
from tests.conftest import shared
from tests.data.pictures import chunk, encoded, gradient, idx, png, voc_xml
from tests.faults.pictures_run import trained

SOUND = {
    "png": encoded(gradient()),
    "jpg": encoded(gradient(32, 32), "JPEG"),
    "progressive.jpg": encoded(gradient(32, 32), "JPEG", progressive=True),
    "webp": encoded(gradient(), "WEBP"),
    "lossless.webp": encoded(gradient(), "WEBP", lossless=True),
    "bmp": encoded(gradient(), "BMP"),
    "tif": encoded(gradient(), "TIFF"),
    "packed.tif": encoded(gradient(), "TIFF", compression="tiff_lzw"),
}
_HEAD = SOUND["png"][:33]


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a sound PNG with one more chunk after its header."""
    return _HEAD + chunk(kind, data) + SOUND["png"][33:]


def with_length(length: int) -> bytes:
    """Returns a PNG whose first chunk of pixels says that it has `length` bytes."""
    place = SOUND["png"].index(b"IDAT") - 4
    return SOUND["png"][:place] + struct.pack(">I", length) + SOUND["png"][place + 4 :]


def resized(kind: str, width: int, height: int) -> bytes:
    """Returns a sound file whose header says that it has another size."""
    raw = bytearray(SOUND[kind])
    if kind == "jpg":
        place = raw.index(b"\xff\xc0")
        raw[place + 5 : place + 9] = struct.pack(">HH", height, width)
    elif kind == "bmp":
        raw[18:26] = struct.pack("<ii", width, height)
    else:
        for tag, value in ((256, width), (257, height)):
            place = raw.index(struct.pack("<H", tag), 8)
            raw[place + 2 : place + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(raw)


def scans(count: int, side: int = 64) -> bytes:
    """Returns a progressive JPEG, all of one shade, whose last scan comes again and again."""
    raw = encoded(np.zeros((side, side, 3), np.uint8), "JPEG", progressive=True)
    last = raw.rindex(b"\xff\xda")
    return raw[:last] + raw[last:-2] * count + raw[-2:]


WEBP = struct.pack("<4sIB3x", b"VP8X", 10, 0) + b"\xff" * 6
PICTURES: dict[str, bytes] = {
    "png of 10^18 pixels": png(2**31 - 1, 2**31 - 1),
    "png of 10^9 x 2": png(10**9, 2),
    "png without pixels": png(0, 0),
    "png without content": png(500, 500),
    "png that unpacks to 500 MB": png(12_000, 14_000, bytes(14_000 * 36_001)),
    "png of 99 bits": png(8, 8, bytes(8 * 25), depth=99),
    "chunk longer than the file": with_length(2**31 - 1),
    "chunk of 4 GB": with_length(2**32 - 1),
    "chunk shorter than it is": with_length(3),
    "text that unpacks to 100 MB": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)),
    "profile that unpacks to 100 MB": with_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)),
    "second header": with_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)),
    "palette of nothing": png(8, 8, bytes(72), colour=3)[:-12] + chunk(b"PLTE", b"") + chunk(b"IEND", b""),
    "jpeg of 65,500 x 65,500": resized("jpg", 65_500, 65_500),
    "jpeg of 10,000 x 10,000": resized("jpg", 10_000, 10_000),
    "jpeg of thousands of scans": scans(3000),
    "bmp of 10^18 pixels": resized("bmp", 2**31 - 1, 2**31 - 1),
    "bmp upside down": resized("bmp", 16, -(2**31) + 1),
    "tiff of 10^18 pixels": resized("tif", 2**32 - 1, 2**32 - 1),
    "tiff whose directory is itself": b"II*\0\x08\0\0\0\0\0" + struct.pack("<I", 8),
    "tiff whose directory is nowhere": b"II*\0" + struct.pack("<I", 2**32 - 9),
    "webp of 2^48 pixels": b"RIFF" + struct.pack("<I", len(WEBP) + 4) + b"WEBP" + WEBP,
    "webp without content": b"RIFF\xff\xff\xff\xffWEBP",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "jpeg of markers": b"\xff\xd8\xff" + b"\xff\xe0\0\x02" * 50_000,
}  # fmt: skip
ENTITIES = '<!DOCTYPE a [<!ENTITY a "ha">{}]><annotation><filename>&a{};</filename></annotation>'


def laughs(count: int) -> str:
    """Returns XML whose one entity stands for `10^count` words."""
    inner = "".join(f'<!ENTITY a{n} "{f"&a{n - 1 or str()};" * 10}">' for n in range(1, count + 1))
    return ENTITIES.format(inner, count)


ANNOTATIONS: dict[str, str | bytes] = {
    "entities that multiply": laughs(9),
    "entity from outside": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    "nested": "<annotation>" + "<a>" * 100_000,
    "attributes without end": "<annotation " + "a" * 1_000_000,
    "not UTF-8": b"<annotation>\xff\xfe</annotation>",
    "empty": "",
}
TABLES: dict[str, str | bytes] = {
    "nested": '{"images": ' + "[" * 100_000,
    "nested inside": '{"images": [' + '{"a":' * 100_000,
    "endless number": '{"images": [{"id": ' + "9" * 100_000 + "}]}",
    "not UTF-8": b'{"images": "\xff"}',
    "half": '{"images": [{"id": 1, "file_name": "a"}, {"id"',
    "list": "[" + "1," * 1000 + "1]",
    "lists of nothing": '{"images": [], "annotations": [], "categories": []}',
    "null": '{"images": null, "categories": null}',
}
NUMBERS: dict[str, bytes] = {
    "lying count": struct.pack(">HBB3I", 0, 8, 3, *(2**32 - 1,) * 3),
    "32 dims": struct.pack(">HBB32I", 0, 8, 32, *(2**32 - 1,) * 32),
    "255 dims": struct.pack(">HBB255I", 0, 8, 255, *(1,) * 255) + b"1",
    "dims of nothing": struct.pack(">HBB2I", 0, 8, 2, 0, 2**32 - 1) + b"1",
    "no dims": b"\0\0\x08\0" + bytes(100),
    "unknown type": b"\0\0\x0a\1\0\0\0\1" + bytes(100),
}


def refused(read: Callable[[Path], Any], path: Path) -> None:
    """Sees that a file is refused, in a sentence, within a second of computing."""
    begin = time.process_time()
    with pytest.raises((FileError, Bad)) as caught:
        read(path)
    assert time.process_time() - begin < 1.0
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", PICTURES)
def test_malformed_pictures_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES[name])
    refused(read_picture, tmp_path / "a.png")


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_malformed_annotations_are_refused(name: str, tmp_path: Path) -> None:
    text = ANNOTATIONS[name]
    (tmp_path / "a.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(read_voc, tmp_path / "a.xml")


@pytest.mark.parametrize("name", TABLES)
def test_malformed_tables_of_annotations_are_refused(name: str, tmp_path: Path) -> None:
    text = TABLES[name]
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(read_coco, tmp_path / "a.json")


@pytest.mark.parametrize("name", NUMBERS)
def test_malformed_numbers_are_refused(name: str, tmp_path: Path) -> None:
    for path, raw in ((tmp_path / "a.idx", NUMBERS[name]), (tmp_path / "a.gz", gzip.compress(NUMBERS[name]))):
        path.write_bytes(raw)
        refused(read_idx, path)


def test_gzip_that_unpacks_without_end_is_left_when_it_is_too_long(tmp_path: Path) -> None:
    packed = zlib.compressobj(wbits=31)
    parts = [packed.compress(idx(np.zeros((2, 3, 3)))), *(packed.compress(bytes(1 << 24)) for _ in range(60))]
    (tmp_path / "a.gz").write_bytes(b"".join([*parts, packed.flush()]))  # 1 GB
    refused(read_idx, tmp_path / "a.gz")


def test_the_command_line_ends_with_code_3_and_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        (tmp_path / "pictures" / label / "a.png").write_bytes(PICTURES["png of 10^18 pixels"])
    assert trained(tmp_path, {"name": "image_folder", "path": str(tmp_path / "pictures")}) == 3
    told = capsys.readouterr()
    [sentence] = [line for line in told.err.splitlines() if "error[" in line]
    assert "cat/a.png: a picture must have at most 40,000,000 pixels, but this is 2,147,483,647 x" in sentence
    assert "Traceback" not in told.err


def test_a_file_without_end_takes_no_more_memory_than_a_picture(tmp_path: Path) -> None:
    """A file of 1 TB (of zeros that the disk does not hold) that begins as a picture is not read to its end."""
    for kind in ("bmp", "tif", "jpg"):
        with (tmp_path / kind).open("wb") as file:
            file.write(SOUND[kind])
            file.truncate(2**40)
        refused(lambda path: read_picture(path, limits=Limits(max_pixels=1_000_000)), tmp_path / kind)


FUZZ = """
import json, random, struct, sys, time, zlib
from pathlib import Path
from dougong.core.errors import DougongError
from dougong.core.isolation import limit_memory
from dougong.data.coco import read_coco
from dougong.data.idx import read_idx
from dougong.data.image import Limits, read_picture
from dougong.data.reading import Bad
from dougong.data.voc import read_voc
folder, seconds, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
WORDS = [b"\\0", b"\\xff", b"\\xff\\xff\\xff\\xff", b"\\x80\\0", b"\\x7f", b"9", b"<", b"-1", b"1e999", b"&a;"]
OTHERS = {".xml": read_voc, ".json": read_coco, ".idx": read_idx, ".gz": read_idx}
def read(path):
    if path.suffix in OTHERS:
        OTHERS[path.suffix](path)
    else:
        read_picture(path, 3, None, Limits(max_pixels=1_000_000))
def changed(raw, dice, place=0):
    raw = bytearray(raw)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        place = dice.randrange(len(raw) + 1) if dice.random() < 0.5 else dice.randrange(min(len(raw), 80) + 1)
        kind = dice.randrange(6)
        if kind == 0 and place < len(raw):
            raw[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            raw[place:place] = dice.choice(WORDS)
        elif kind == 2:
            del raw[place : place + dice.choice((1, 1, 4, 100))]
        elif kind == 3:
            word = dice.choice(WORDS)
            raw[place : place + len(word)] = word
        elif kind == 4:
            raw[place:place] = raw[place : place + dice.choice((4, 40))]
        elif dice.random() < 0.1:
            del raw[place:]
    return bytes(raw)
def summed(raw):
    found, place = bytearray(raw[:8]), 8
    while place + 12 <= len(raw):
        length = int.from_bytes(raw[place : place + 4], "big")
        body = raw[place + 4 : place + 8 + length]
        found += raw[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return bytes(found)
sound = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
for path in sound:
    read(path)
limit_memory(1_000_000_000)
dice, until, counts, slowest = random.Random(seed), time.monotonic() + seconds, [0, 0], 0.0
while time.monotonic() < until:
    path = dice.choice(sorted(sound))
    raw = changed(sound[path], dice)
    path.write_bytes(summed(raw) if path.suffix == ".png" and dice.random() < 0.8 else raw)
    begin = time.process_time()
    try:
        read(path)
        counts[0] += 1
    except (DougongError, Bad) as error:
        assert getattr(error, "exit_code", 3) == 3, (path, error)
        counts[1] += 1
    except BaseException:
        (folder.parent / "guilty").write_bytes(path.read_bytes())
        raise
    slowest = max(slowest, time.process_time() - begin)
    path.write_bytes(sound[path])
print(json.dumps([*counts, slowest]))
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Small sound files of each kind."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, raw in SOUND.items():
        (folder / f"a.{name}").write_bytes(raw)
    (folder / "a.xml").write_text(voc_xml("a", [("cat", 1, 2, 3, 4)]))
    tables = {
        "images": [{"id": 1, "file_name": "a"}],
        "annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 2, "name": "b"}],
    }
    (folder / "a.json").write_text(json.dumps(tables))
    (folder / "a.idx").write_bytes(idx(np.zeros((3, 4, 4))))
    (folder / "a.gz").write_bytes(gzip.compress(idx(np.zeros((3, 4, 4)))))
    return folder


def fuzzed(corpus: Path, seconds: float, seed: int = 0) -> list[float]:
    words = [sys.executable, "-c", FUZZ, str(corpus), str(seconds), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 90)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_random_changes_are_read_or_refused(corpus: Path) -> None:
    read, turned_away, slowest = fuzzed(corpus, 8)
    assert turned_away > 300
    assert read > 30
    assert slowest < 1.0


def test_real_annotation_with_wrong_boxes_is_read_as_numbers() -> None:
    found = read_voc(shared("data/dirty/voc_bad_boxes.xml"))
    assert len(found.boxes) == 26


# Without the protection


def test_without_the_refusal_of_types_entities_multiply() -> None:
    root = xml.etree.ElementTree.fromstring(laughs(4))
    assert len(root.findtext("filename") or "") == 2 * 10**4


def test_without_a_limit_scans_keep_the_reader_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = scans(1, 1000), scans(1000, 1000)
    with pytest.raises(Bad, match="at most 100 scans"):
        image.decode(many)
    monkeypatch.setattr(image, "_SCANS", 10**9)
    taken = list[float]()
    for raw in (few, many):
        begin = time.process_time()
        image.decode(raw)
        taken.append(time.process_time() - begin)
    assert len(many) < 100_000
    assert taken[1] > 5 * taken[0]


def test_without_the_look_at_the_size_all_of_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = png(7_000, 7_000, bytes(7_000 * 21_001))
    with pytest.raises(Bad, match="at most 40,000,000 pixels"):
        image.decode(raw)
    monkeypatch.setattr(image, "_check_size", lambda size, limits: None)
    assert image.decode(raw).nbytes > 500 * len(raw)


def test_without_care_random_changes_end_the_process(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = FUZZ.replace(
        "read_picture(path, 3, None, Limits(max_pixels=1_000_000))", "__import__('PIL.Image').Image.open(path).load()"
    )
    assert careless != FUZZ
    monkeypatch.setitem(globals(), "FUZZ", careless)
    with pytest.raises(AssertionError, match="Error"):
        fuzzed(corpus, 10)
