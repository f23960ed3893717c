from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from dougong.core.errors import FileError, UsageError
from dougong.data import idx as idx_module
from dougong.data.idx import TYPES, read_idx
from tests.conftest import shared
from tests.data.pictures import idx


@pytest.mark.parametrize("code", TYPES)
def test_numbers_of_every_type_are_read(code: int, tmp_path: Path) -> None:
    values = np.array([[1, 2, 3], [4, 5, 100]]).astype(np.dtype(TYPES[code]))
    path = tmp_path / "values.idx"
    path.write_bytes(struct.pack(">HBBII", 0, code, 2, 2, 3) + values.tobytes())
    found = read_idx(path)
    assert np.array_equal(found, values)
    assert found.dtype == np.dtype(TYPES[code]).newbyteorder("=")


def test_gzip_is_read_by_its_name(tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4)
    packed = gzip.compress(idx(values))
    (tmp_path / "values.gz").write_bytes(packed)
    assert np.array_equal(read_idx(tmp_path / "values.gz"), values)
    (tmp_path / "values").write_bytes(packed)
    with pytest.raises(FileError, match="must have a name that ends in .gz, as it is gzip"):
        read_idx(tmp_path / "values")


def test_counts_that_do_not_fit_are_both_told(tmp_path: Path) -> None:
    path, raw = tmp_path / "values.idx", idx(np.zeros((7, 2, 2)))
    path.write_bytes(raw[:-9])
    with pytest.raises(FileError, match=r"values\.idx must hold the 7 items that its header states, but holds 4\."):
        read_idx(path)
    path.write_bytes(raw + b"\0")
    with pytest.raises(FileError, match="must hold the 7 items that its header states, but holds more"):
        read_idx(path)
    path.write_bytes(raw)
    assert read_idx(path).shape == (7, 2, 2)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "begins with nothing"),
        (b"\0\0", "begins with 00 00"),
        (b"\x89PNG....", "begins with 89 50 4e 47"),
        (b"\0\0\x07\1\0\0\0\1\0", "begins with 00 00 07 01"),
        (b"\0\0\x08\0", "begins with 00 00 08 00"),
        (b"\0\0\x08\3\0\0\0\1", "must have a whole header"),
    ],
    ids=["empty", "short", "picture", "type", "no dims", "header"],
)
def test_what_is_no_idx_is_refused(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "values.idx").write_bytes(raw)
    with pytest.raises(FileError, match=said):
        read_idx(tmp_path / "values.idx")


def test_endless_numbers_are_neither_believed_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "values.idx.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *(2**32 - 1,) * 3)))
    with pytest.raises(FileError, match="must have at most 8,000,000,000 bytes, but says it has 79,228,"):
        read_idx(path)
    bomb = gzip.compress(struct.pack(">HBBI", 0, 8, 1, 10) + bytes(50_000_000))
    path.write_bytes(bomb)
    given = list[int]()
    chunks = idx_module.raw_chunks
    monkeypatch.setattr(idx_module, "raw_chunks", lambda path: (given.append(len(c)) or c for c in chunks(path)))
    with pytest.raises(FileError, match="must hold the 10 items that its header states, but holds more"):
        read_idx(path)
    assert sum(given) < 5_000_000


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_idx(tmp_path / "nothing.idx")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("idx_truncated-images-idx3-ubyte.gz", "must be a whole compressed file, but ends in the middle"),
        ("idx_bad_crc-labels-idx1-ubyte.gz", "must be gzip, but is broken: .*incorrect data check"),
        ("idx_count_mismatch-images-idx3-ubyte.gz", "must hold the 200 items that its header states, but holds 150"),
    ],
)
def test_real_broken_file_is_refused(name: str, said: str) -> None:
    with pytest.raises(FileError, match=f"{name} {said}"):
        read_idx(shared(f"data/dirty/{name}"))


def test_real_files_are_read() -> None:
    folder = shared("data/images/mnist")
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    assert (images.shape, labels.shape, sorted(set(labels.tolist()))) == ((1000, 28, 28), (1000,), list(range(10)))
