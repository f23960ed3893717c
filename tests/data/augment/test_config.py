from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from dougong.core.config import validate
from dougong.core.errors import RecipeError
from dougong.data.augment import KINDS, augmentations, faults_of
from dougong.data.augment.apply import MOVES, TONES
from dougong.data.augment.mix import MIXES
from tests.data.augment.pictures import Holder, forms, saying


def test_a_list_is_read_as_it_is_written_and_written_as_it_is_read() -> None:
    written: list[Any] = [{"pad_crop": 4}, "flip", {"colour": {"brightness": 0.4}}, {"erase": 0.25}, {"mixup": 0.2}]
    read = forms(*written)
    assert [each.word for each in read] == ["pad_crop", "flip", "colour", "erase", "mixup"]
    assert (read[0].padding, read[1].probability, read[2].brightness, read[3].probability, read[4].alpha) == (  # type: ignore[attr-defined]
        4,
        0.5,
        0.4,
        0.25,
        0.2,
    )
    everything = validate(Holder, {"augment": [saying(word) for word in KINDS]})
    assert validate(Holder, everything.model_dump()) == everything


def test_every_word_does_something() -> None:
    assert sorted([*MOVES, *TONES, *MIXES]) == sorted(augmentations())
    assert {word for word, kind in KINDS.items() if kind.mixes} == set(MIXES)


def test_the_configs_need_no_arrays() -> None:
    code = "import sys, dougong.data.augment; print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["crop", "pad_crop"], "augment[1] (pad_crop) must be the only crop, but augment[0] (crop) cuts, too."),
        (["mixup", "flip"], "augment[0] (mixup) must come after all that changes a single picture, but flip follows."),
        (["mixup", "cutmix", "mixup"], "augment[2] (mixup) must be given once, but stands twice. Remove one."),
        (["box_crop"], "augment[0] (box_crop) must be given boxes to keep, but these pictures have none. Use crop"),
    ],
)
def test_what_does_not_go_together_is_told(words: list[str], sentence: str) -> None:
    assert [f"{fault.field} {fault.text}"[: len(sentence)] for fault in faults_of(forms(*words))] == [sentence]


@pytest.mark.parametrize("word", ["crop", "scale_crop", "pad_crop", "rand_augment", "erase", "mixup", "cutmix"])
def test_what_loses_boxes_is_refused_with_the_reason(word: str) -> None:
    (fault,) = faults_of(forms(word), "augment", boxes=True)
    assert fault.field == "augment[0]"
    assert fault.text.startswith(f"({word}) must keep every object in its box, but ")


def test_what_goes_together_is_let_through() -> None:
    plain = forms("crop", "flip", saying("colour"), "rand_augment", "erase", "mixup", "cutmix")
    boxed = forms("box_crop", "scale_jitter", "flip", saying("affine"), saying("colour"), "grey", "blur", "lighting")
    assert [*faults_of(plain), *faults_of(boxed, boxes=True)] == []


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("colour", "augment[0] must change something, but gives none of brightness, contrast, saturation, hue."),
        ({"affine": None}, "augment[0].affine must change something, but gives none of degrees, translate,"),
        ({"crop": [1.0, 0.5]}, "must go from the smaller to the larger number, but is [1.0, 0.5]. Swap them."),
        ({"flip": 0}, "augment[0].flip must be greater than 0"),
        ({"flip": 1.5}, "augment[0].flip must be at most 1"),
        ({"colour": {"hue": 0.6}}, "augment[0].colour.hue must be at most 0.5"),
        ({"rand_augment": {"magnitude": 31}}, "augment[0].rand_augment.magnitude must be at most 30"),
        ({"erase": {"fill": "white"}}, "augment[0].erase.fill must be 'noise' or 'black'"),
        ("flipp", "must be an augmentation, but 'flipp' is none. Did you mean flip?"),
        ({"flip": {"probabilty": 0.5}}, "augment[0].flip.probabilty is not an option"),
    ],
)
def test_what_is_wrong_in_one_augmentation_is_told(written: Any, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate(Holder, {"augment": [written]})
    assert sentence in str(caught.value), str(caught.value)


def test_every_option_is_described() -> None:
    assert all(kind.__doc__ for kind in KINDS.values())
    assert all(field.description for kind in KINDS.values() for field in kind.model_fields.values())
