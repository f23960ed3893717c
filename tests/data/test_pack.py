from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dougong.core.contracts import Dataset
from dougong.data.pack import JoinedRows, TokenRows
from dougong.data.shards import TokenStream, prepare
from dougong.data.sources.files import FilesConfig
from dougong.data.split import Divided, ValidationConfig
from dougong.data.vocabulary import BytesConfig


def stream(folder: Path, count: int, shard: int = 1 << 20) -> TokenStream:
    folder.mkdir()
    (folder / "a.txt").write_text("".join(chr(97 + number % 26) for number in range(count)) + "#")
    source = FilesConfig(paths=[str(folder / "a.txt")]).build()
    divided = Divided(source, ValidationConfig(by="position", fraction=0.5 / count))
    return prepare(divided, BytesConfig().build(list, list), folder / "cache", shard).train


def rows(stream: TokenStream, seq_len: int = 5, across: bool = True) -> TokenRows:
    return TokenRows(stream, seq_len, across, "CC0-1.0", "here")


def test_every_token_but_the_first_is_a_target_exactly_once(tmp_path: Path) -> None:
    whole = stream(tmp_path / "a", 50)
    packed = rows(whole)
    targets = np.concatenate([packed[index].tokens[1:] for index in range(len(packed))])
    assert np.array_equal(targets, whole.tokens(1, 51))
    inputs = np.concatenate([packed[index].tokens[:-1] for index in range(len(packed))])
    assert np.array_equal(inputs, whole.tokens(0, 50))


@pytest.mark.parametrize("count", [3, 4, 5, 9, 10, 11])
def test_rows_are_as_many_as_are_full(tmp_path: Path, count: int) -> None:
    packed = rows(stream(tmp_path / "a", count))
    assert len(packed) == count // 5  # with the eot there are count + 1 tokens
    for index in (-1, len(packed)):
        with pytest.raises(IndexError):
            packed[index]


def test_rows_are_right_at_the_borders_of_files(tmp_path: Path) -> None:
    whole, cut = rows(stream(tmp_path / "a", 500)), rows(stream(tmp_path / "b", 500, shard=6))
    for index in range(len(whole)):
        assert np.array_equal(whole[index].tokens, cut[index].tokens)


def test_row_tells_whether_attention_may_cross(tmp_path: Path) -> None:
    whole = stream(tmp_path / "a", 50)
    assert rows(whole, across=True)[0].across_documents
    assert not rows(whole, across=False)[0].across_documents


def test_fingerprint_tells_rows_apart(tmp_path: Path) -> None:
    whole = stream(tmp_path / "a", 50)
    found = [rows(whole), rows(whole, seq_len=6), rows(whole, across=False), rows(stream(tmp_path / "b", 51))]
    assert len({item.fingerprint for item in found}) == 4
    assert rows(whole).fingerprint == rows(stream(tmp_path / "c", 50)).fingerprint


def test_joined_rows_follow_each_other_and_number_documents_through(tmp_path: Path) -> None:
    parts = [rows(stream(tmp_path / name, count)) for name, count in (("a", 12), ("b", 3), ("c", 26))]
    joined = JoinedRows(parts)
    assert [len(part) for part in parts] == [2, 0, 5]
    assert isinstance(joined, Dataset)
    assert isinstance(parts[0], Dataset)
    assert len(joined) == 7
    single = [(part, part[index], before) for before, part in enumerate(parts) for index in range(len(part))]
    for index, (_, row, before) in enumerate(single):
        assert np.array_equal(joined[index].tokens, row.tokens)
        assert np.array_equal(joined[index].documents, row.documents + before)
    with pytest.raises(IndexError):
        joined[7]
    assert joined.licence == "CC0-1.0"
    assert JoinedRows(parts[:2]).fingerprint != joined.fingerprint
