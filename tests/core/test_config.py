"""What configs refuse, and the sentences with which they do."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import pytest

from dougong.core import config
from dougong.core.config import (
    Config,
    Fault,
    Form,
    Keyed,
    Part,
    did_you_mean,
    find_part,
    named_alternatives,
    part_names,
    path_text,
    try_validate,
    validate,
)
from dougong.core.errors import RecipeError, UsageError


class Small(Config):
    name: Literal["small"] = "small"
    """Name."""
    rate: float = 1.0
    """A number."""


class Large(Config):
    name: Literal["large", "huge"] = "large"
    """Names."""
    betas: tuple[float, float] = (0.9, 0.99)
    """A pair."""


Either = Annotated[Small | Large, pydantic.Field(discriminator="name")]


class Whole(Config):
    either: Either = Small()
    """One of two."""
    several: tuple[Either, ...] = ()
    """Many of two."""
    batch: Annotated[int, pydantic.Field(gt=0)] | Literal["all"] = 1
    """A number or a word."""
    rate: float = 1.0
    """A number."""
    count: Annotated[int, pydantic.Field(ge=0, le=9)] = 1
    """An integer."""
    flag: bool = False
    """Yes or no."""
    place: Path | None = None
    """A path."""
    words: str | list[str] = ""
    """One or many."""
    kind: Literal["adam", "sgd"] = "adam"
    """A word."""
    numbers: dict[str, list[int]] | None = None
    """By name."""
    filled: Annotated[list[str], pydantic.Field(min_length=1)] | None = None
    """Not empty."""

    def faults(self) -> Iterator[Fault]:
        if self.rate == 7:
            yield Fault("either.betas[1]", "must not be so while rate is 7.")
            yield Fault("count", "must not be so either.")


def sentences(**values: Any) -> list[str]:
    return [complaint.text for complaint in try_validate(Whole, values, ("train",))[1]]


COMPLAINTS = [
    ({"batch": "some"}, "train.batch must be an integer or 'all', but is 'some'."),
    ({"batch": True}, "train.batch must be an integer or 'all', but is true."),
    ({"batch": -1}, "train.batch must be greater than 0 or 'all', but is -1."),
    ({"rate": "1.0"}, "train.rate must be a number, but is '1.0'."),
    ({"rate": True}, "train.rate must be a number, but is true."),
    ({"rate": None}, "train.rate must be a number, but is null."),
    ({"rate": float("nan")}, "train.rate must be a finite number, but is nan."),
    ({"count": 1.5}, "train.count must be an integer, but is 1.5."),
    ({"count": -1}, "train.count must be at least 0, but is -1."),
    ({"count": 10}, "train.count must be at most 9, but is 10."),
    ({"flag": 1}, "train.flag must be true or false, but is 1."),
    ({"flag": "yes"}, "train.flag must be true or false, but is 'yes'."),
    ({"words": 3}, "train.words must be a string or a list, but is 3."),
    ({"words": ["a", 1]}, "train.words[1] must be a string, but is 1."),
    ({"kind": "adan"}, "train.kind must be 'adam' or 'sgd', but is 'adan'. Did you mean 'adam'?"),
    ({"numbers": {"a": [1, "2"]}}, "train.numbers.a[1] must be an integer, but is '2'."),
    ({"filled": []}, "train.filled must be a list of 1 or more items, but is []."),
    ({"either": 3}, "train.either must be a section of keys and values, but is 3."),
    ({"either": {}}, "train.either.name is required, but absent. Known: small, large, huge."),
    ({"either": {"name": "smal"}}, "train.either.name must be a known name, but is 'smal'. Did you mean small?"),
    ({"either": {"name": "small", "rat": 1}}, "train.either.rat is not an option. Did you mean train.either.rate?"),
    ({"either": {"name": "huge", "betas": [0.9, "x"]}}, "train.either.betas[1] must be a number, but is 'x'."),
    ({"either": {"name": "huge", "betas": [0.9]}}, "train.either.betas[1] is required, but absent. Add it."),
    ({"several": [{"name": "small"}, {"name": "large", "rate": 1}]}, "train.several[1].rate is not an option."),
    ({"fag": True}, "train.fag is not an option. Did you mean train.flag?"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), COMPLAINTS, ids=[text for _, text in COMPLAINTS])
def test_each_fault_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    found = sentences(**values)
    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_sound_values_have_no_complaint() -> None:
    sound = {"batch": "all", "rate": 3, "place": "a/b", "either": {"name": "huge", "betas": [0, 0.5]}, "words": ["a"]}
    whole, complaints = try_validate(Whole, sound)
    assert complaints == []
    assert whole is not None
    assert whole.rate == 3.0
    assert whole.place == Path("a/b")
    assert isinstance(whole.either, Large)
    assert whole.either.betas == (0.0, 0.5)


def test_all_complaints_come_at_once() -> None:
    found = sentences(rate="x", count="y", kind=1, nothing=2)
    assert len(found) == 4


def test_faults_between_fields_carry_the_path_they_name() -> None:
    complaints = try_validate(Whole, {"rate": 7}, ("train",))[1]
    assert [complaint.path for complaint in complaints] == [("train", "either", "betas", 1), ("train", "count")]
    assert complaints[0].text == "train.either.betas[1] must not be so while rate is 7."


def test_a_config_that_is_changed_is_checked_again() -> None:
    whole = Whole()
    assert whole.replace(count=3).count == 3
    with pytest.raises(RecipeError, match="count must be at most 9"):
        whole.replace(count=10)
    with pytest.raises(pydantic.ValidationError):
        whole.count = 3  # type: ignore[misc]


def test_a_config_survives_its_own_dump() -> None:
    whole = Whole(either=Large(betas=(0.1, 0.2)), place=Path("a"))
    assert validate(Whole, whole.model_dump()) == whole
    assert validate(Whole, whole.model_dump(mode="json")) == whole


def test_paths_are_written_as_in_a_recipe() -> None:
    assert path_text(("train", "optimizer", "betas", 1)) == "train.optimizer.betas[1]"
    assert path_text(()) == ""


def test_the_nearest_word_is_offered_or_all_of_few() -> None:
    assert did_you_mean("stesp", ["steps", "seed"], "train.") == " Did you mean train.steps?"
    assert did_you_mean("zzz", ["steps", "seed"]) == " Known: seed, steps."
    assert did_you_mean("zzz", [str(number) * 9 for number in range(50)]) == ""


def test_a_part_is_found_by_its_name_alone() -> None:
    assert find_part("models", "gpt").PART.__name__ == "GPTConfig"
    assert "gpt" in part_names("models")
    with pytest.raises(UsageError, match="'gptt' is not a model. Did you mean gpt?"):
        find_part("models", "gptt")
    with pytest.raises(UsageError):
        find_part("models", "../gpt")


def test_alternatives_of_a_field_are_listed_by_name() -> None:
    assert named_alternatives(Whole, "either") == {"small": Small, "large": Large, "huge": Large}


class Model(Config):
    model: Annotated[Config, Part("models")]
    """A part."""


def part_sentence(values: Any) -> str:
    (complaint,) = try_validate(Model, {"model": values})[1]
    return complaint.text


def test_a_variant_gives_the_values_that_the_keys_beside_it_leave() -> None:
    model: Any = validate(Model, {"model": {"name": "gpt", "variant": "gpt2-small", "num_layers": 3}}).model
    assert (model.num_layers, model.dim, model.vocab_size) == (3, 768, 50257)


def test_a_part_complains_like_any_section() -> None:
    assert part_sentence(3) == "model must be a section of keys and values, but is 3."
    assert part_sentence({}).startswith("model.name is required, but absent. Known: ")
    assert part_sentence({"name": "gptt"}) == "model.name must be a known name, but is 'gptt'. Did you mean gpt?"
    wrong = part_sentence({"name": "gpt", "variant": "gpt2-smal"})
    assert wrong == "model.variant must be a variant of gpt, but is 'gpt2-smal'. Did you mean gpt2-small?"
    assert part_sentence({"name": "gpt", "num_leyers": 1}) == (
        "model.num_leyers is not an option. Did you mean model.num_layers?"
    )


def test_a_part_takes_a_config_as_it_is() -> None:
    given = find_part("models", "gpt").PART()
    assert validate(Model, {"model": given}).model is given


def test_the_json_schema_covers_all_parts() -> None:
    schema = Model.model_json_schema()
    assert "GPTConfig" in str(schema)


def test_another_package_adds_a_part_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("cathedral", "dougong.models.gpt", "dougong.models")
    monkeypatch.setattr(config, "_added", lambda kind: [entry] if kind == "models" else [])
    assert "cathedral" in part_names("models")
    assert find_part("models", "cathedral").PART.__name__ == "GPTConfig"
    assert "cathedral" not in part_names("tasks")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["gpt"], r"'gpt' must be one model, but dougong, dougong each have one. Uninstall all but one"),
        (["cathedral", "cathedral"], r"'cathedral' must be one model, but dougong, dougong each have one"),
    ],
)
def test_a_name_that_two_packages_take_is_refused(names: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [importlib.metadata.EntryPoint(name, "dougong.models.gpt", "dougong.models") for name in names]
    monkeypatch.setattr(config, "_added", lambda kind: entries if kind == "models" else [])
    with pytest.raises(UsageError, match=told):
        find_part("models", names[0])
    assert find_part("models", "stack").PART.__name__ == "StackConfig"


def test_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("cathedral", "towers.cathedral", "dougong.models")
    monkeypatch.setattr(config, "_added", lambda kind: [entry] if kind == "models" else [])
    told = "the model 'cathedral' must be what towers brings, but towers.cathedral cannot be imported "
    with pytest.raises(UsageError, match=told + r"\(ModuleNotFoundError: .*Mend or uninstall that package"):
        find_part("models", "cathedral")


class Beam(Form):
    word: ClassVar[str] = "beam"
    main: ClassVar[str | None] = "length"
    length: Annotated[int, pydantic.Field(gt=0)] = 1
    """A length."""
    wood: str | None = None
    """A kind."""

    def faults(self) -> Iterator[Fault]:
        if self.length == 13:
            yield Fault("length", "must be no unlucky number.")


PIECE = Keyed("a piece", lambda: {"beam": Beam, "frame": Frame}, named=True)


class Frame(Form):
    word: ClassVar[str] = "frame"
    main: ClassVar[str | None] = "parts"
    parts: list[Annotated[Form, PIECE]] = pydantic.Field(default=[])
    """What it is made of."""


class House(Config):
    roof: Annotated[Form, Keyed("a roof", lambda: {"beam": Beam})] = Beam()
    """One."""
    pieces: list[Annotated[Form, PIECE]] = pydantic.Field(default=[])
    """Several."""


def pieces(*items: Any) -> list[Any]:
    return list(validate(House, {"pieces": list(items)}).pieces)


def test_a_form_may_be_a_word_a_value_or_a_section() -> None:
    assert pieces("beam", {"beam": None}, {"beam": {}}) == [Beam(), Beam(), Beam()]
    assert pieces({"beam": 3}, {"beam": {"length": 3, "wood": "oak"}}) == [Beam(length=3), Beam(length=3, wood="oak")]
    assert pieces({"frame": [{"beam": 2}, "frame"]})[0].parts == [Beam(length=2), Frame()]
    assert validate(House, {"roof": {"beam": 4}}).roof == Beam(length=4)


def test_a_form_keeps_its_name_and_survives_its_dump() -> None:
    house = validate(House, {"pieces": [{"frame": [{"beam": 2}], "as": "front"}, "beam"]})
    assert house.pieces[0].given_name == "front"
    assert house.pieces[1].given_name is None
    assert house.model_dump()["pieces"] == [
        {"frame": {"parts": [{"beam": {"length": 2}}]}, "as": "front"},
        {"beam": {"length": 1}},
    ]
    for mode in ("python", "json"):
        again = validate(House, house.model_dump(mode=mode))
        assert again == house
        assert again.pieces[0].given_name == "front"
    assert validate(House, {"pieces": [{"beam": 1, "as": "one"}]}) != validate(House, {"pieces": [{"beam": 1}]})


FORMS = [
    ("bean", "pieces[0] must be a piece, but 'bean' is none. Did you mean beam?"),
    (3, "pieces[0] must be a piece, but is 3. Write its word, such as beam."),
    ({}, "pieces[0] must have the word of a piece as its key, but is empty. Remove it."),
    ({"beam": None, "length": 3}, "pieces[0] must have one key, but has beam, length. Indent length below beam."),
    (
        {"beam": 1, "frame": []},
        "pieces[0] must have one key, but has beam, frame. Begin a line of its own, with a dash, for each.",
    ),
    ({"beam": 1, "as": "A b"}, "pieces[0].as must be a word of small letters, digits and _, but is 'A b'. Rename it."),
    ({"beam": -1}, "pieces[0].beam must be greater than 0, but is -1."),
    ({"beam": {"length": -1}}, "pieces[0].beam.length must be greater than 0, but is -1."),
    ({"beam": {"lenght": 1}}, "pieces[0].beam.lenght is not an option. Did you mean pieces[0].beam.length?"),
    ({"beam": 13}, "pieces[0].beam (length) must be no unlucky number."),
    ({"beam": {"length": 13}}, "pieces[0].beam.length must be no unlucky number."),
    ({"frame": ["beam", {"beam": "x"}]}, "pieces[0].frame[1].beam must be an integer, but is 'x'."),
    (
        {"frame": {"parts": [{"frame": [{"beam": 13}]}]}},
        "pieces[0].frame.parts[0].frame[0].beam (length) must be no unlucky number.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("item", "sentence"), FORMS, ids=[text for _, text in FORMS])
def test_a_wrong_form_is_complained_of_where_and_as_it_is_written(item: Any, sentence: str) -> None:
    found = [complaint.text for complaint in try_validate(House, {"pieces": [item]})[1]]
    assert found == [sentence]


def test_a_form_without_a_name_to_give_takes_none() -> None:
    found = [complaint.text for complaint in try_validate(House, {"roof": {"beam": 1, "as": "one"}})[1]]
    assert found == ["roof must have one key, but has beam, as. Begin a line of its own, with a dash, for each."]


def test_the_json_schema_knows_the_words_of_forms() -> None:
    schema = House.model_json_schema()["properties"]
    assert {"enum": ["beam", "frame"]} in schema["pieces"]["items"]["anyOf"]
    assert "as" not in str(schema["roof"]["anyOf"])
