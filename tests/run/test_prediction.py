"""Pictures are found, answered about in their order, drawn, and broken ones counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dougong
from dougong.core import log
from dougong.core.errors import FileError, UsageError
from dougong.data.source import Tally
from dougong.infer.predict import load_predictor
from dougong.run.prediction import Wish, _free, _listed, predictions, tell_bad
from tests.conftest import shared
from tests.data.pictures import BAD, encoded, gradient
from tests.infer.pictures import classifier, detector
from tests.tiny import write_recipe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return classifier(tmp_path / "model", id2label=["ant", "bee", "cow"])


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """A folder of pictures, with folders in it and files that are none."""
    root = tmp_path / "shots"
    for number, name in enumerate(("b.png", "a.jpg", "deep/a.png", "deep/er/c.webp")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(gradient(40, 30, number), {"j": "JPEG", "w": "WebP"}.get(path.suffix[1], "PNG")))
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(encoded(gradient()))
    return root


def names(found: list[dict[str, Any]], root: Path) -> list[str]:
    return [str(Path(each["picture"]).relative_to(root)) for each in found]


ALL = ["a.jpg", "b.png", "deep/a.png", "deep/er/c.webp"]


def test_files_folders_and_patterns_are_found_in_their_order(model: Path, shots: Path) -> None:
    assert names(dougong.predict(model, shots), shots) == ALL
    assert names(dougong.predict(model, [shots / "b.png", str(shots / "deep")]), shots) == ["b.png", *ALL[2:]]
    assert names(dougong.predict(model, f"{shots}/*.png"), shots) == ["b.png"]
    assert names(dougong.predict(model, f"{shots}/**/*.png"), shots) == ["b.png", "deep/a.png"]
    assert names(dougong.predict(model, f"{shots}/de*"), shots) == ALL[2:]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(model: Path, shots: Path) -> None:
    odd = shots / "a[1].png"
    odd.write_bytes(encoded(gradient()))
    assert names(dougong.predict(model, odd), shots) == ["a[1].png"]


def test_answers_are_those_of_the_model_alone(model: Path, shots: Path) -> None:
    predictor = load_predictor(model)
    found = dougong.predict(model, shots, batch_size=3)
    for each, name in zip(found, ALL, strict=True):
        alone = predictor.predict(shots / name)
        assert (each["label"], each["probability"]) == (alone["label"], pytest.approx(alone["probability"], abs=1e-5))
    assert len({round(each["probability"], 5) for each in found}) > 1


def test_arrays_and_images_are_numbered(model: Path) -> None:
    found = dougong.predict(model, [gradient(), Image.fromarray(gradient(shift=9))])
    assert [each["picture"] for each in found] == ["picture 0", "picture 1"]
    with pytest.raises(UsageError, match="^picture 1 must be whole numbers"):
        dougong.predict(model, [gradient(), np.zeros(3)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("none.png", "none.png does not exist"),
        ("*.gif", r"\*\.gif must fit pictures, but fits none\. Check the path\."),
        ("empty", "empty must hold pictures, but holds none"),
    ],
)
def test_what_is_not_there_is_said(
    given: str, said: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said) as caught:
        dougong.predict(model, given)
    assert caught.value.name == "E-PATH"


# Broken pictures


def broken(shots: Path, *kinds: str) -> None:
    for kind in kinds:
        (shots / f"{kind.replace(' ', '-').replace(',', '')}.png").write_bytes(BAD[kind])


@pytest.mark.parametrize("reason", BAD)
def test_a_broken_picture_stops_by_name_and_reason(reason: str, model: Path, shots: Path) -> None:
    broken(shots, reason)
    with pytest.raises(FileError, match=r"shots/\S+\.png: a ") as caught:
        dougong.predict(model, shots)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 3


def test_broken_pictures_are_left_aside_counted_and_told(model: Path, shots: Path) -> None:
    broken(shots, "empty", "is a text")
    lines: list[str] = []
    with log.listening(lines.append):
        found = dougong.predict(model, shots, max_bad_samples=2, batch_size=2)
    assert names(found, shots) == ALL
    assert len([line for line in lines if "Left aside" in line]) == 2
    assert "4 pictures used of 6, 2 left aside" in lines[-1]
    with pytest.raises(FileError, match="That is bad sample 2, and max_bad_samples is 1"):
        dougong.predict(model, shots, max_bad_samples=1)
    lines.clear()
    (shots / "empty.png").unlink()
    (shots / "is-a-text.png").unlink()
    with log.listening(lines.append):
        dougong.predict(model, shots, max_bad_samples=2)
    assert lines == []


def test_answers_belong_to_their_pictures_where_some_are_left_aside(model: Path, shots: Path) -> None:
    """The control of the names: a broken one in the middle of a batch must not shift them."""
    sound = {each["picture"]: each["probability"] for each in dougong.predict(model, shots)}
    (shots / "aa.png").write_bytes(BAD["empty"])
    with log.listening(lambda line: None):
        found = dougong.predict(model, shots, max_bad_samples=1, batch_size=2)
    assert {each["picture"]: pytest.approx(each["probability"], abs=1e-5) for each in found} == sound


def test_real_broken_files_are_named_and_odd_ones_answered_about(model: Path) -> None:
    dirty, tally = shared("data/dirty"), Tally(9)
    with log.listening(lambda line: None):
        found = list(predictions(load_predictor(model), [dirty], Wish(), tally))
    assert {Path(each.picture).name for each in found} == {
        "img_cmyk.jpg",
        "img_exif_orientation6.jpg",
        "img_gray16.png",
        "img_png_named.jpg",
    }
    assert len(tally.quarantined) == 5
    assert tally.left_out["no picture by its name"] > 5


def test_nothing_is_said_of_what_is_whole() -> None:
    lines: list[str] = []
    with log.listening(lines.append):
        tell_bad(Tally(3, used=4))
    assert lines == []


# Drawn


def test_objects_are_drawn_into_copies_of_the_pictures(shots: Path, tmp_path: Path) -> None:
    predictor = load_predictor(detector(tmp_path / "finder"))
    found = list(predictions(predictor, [shots], Wish(min_score=0.0, to=tmp_path / "drawn"), Tally()))
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a-2.png", "a.png", "b.png", "c.png"]
    assert [each.drawn and each.drawn.name for each in found] == ["a.png", "b.png", "a-2.png", "c.png"]
    for each in found:
        before = np.asarray(Image.open(each.picture).convert("RGB"))
        after = np.asarray(Image.open(each.drawn))  # type: ignore[arg-type]
        assert before.shape == after.shape
        assert (before != after).any() == bool(each.answer["objects"])
    assert any(each.answer["objects"] for each in found)


def test_without_objects_the_drawn_picture_is_the_picture(shots: Path, tmp_path: Path) -> None:
    """The control: what is drawn comes from the objects."""
    predictor = load_predictor(detector(tmp_path / "finder"))
    [found] = predictions(predictor, [shots / "b.png"], Wish(min_score=1.0, to=tmp_path / "drawn"), Tally())
    assert found.answer == {"objects": []}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn" / "b.png")), gradient(40, 30, 0))


def test_a_class_beyond_the_names_is_drawn_by_its_number(shots: Path, tmp_path: Path) -> None:
    folder = detector(tmp_path / "finder")
    (folder / "manifest.json").unlink()
    (folder / "labels.json").write_text('["ant"]')
    found = dougong.predict(folder, shots, min_score=0.0, to=tmp_path / "drawn")
    labels = {each["label"] for answer in found for each in answer["objects"]}
    assert labels - {"ant"} <= {1, 2}
    assert labels - {"ant"}
    assert len(list((tmp_path / "drawn").iterdir())) == 4


def test_scores_below_the_least_are_not_told(shots: Path, tmp_path: Path) -> None:
    folder = detector(tmp_path / "finder")
    every = dougong.predict(folder, shots, min_score=0.0)
    scores = sorted(each["score"] for answer in every for each in answer["objects"])
    middle = scores[len(scores) // 2]
    some = [each["score"] for answer in dougong.predict(folder, shots, min_score=middle) for each in answer["objects"]]
    assert 0 < len(some) < len(scores)
    assert min(some) >= middle


def test_no_two_drawn_pictures_have_one_name() -> None:
    taken: set[str] = set()
    assert [_free(stem, taken) for stem in ("a", "a", "a-2", "b", "a")] == [
        "a.png",
        "a-2.png",
        "a-2-2.png",
        "b.png",
        "a-3.png",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_score": 2.0}, r"min_score must be from 0 to 1, but is 2\.0\."),
        ({"batch_size": 0}, "batch_size must be at least 1, but is 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str, shots: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        dougong.predict(detector(tmp_path / "finder"), shots, **options)


@pytest.mark.parametrize("option", ["min_score", "to"])
def test_options_of_a_detector_are_refused_for_a_classifier(option: str, model: Path, shots: Path) -> None:
    with pytest.raises(UsageError, match=f"^{option} has no effect, as this model tells classes"):
        dougong.predict(model, shots, **{option: 0.3 if option == "min_score" else "drawn"})


# Which model


def test_a_language_model_and_one_of_pictures_send_to_each_other(
    model: Path, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    with log.listening(lambda line: None):
        run = dougong.train(write_recipe(tmp_path, train={"steps": 1, "samples": {"prompts": []}}), run=tmp_path / "r")
    with pytest.raises(UsageError, match=r"of the family gpt\. Name the folder of a run, or use dougong generate"):
        dougong.predict(run, shots)
    with pytest.raises(UsageError, match=r"its model answers about pictures\. Use dougong predict\."):
        dougong.generate(model, "a")
    assert hasattr(dougong.load(run), "generate")
    assert hasattr(dougong.load(model), "predict")


def test_pictures_are_listed_without_reading_them(shots: Path) -> None:
    broken(shots, "empty")
    assert len(list(_listed([shots], Tally()))) == 5
