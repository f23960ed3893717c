from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dougong.core import log
from dougong.core.errors import DougongError, FileError, ResourceError
from dougong.data import shards
from dougong.data.shards import Shards, prepare
from dougong.data.sources.files import FilesConfig
from dougong.data.split import Divided, ValidationConfig
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import BpeConfig, BytesConfig

TEXTS = [f"document {number}: " + "中é" * (number % 5) + "x" * (number % 17) for number in range(120)]
BYTES = BytesConfig().build(list, list)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return path


def divided(corpus: Path, by: str = "document", **options: int) -> Divided:
    source = FilesConfig(paths=[str(corpus)], licence="CC0-1.0", **options).build()
    return Divided(source, ValidationConfig(by=by, fraction=0.2))


def made(corpus: Path, tokenizer: Tokenizer = BYTES, **options: int) -> Shards:
    return prepare(divided(corpus), tokenizer, corpus.parent / "cache", **options)


def expected(corpus: Path, apart: bool) -> list[str]:
    from dougong.data.source import Tally

    return [document.text for where, document in divided(corpus).documents(Tally()) if where == apart]


def test_stream_is_an_eot_before_each_document(corpus: Path) -> None:
    opened = made(corpus)
    for stream, apart in ((opened.train, False), (opened.validation, True)):
        texts = expected(corpus, apart)
        wanted = [token for text in texts for token in (256, *text.encode())]
        assert stream.tokens(0, len(stream)).tolist() == wanted
        numbers = [number for number, text in enumerate(texts) for _ in range(1 + len(text.encode()))]
        assert stream.documents(0, len(stream)).tolist() == numbers
        assert stream.num_documents == len(texts)
        assert stream.num_bytes == sum(len(text.encode()) for text in texts)
    assert opened.manifest.read == opened.manifest.used == len(TEXTS)
    assert len(expected(corpus, True)) > 5


def test_bytes_of_each_document_and_the_validation_text_are_kept(corpus: Path) -> None:
    opened = made(corpus)
    sizes = np.fromfile(opened.folder / "train" / "bytes.bin", dtype="<i8")
    assert sizes.tolist() == [len(text.encode()) for text in expected(corpus, False)]
    assert b"".join(opened.raw_validation_bytes()).decode() == "".join(expected(corpus, True))


@pytest.mark.parametrize("shard", [7, 64, 1000])
def test_any_slice_is_right_across_the_borders_of_files(corpus: Path, shard: int) -> None:
    whole, cut = made(corpus).train, made(corpus, shard=shard).train
    assert len(cut._shards) == -(-len(whole) // shard)
    tokens, documents = whole.tokens(0, len(whole)), whole.documents(0, len(whole))
    for start in range(0, len(whole) - 40, 13):
        for length in (1, 2, 7, 40):
            assert np.array_equal(cut.tokens(start, start + length), tokens[start : start + length])
            assert np.array_equal(cut.documents(start, start + length), documents[start : start + length])


def test_long_document_read_in_pieces_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("a line of some text\n" * 12_000)
    opened = prepare(divided(path, "position"), BYTES, tmp_path / "cache")
    assert opened.train.num_documents == opened.validation.num_documents == 1
    assert (opened.train.tokens(0, len(opened.train)) == 256).sum() == 1
    assert len(opened.train) == 1 + 192_000


def test_wide_vocabularies_get_wide_tokens(corpus: Path) -> None:
    assert made(corpus).manifest.dtype == "uint16"
    wide = BpeConfig(vocab_size=300).build(lambda: TEXTS, lambda: TEXTS)
    wide.vocab_size = 1 << 17
    opened = made(corpus, wide)
    assert opened.manifest.dtype == "uint32"
    wanted = [token for text in expected(corpus, False) for token in (wide.eot_id, *wide.encode(text))]
    assert opened.train.tokens(0, len(opened.train)).tolist() == wanted


def test_same_text_gives_the_same_shards_byte_for_byte(corpus: Path, tmp_path: Path) -> None:
    first = prepare(divided(corpus), BYTES, tmp_path / "one")
    second = prepare(divided(corpus), BYTES, tmp_path / "two")
    assert first.folder.name == second.folder.name
    assert first.manifest.sha256 == second.manifest.sha256
    assert first.train.fingerprint == second.train.fingerprint != first.validation.fingerprint


def test_work_is_done_once(corpus: Path) -> None:
    heard: list[str] = []
    with log.listening(heard.append):
        made(corpus)
        assert any(line.startswith("tokenized ") and "120 documents used of 120 read" in line for line in heard)
        heard.clear()
        made(corpus)
    assert heard == []


def test_any_edit_of_the_text_makes_new_shards(corpus: Path) -> None:
    before = made(corpus)
    corpus.write_text(corpus.read_text().replace("document 7:", "Document 7:"))
    after = made(corpus)
    assert after.folder != before.folder
    assert (after.train.fingerprint, after.validation.fingerprint) != (
        before.train.fingerprint,
        before.validation.fingerprint,
    )


def test_tokenizer_and_split_make_other_shards(corpus: Path) -> None:
    other = BpeConfig(vocab_size=270).build(lambda: TEXTS, lambda: TEXTS)
    by_position = prepare(divided(corpus, "position"), BYTES, corpus.parent / "cache")
    assert len({made(corpus).folder, made(corpus, other).folder, by_position.folder}) == 3


def test_any_changed_byte_in_any_file_is_refused(corpus: Path) -> None:
    folder = made(corpus).folder
    damaged = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(damaged) >= 8
    for path in damaged:
        raw = path.read_bytes()
        for place in (0, len(raw) // 2, len(raw) - 1):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            if path.name == "manifest.json" and place == len(raw) - 1:
                continue  # the line end is not part of what it says
            with pytest.raises(DougongError) as error:
                made(corpus)
            assert error.value.exit_code == 3
            assert path.name in str(error.value) or path.name == "manifest.json"
        path.write_bytes(raw)
    assert made(corpus).folder == folder


def test_changed_byte_would_be_read_without_the_check(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(corpus).folder / "train" / "tokens-00000.bin"
    raw = path.read_bytes()
    path.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    with pytest.raises(
        FileError, match="must have the sha256 .* was changed after it was written. Delete .* to make it"
    ):
        made(corpus)
    monkeypatch.setattr(shards, "_verify", lambda folder, manifest: None)
    assert made(corpus).train.tokens(50, 51)[0] != int.from_bytes(raw[100:102], "little")


def test_missing_cut_or_foreign_files_are_refused(corpus: Path) -> None:
    folder = made(corpus).folder
    path = folder / "validation" / "starts.bin"
    raw = path.read_bytes()
    path.write_bytes(raw[:-8])
    with pytest.raises(FileError, match=r"starts\.bin must have the sha256"):
        made(corpus)
    path.unlink()
    with pytest.raises(FileError, match=r"starts\.bin must be there, but is missing"):
        made(corpus)
    path.write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change in ({"format": "other"}, {"sha256": {"../corpus.jsonl": "0" * 64}}, {"train": None}):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(FileError):
            made(corpus)
    manifest["train"]["shards"] = [3]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileError, match="its files differ in length"):
        made(corpus)


def test_broken_text_leaves_nothing_behind(corpus: Path) -> None:
    with corpus.open("a") as file:
        file.write("\n{broken")
    with pytest.raises(FileError, match="line 121: a line must be one JSON object"):
        made(corpus)
    left = [path.name for path in (corpus.parent / "cache").iterdir() if path.suffix != ".lock"]
    assert left == []


def test_what_a_killed_process_left_is_removed(corpus: Path) -> None:
    folder = made(corpus).folder
    folder.rename(folder.with_name(f".{folder.name}.partial-dead"))
    assert made(corpus).folder == folder
    assert not list(folder.parent.glob(".*partial*"))


def test_bad_samples_are_written_down(corpus: Path) -> None:
    corpus.write_text(corpus.read_text() + "\n{broken\n[]\n")
    heard: list[str] = []
    with log.listening(heard.append):
        opened = prepare(divided(corpus, max_bad_samples=2), BYTES, corpus.parent / "cache")
    lines = [json.loads(line) for line in (opened.folder / "quarantine.jsonl").read_text().splitlines()]
    assert [line["where"].rsplit(" ", 1)[1] for line in lines] == ["121", "122"]
    assert (opened.manifest.read, opened.manifest.used, opened.manifest.quarantined) == (122, 120, 2)
    assert heard[-1].endswith("2 bad samples are left aside, named in quarantine.jsonl")


def test_cache_that_cannot_be_written_is_named(corpus: Path) -> None:
    (corpus.parent / "cache").write_text("a file")
    with pytest.raises(DougongError, match="cache") as error:
        made(corpus)
    assert error.value.exit_code in (3, 4)


def test_full_disk_is_one_sentence_and_leaves_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards._Part, "_write", full)
    with pytest.raises(ResourceError, match="No space left on device") as error:
        made(corpus)
    assert error.value.exit_code == 4
    assert [path.name for path in (corpus.parent / "cache").iterdir() if path.suffix != ".lock"] == []


RACE = """
import sys
from pathlib import Path
from dougong.core.config import validate
from dougong.data.datasets.text import TextConfig
values = {"sources": [{"name": "files", "paths": [sys.argv[1]]}], "tokenizer": {"name": "bpe", "vocab_size": 300}}
data = validate(TextConfig, values).prepare(Path(sys.argv[2]), 16)
print(data.fingerprint, len(data.train[0][0]))
"""


def test_processes_that_race_make_it_once_and_agree(corpus: Path) -> None:
    arguments = [sys.executable, "-c", RACE, str(corpus), str(corpus.parent / "cache")]
    racers = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [racer.communicate(timeout=100) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1
    told = "".join(error for _, error in said)
    assert told.count("tokenized ") == told.count("learning the tokenizer") == 1
    kept = sorted(path.name.split("-")[0] for path in (corpus.parent / "cache").iterdir() if path.suffix != ".lock")
    assert kept == ["shards", "tokenizer"]


def test_one_that_waits_says_so_and_takes_what_was_made(tmp_path: Path) -> None:
    import fcntl
    import threading

    folder, heard = tmp_path / "made", []
    with (tmp_path / "made.lock").open("w") as holder, log.listening(heard.append):
        fcntl.flock(holder, fcntl.LOCK_EX)
        threading.Timer(0.3, lambda: (folder.mkdir(), fcntl.flock(holder, fcntl.LOCK_UN))).start()
        with shards.once(folder) as absent:
            assert not absent
    assert heard == ["waiting for another process that prepares the same text (made)"]


def test_what_is_there_needs_no_lock(corpus: Path) -> None:
    import fcntl

    folder = made(corpus).folder
    with folder.with_name(f"{folder.name}.lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert made(corpus).folder == folder
