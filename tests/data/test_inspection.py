from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dougong.core import log
from dougong.core.errors import FileError, ResourceError
from dougong.data import inspection
from dougong.data.image import Limits
from dougong.data.inspection import Decoded, PictureFiles, Seen, inspect, pictures_below, write_quarantine
from dougong.data.source import Tally
from tests.data.pictures import encoded, gradient

LIMITS = Limits()


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures are decoded while it is looked at them."""
    count, decode = list[int](), inspection.decode

    def counted(*given: object) -> object:
        count.append(1)
        return decode(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(inspection, "decode", counted)
    return count  # type: ignore[return-value]


def stock(folder: Path, count: int = 5) -> PictureFiles:
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(gradient(10 + number, 20)))
    return PictureFiles(paths)


def test_every_picture_is_measured_and_hashed(tmp_path: Path) -> None:
    tally = Tally()
    seen = inspect(stock(tmp_path), LIMITS, tmp_path / "cache", tally)
    assert [(each.height, each.width, len(each.sha256), each.bad) for each in seen] == [
        (10 + number, 20, 64, "") for number in range(5)
    ]
    assert (tally.read, tally.used) == (5, 5)


def test_second_look_decodes_nothing(tmp_path: Path, looked: list[int]) -> None:
    pictures = stock(tmp_path)
    first = inspect(pictures, LIMITS, tmp_path / "cache", Tally())
    assert len(looked) == 5
    assert inspect(pictures, LIMITS, tmp_path / "cache", Tally()) == first
    assert len(looked) == 5


def test_changed_file_is_looked_at_again(tmp_path: Path, looked: list[int]) -> None:
    pictures = stock(tmp_path)
    first = inspect(pictures, LIMITS, tmp_path / "cache", Tally())
    before = os.stat(pictures.paths[2])
    pictures.paths[2].write_bytes(encoded(gradient(12, 20, shift=1)))
    os.utime(pictures.paths[2], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second = inspect(pictures, LIMITS, tmp_path / "cache", Tally())
    assert len(looked) == 6
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True]


def test_bad_pictures_are_remembered_too(tmp_path: Path, looked: list[int]) -> None:
    pictures = stock(tmp_path)
    pictures.paths[1].write_bytes(b"GIF89a")
    for _ in range(2):
        tally = Tally(1)
        seen = inspect(pictures, LIMITS, tmp_path / "cache", tally)
        assert (tally.read, tally.used, len(tally.quarantined)) == (5, 4, 1)
        assert tally.quarantined[0] == (str(pictures.paths[1]), seen[1].bad)
        assert "this is a GIF; convert it" in seen[1].bad
    assert len(looked) == 5
    with pytest.raises(
        FileError, match=r"1\.png: a picture must be JPEG, .* but this is a GIF; convert it\. Repair it,"
    ):
        inspect(pictures, LIMITS, tmp_path / "cache", Tally(0))


def test_missing_file_and_folder_are_bad_samples_until_they_are_there(tmp_path: Path) -> None:
    pictures = stock(tmp_path)
    pictures.paths[0].unlink()
    pictures.paths[1].unlink()
    pictures.paths[1].mkdir()
    tally = Tally(2)
    seen = inspect(pictures, LIMITS, tmp_path / "cache", tally)
    assert "does not exist" in seen[0].bad
    assert "Is a directory" in seen[1].bad
    stock(tmp_path, 1)
    assert inspect(pictures, LIMITS, tmp_path / "cache", Tally(1))[0].bad == ""


def test_a_file_that_may_not_be_read_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: PictureFiles, number: int, limits: Limits) -> bytes:
        raise ResourceError("permission denied", name="E-PERMISSION")

    monkeypatch.setattr(PictureFiles, "raw", refused)
    with pytest.raises(ResourceError):
        inspect(stock(tmp_path), LIMITS, tmp_path / "cache", Tally(None))


def test_table_that_was_changed_is_not_believed(tmp_path: Path, looked: list[int]) -> None:
    pictures = stock(tmp_path)
    first = inspect(pictures, LIMITS, tmp_path / "cache", Tally())
    table = tmp_path / "cache" / "seen.tsv"
    table.write_bytes(table.read_bytes().replace(b"\t20\t", b"\t21\t", 1))
    assert inspect(pictures, LIMITS, tmp_path / "cache", Tally()) == first
    assert len(looked) == 10


def test_names_of_any_bytes_are_kept(tmp_path: Path, looked: list[int]) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/tab\tline\n\xff.png"))
    odd.write_bytes(encoded(gradient()))
    for _ in range(2):
        inspect(PictureFiles([odd]), LIMITS, tmp_path / "cache", Tally())
    assert len(looked) == 1


def test_complaint_counts_a_sound_picture_as_bad_and_is_not_kept(tmp_path: Path) -> None:
    pictures, tally = stock(tmp_path), Tally(1)
    inspect(pictures, LIMITS, tmp_path / "cache", tally, lambda number, seen: "odd" if number == 3 else "")
    assert tally.quarantined == [(str(pictures.paths[3]), "odd")]
    assert inspect(pictures, LIMITS, tmp_path / "cache", Tally())[3].bad == ""


def test_quarantine_is_written_down_and_told(tmp_path: Path) -> None:
    told = list[str]()
    with log.listening(told.append):
        write_quarantine(tmp_path / "q", "here", Tally(quarantined=[("a", "b")]), Tally(quarantined=[("c", "d")]))
    lines = (tmp_path / "q" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"where": "a", "reason": "b"}, {"where": "c", "reason": "d"}]
    assert told == [f"dougong: warning: here: 2 bad samples are left aside, named in {tmp_path}/q/quarantine.jsonl"]
    write_quarantine(tmp_path / "q", "here", Tally())
    assert (tmp_path / "q" / "quarantine.jsonl").read_text() == ""


def decoded(pictures: PictureFiles, folder: Path) -> Decoded:
    return Decoded(pictures, inspect(pictures, LIMITS, folder / "cache", Tally()), 3, LIMITS)


def test_small_sets_are_kept_in_memory_and_large_ones_are_not(
    tmp_path: Path, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = stock(tmp_path)
    read = decoded(pictures, tmp_path)
    assert read(1) is read(1)
    assert len(looked) == 6
    pixels = sum((10 + number) * 20 * 3 for number in range(5))
    for held, kept in ((pixels, True), (pixels - 1, False)):
        monkeypatch.setattr(inspection, "HELD_BYTES", held)
        read = decoded(pictures, tmp_path)
        assert (read(1) is read(1)) == kept


def test_file_that_vanishes_or_changes_after_the_look_is_named(tmp_path: Path) -> None:
    pictures = stock(tmp_path)
    read = decoded(pictures, tmp_path)
    assert np.array_equal(read(4), gradient(14, 20))
    pictures.paths[0].unlink()
    with pytest.raises(FileError, match=r"0\.png must be there, as it was when the data was prepared, but is gone"):
        read(0)
    times = os.stat(pictures.paths[1])
    pictures.paths[1].write_bytes(encoded(gradient(11, 20, shift=3)))
    os.utime(pictures.paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(FileError, match=r"1\.png must be as it was when the data was prepared .* but has changed"):
        read(1)


def test_without_the_hash_a_changed_file_would_be_trained_on(tmp_path: Path) -> None:
    pictures = stock(tmp_path)
    raw = encoded(gradient(11, 20, shift=3))
    pictures.paths[1].write_bytes(raw)
    read = decoded(pictures, tmp_path)
    other = encoded(gradient(11, 20, shift=4))
    pictures.paths[1].write_bytes(other)
    trusting = [Seen(inspection.hashlib.sha256(other).hexdigest(), 11, 20) for _ in range(5)]
    read.seen = trusting
    assert np.array_equal(read(1), gradient(11, 20, shift=4))


def test_what_lies_below_a_folder(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.jpeg", "noend", ".hidden.png", ".git/d.png", "notes.txt", "e.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    tally = Tally()
    found = [path.relative_to(tmp_path).as_posix() for path in pictures_below(tmp_path, tally)]
    assert found == ["a.jpg", "b.PNG", "deep/er/c.jpeg", "e.gif", "noend"]
    assert tally.left_out == {"hidden": 2, "no picture by its name": 1}
