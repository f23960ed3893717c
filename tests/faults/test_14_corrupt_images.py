"""Row 14: a corrupt picture: empty, cut off, of flipped bits, of another kind than its name says, too small, gone or
changed while the run goes on; a broken annotation or box. Promise: the run stops with exit 3 before its first step and
names file and reason, or, with `max_bad_samples`, leaves such pictures aside, writes down which, and counts: read
equals used and quarantined together, and what is used is what would be used without them.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.core import log
from dougong.core.config import find_part, validate
from dougong.core.errors import FileError
from dougong.core.files import read_json
from dougong.data import inspection
from dougong.data.inspection import Decoded, Seen
from dougong.data.source import Tally
from tests.conftest import shared
from tests.data.pictures import BAD, encoded, folder, gradient, idx, voc_folder
from tests.faults.pictures_run import trained

SOUND = 40
DIRTY = {
    "img_truncated_half.jpg": "is broken: image file is truncated",
    "img_empty.jpg": "this file is empty",
    "img_text_named.jpg": "this is an HTML page, as a failed download leaves",
    "img_bad_idat.png": "checksums must fit",
    "img_bad_ihdr_crc.png": "checksums must fit",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


def corpus(root: Path, bad: dict[str, bytes]) -> Path:
    """Writes sound pictures of two classes, and bad ones among those of the second."""
    folder(root, {"cat": SOUND // 2, "dog": SOUND // 2})
    for number, raw in enumerate(bad.values()):
        (root / "dog" / f"{number:03}-bad.jpg").write_bytes(raw)
    return root


def prepared(name: str, **values: Any) -> Any:
    with log.listening(lambda line: None):
        return validate(find_part("data.datasets", name).PART, values).prepare()


@pytest.mark.parametrize("reason", BAD)
def test_default_is_to_stop_with_code_3_and_to_name_file_and_reason(
    reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = corpus(tmp_path / "pictures", {reason: BAD[reason]})
    assert trained(tmp_path, {"name": "image_folder", "path": str(root)}) == 3
    told = capsys.readouterr()
    [sentence] = [line for line in told.err.splitlines() if "error[" in line]
    assert sentence.startswith(f"dougong: error[E-FILE]: {root}/dog/000-bad.jpg: a ")
    assert reason in sentence
    assert sentence.endswith("Repair it, or set max_bad_samples to leave such aside.")
    assert (told.out, "Traceback" in told.err, (tmp_path / "run").exists()) == ("", False, False)


def test_pictures_left_aside_are_counted_named_and_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = corpus(tmp_path / "pictures", BAD)
    data = {"name": "image_folder", "path": str(root), "max_bad_samples": len(BAD)}
    assert trained(tmp_path, data) == 0
    assert f"{len(BAD)} bad samples are left aside, named in " in capsys.readouterr().err
    [written] = (tmp_path / "cache").glob("pictures-*/quarantine.jsonl")
    quarantined = [json.loads(line) for line in written.read_text().splitlines()]
    for number, (each, reason) in enumerate(zip(quarantined, BAD, strict=True)):
        assert each["where"] == f"{root}/dog/{number:03}-bad.jpg"
        assert reason in each["reason"]
    plan = read_json(tmp_path / "run" / "plan.json")["data"]
    used = plan["train_examples"] + plan["validation_examples"]
    assert (used, used + len(quarantined)) == (SOUND, sum(path.is_file() for path in root.rglob("*")))
    [count] = prepared(**data).counts
    assert count["read"] == count["used"] + count["quarantined"] == SOUND + len(BAD)
    assert count["used"] == count["train"]["examples"] + count["validation"]["examples"]


def test_what_is_used_is_what_would_be_used_without_the_bad(tmp_path: Path) -> None:
    bad = prepared("image_folder", path=str(corpus(tmp_path / "bad", BAD)), max_bad_samples=len(BAD))
    good = prepared("image_folder", path=str(corpus(tmp_path / "good", {})))
    assert bad.fingerprint == good.fingerprint


@pytest.mark.parametrize("allowed", [1, 4, len(BAD) - 1])
def test_one_bad_picture_more_than_allowed_stops(
    tmp_path: Path, allowed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"name": "image_folder", "path": str(corpus(tmp_path / "p", BAD)), "max_bad_samples": allowed}
    for _ in range(2):  # the second time, what was found of each comes from the cache
        assert trained(tmp_path, data) == 3
        assert f"That is bad sample {allowed + 1}, and max_bad_samples is {allowed}." in capsys.readouterr().err


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_picture_that_does_not_stay_is_named_while_the_run_goes_on(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, begin = corpus(tmp_path / "pictures", {}), Decoded.__init__

    def strike(self: Decoded, *given: Any) -> None:
        begin(self, *given)
        for path in (root / "cat").iterdir():
            path.write_bytes(encoded(gradient(shift=7)))
            if change == "gone":
                path.unlink()

    monkeypatch.setattr(Decoded, "__init__", strike)
    assert trained(tmp_path, {"name": "image_folder", "path": str(root)}) == 3
    told = capsys.readouterr().err
    said = "but is gone" if change == "gone" else "but has changed"
    assert f"{root}/cat/" in told
    assert said in told
    assert "Traceback" not in told


def test_table_and_detection_count_the_same_way(tmp_path: Path) -> None:
    root = corpus(tmp_path / "pictures", BAD)
    rows = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.glob("*/*"))]
    (root / "table.csv").write_text("\n".join(["path,label", *rows, "cat/none.jpg,cat", "cat/001.png,"]))
    [count] = prepared("image_table", path=str(root / "table.csv"), max_bad_samples=len(BAD) + 2).counts
    assert count["read"] == count["used"] + count["quarantined"] == SOUND + len(BAD) + 2
    boxes = {str(n): [("cat", 1, 1, 9, 9), ("cat", 9, 9, n, 9), ("cat", "nan", 1, 2, 2)] for n in range(1, 7)}
    voc = voc_folder(tmp_path / "voc", boxes)
    (voc / "JPEGImages" / "2.png").write_bytes(BAD["empty"])
    (voc / "Annotations" / "3.xml").write_bytes(b"<annotation>")
    with pytest.raises(FileError, match=r"Annotations/3\.xml: an annotation must be XML"):
        prepared("voc", path=str(voc), size=[8, 8])
    [count] = prepared("voc", path=str(voc), size=[8, 8], max_bad_samples=8).counts
    assert count["read"] == count["used"] + count["quarantined"] == 4 + 2
    inside = count["boxes"]
    assert (inside["read"], inside["used"], inside["quarantined"]) == (12, 4, 8)


@pytest.mark.parametrize("broken", ["cut", "crc", "count"])
def test_idx_that_is_broken_stops_whatever_is_allowed(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (30, 8, 8)), np.arange(30) % 2
    raw = gzip.compress(idx(images))
    raw = {"cut": raw[:-99], "crc": raw[:-8] + b"\0" + raw[-7:], "count": gzip.compress(idx(images)[:-64])}[broken]
    (tmp_path / "images.gz").write_bytes(raw)
    (tmp_path / "labels.gz").write_bytes(gzip.compress(idx(labels)))
    paths = {"images_path": str(tmp_path / "images.gz"), "labels_path": str(tmp_path / "labels.gz")}
    assert trained(tmp_path, {"name": "idx", "channels": 3, "max_bad_samples": 99, **paths}) == 3
    assert f"error[E-FILE]: {tmp_path}/images.gz must " in capsys.readouterr().err


def test_real_broken_files_are_left_aside_and_real_odd_ones_used(tmp_path: Path) -> None:
    root = corpus(tmp_path / "pictures", {})
    for path in shared("data/dirty").glob("img_*"):
        shutil.copy(path, root / "dog")
    data = {"name": "image_folder", "path": str(root), "size": 8}
    with pytest.raises(FileError, match=r"dog/img_bad_idat\.png: a PNG's checksums must fit"):
        prepared(**data)
    [count] = prepared(**data, max_bad_samples=len(DIRTY)).counts
    assert (count["read"], count["used"], count["quarantined"]) == (SOUND + 9, SOUND + 4, len(DIRTY))
    [written] = (tmp_path / "cache").glob("pictures-*/quarantine.jsonl")
    reasons = {Path(each["where"]).name: each["reason"] for each in map(json.loads, written.read_text().splitlines())}
    assert {name: said in reasons[name] for name, said in DIRTY.items()} == dict.fromkeys(DIRTY, True)


# Without the protection


def test_without_the_count_a_bad_picture_would_be_lost_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "quarantine", lambda self, where, reason: None)
    [count] = prepared("image_folder", path=str(corpus(tmp_path / "pictures", BAD))).counts
    assert count["read"] == SOUND < SOUND + len(BAD)


def test_without_the_look_at_all_a_bad_picture_strikes_in_the_middle_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trusted(stock: Any, number: int, *_: object) -> tuple[str, Seen, bool]:
        return "", Seen(inspection.hashlib.sha256(stock.paths[number].read_bytes()).hexdigest(), 12, 16), False

    monkeypatch.setattr(inspection, "_look", trusted)
    assert trained(tmp_path, {"name": "image_folder", "path": str(corpus(tmp_path / "pictures", BAD))}, steps=20) == 3
    assert (tmp_path / "run" / "recipe.yaml").exists(), "the run had begun"
    assert "error[E-FILE]" in capsys.readouterr().err
