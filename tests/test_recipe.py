"""Recipes: where they come from, how they are changed, and how they complain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dougong.core.config import find_part
from dougong.core.errors import RecipeError, UsageError
from dougong.plan.count import build_on_meta, foreseen_model, known_model
from dougong.recipe import Recipe, load, name_of, shipped_names, shipped_text
from dougong.recipe.document import parse
from dougong.recipe.overrides import changed, merged, parse_override
from dougong.recipe.recipe import schema
from dougong.recipe.sources import anchored, paths_in
from dougong.train.config import TrainConfig
from tests.tiny import tiny_recipe, write_recipe

SHIPPED = shipped_names()


def complaints(source: Any, *overrides: str, **options: Any) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(source, overrides, options)
    return getattr(caught.value, "complaints", [str(caught.value)])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_is_valid_and_builds_on_meta(name: str) -> None:
    recipe = load(name)
    values = parse(shipped_text(name), name).values
    _, open_ = foreseen_model(recipe)
    recipe = recipe.replace(model={**recipe.model.model_dump(), **dict.fromkeys(open_, 65)})
    assert next(build_on_meta(known_model(recipe)).parameters()).is_meta
    assert recipe.title
    assert recipe.description
    assert values["model"]["name"] == recipe.model.name  # type: ignore[attr-defined]


def test_every_size_of_the_papers_has_a_recipe() -> None:
    variants = find_part("models", "gpt").VARIANTS
    sizes = {name for name in variants if name.startswith(("gpt3-", "codex-"))}
    assert len(sizes) == 16
    assert sizes <= set(SHIPPED)
    assert {"gpt-stdlib", "gpt-shakespeare", "gpt2-124m", "llama-style-tiny"} <= set(SHIPPED)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("gpt3-")])
def test_gpt3_recipes_see_300_billion_tokens(name: str) -> None:
    from dougong.data.loader import BatchSizes

    train = load(name).train
    assert train.batch_ramp is not None
    assert isinstance(train.batch_size, int)
    sizes = BatchSizes.ramp(train.batch_ramp.start, train.batch_size, train.batch_ramp.steps)
    assert sizes.start(train.steps) * 2048 == pytest.approx(300e9, rel=0.005)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_satisfies_the_schema_for_editors(name: str) -> None:
    jsonschema.validate(parse(shipped_text(name), name).values, SCHEMA)
    assert shipped_text(name).startswith("# yaml-language-server: $schema=")


SCHEMA = schema()


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "gpt", "num_leyers": 3}},
        {"model": {"num_layers": 3}},
        {"train": {"optimizer": {"name": "adan"}}},
        {"model": {"name": "gpt", "variant": "gpt9"}},
    ],
    ids=str,
)
def test_the_schema_catches_what_validation_catches(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**parse(shipped_text("gpt-stdlib"), "x").values, **change}, SCHEMA)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == recipe
    assert load(recipe.values()) == recipe
    assert load(recipe) == recipe


def test_a_recipe_comes_from_a_name_a_file_a_run_folder_or_text(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_bytes(path.read_bytes())
    sources = [path, str(path), tmp_path / "run", path.read_text(), json.dumps(tiny_recipe(tmp_path))]
    assert len({load(source).to_yaml() for source in sources}) == 1


def test_inline_text_takes_task_and_data_from_the_recipe_that_completes_it() -> None:
    recipe = load("{model: {name: gpt, variant: gpt2-small}}")
    demo = load("gpt-stdlib")
    assert recipe.model.dim == 768  # type: ignore[attr-defined]
    assert (recipe.task, recipe.data) == (demo.task, demo.data)
    assert recipe.train == TrainConfig()
    assert [name for name in SHIPPED if load(name).completes] == ["digits-resnet", "gpt-stdlib"]


def test_a_file_must_be_complete_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {name: gpt}\n")
    assert complaints(tmp_path / "a.yaml") == [
        f"{tmp_path}/a.yaml: task is required, but absent. Add it.",
        f"{tmp_path}/a.yaml: data is required, but absent. Add it.",
    ]


def test_every_complaint_comes_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """\
model:
  name: gpt
  num_heads: 5
  dim: 768
task: {name: language_modeling, z_lss: 1}
data:
  name: text
  sources:
    - name: python_library
    - {name: fles, paths: [a]}
train:
  steps: -1
  optimizer:
    name: adamw
    betas: [0.9, 2]
""",
    )
    found = [text.removeprefix(f"{path}:") for text in complaints(path)]
    assert found[0].startswith("3: model.num_heads must divide dim, but 768 % 5 is 3.")
    assert found[1:] == [
        "5: task.z_lss is not an option. Did you mean task.z_loss?",
        "10: data.sources[1].name must be a known name, but is 'fles'. Did you mean files?",
        "12: train.steps must be greater than 0, but is -1.",
        "15: train.optimizer.betas[1] must be less than 1.0, but is 2.",
    ]


def test_an_override_has_the_type_that_yaml_gives_it() -> None:
    recipe = load(
        "gpt-stdlib",
        [
            "train.steps=600",
            "train.optimizer.lr=1e-3",
            "train.compile=false",
            "train.batch_size=all",
            "train.clip_norm=",
        ],
    )
    train = recipe.train
    assert (train.steps, train.optimizer.lr, train.compile, train.batch_size) == (600, 1e-3, False, "all")
    assert train.clip_norm is None


def test_an_override_reaches_into_lists(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path)
    recipe: Any = load(values, ["data.sources[0].field=body", "data.sources[1]={name: python_library}"])
    assert [source.name for source in recipe.data.sources] == ["files", "python_library"]
    assert recipe.data.sources[0].field == "body"


OVERRIDES = [
    ("train.stesp=3", "--set train.stesp=3: train.stesp is not an option. Did you mean train.steps?"),
    ("trian.steps=3", "--set trian.steps=3: trian is not an option. Did you mean train?"),
    ("train.steps=many", "--set train.steps=many: train.steps must be an integer, but is 'many'."),
    ("train.steps", "--set must have the form path=value, such as train.steps=500, but is 'train.steps'."),
    ("=3", "--set must have the form path=value, such as train.steps=500, but is '=3'."),
    ("data.sources[4].name=x", "data.sources[4] must be an item of a list, but the list has 1. Set the whole list."),
    ("train.steps.x=1", "train.steps must be a section to set 'x' in it, but is "),
    ("train.steps=[", "--set train.steps:1: must be YAML, but"),
]


@pytest.mark.parametrize(("text", "sentence"), OVERRIDES, ids=[text for text, _ in OVERRIDES])
def test_a_wrong_override_is_one_sentence(text: str, sentence: str) -> None:
    (found,) = complaints("gpt-stdlib", text)
    assert found.startswith(sentence)


def test_an_override_changes_a_copy() -> None:
    values = {"a": [{"b": 1}]}
    assert changed(values, ("a", 0, "b"), 2) == {"a": [{"b": 2}]}
    assert changed(None, ("a", "b"), 2) == {"a": {"b": 2}}
    assert values == {"a": [{"b": 1}]}
    assert parse_override("a.b[0].c={x: 1}") == (("a", "b", 0, "c"), {"x": 1})


def test_python_options_mean_training_or_name_a_section() -> None:
    recipe: Any = load("gpt-stdlib", options={"steps": 300, "model": {"dim": 128}, "train.seed": 3})
    assert (recipe.train.steps, recipe.train.seed, recipe.model.dim, recipe.model.num_layers) == (300, 3, 128, 4)
    assert complaints("gpt-stdlib", stesp=3) == ["train.stesp is not an option. Did you mean train.steps?"]


def test_a_section_that_names_its_part_is_replaced_not_mixed() -> None:
    recipe = load("gpt-stdlib", options={"optimizer": {"name": "sgd", "lr": 1.0}})
    assert recipe.train.optimizer.name == "sgd"
    assert merged({"a": {"x": 1}}, {"a": {"y": 2}}) == {"a": {"x": 1, "y": 2}}
    assert merged({"a": {"x": 1}}, {"a": {"name": "n"}}) == {"a": {"name": "n"}}


def test_an_unknown_name_offers_the_nearest() -> None:
    assert complaints("gpt-stdlb") == ["'gpt-stdlb' is not a recipe. Did you mean gpt-stdlib?"]
    assert complaints("folder/none.yaml") == ["folder/none.yaml does not exist. Check the path."]
    assert complaints("none.yaml") == ["none.yaml does not exist. Check the path."]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    assert complaints(tmp_path) == [f"{tmp_path} must be a run folder, but has no recipe.yaml. Name another."]


def test_an_empty_recipe_says_how_to_begin(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert "Print one to edit: dougong recipe NAME" in complaints(tmp_path / "a.yaml")[0]


def test_the_name_of_a_run_comes_from_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "demo-12").mkdir()
    assert name_of("gpt-stdlib") == "gpt-stdlib"
    assert name_of(tmp_path / "mine.yaml") == "mine"
    assert name_of(tmp_path / "demo-12") == "demo"
    assert name_of("{model: {name: gpt, variant: gpt2-xl}}") == "gpt2-xl"
    assert name_of(load("gpt-stdlib")) == "gpt"
    assert name_of({"model": {"name": "gpt"}}) == "gpt"


def test_paths_start_from_the_working_folder_or_else_from_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    values = {"sources": [{"paths": ["a.txt", "*.md", "/x/y"]}], "tokenizer": {"path": "t.json"}}
    assert anchored(values, tmp_path / "recipes") == values
    (tmp_path / "recipes" / "a.txt").write_text("a")
    (tmp_path / "recipes" / "b.md").write_text("b")
    below = anchored(values, tmp_path / "recipes")
    assert below["sources"][0]["paths"] == [
        f"{tmp_path}/recipes/a.txt", f"{tmp_path}/recipes/*.md", "/x/y",
    ]  # fmt: skip
    (tmp_path / "here" / "a.txt").write_text("a")
    assert anchored(values, tmp_path / "recipes")["sources"][0]["paths"][0] == "a.txt"
    assert anchored(values, tmp_path, absolute=True)["sources"][0]["paths"][0] == f"{tmp_path}/here/a.txt"


def test_the_paths_of_a_recipe_are_told_with_their_options() -> None:
    values = {"data": {"sources": [{"paths": ["a", "b"]}], "tokenizer": {"path": "c"}}}
    assert list(paths_in(values)) == [
        ("data.sources[0].paths", "a"),
        ("data.sources[0].paths", "b"),
        ("data.tokenizer.path", "c"),
    ]


def test_yaml_means_what_version_1_2_says() -> None:
    values = parse(
        "a: 1e-3\nb: yes\nc: 0o17\nd: 2024-01-02\ne: 1_000\nf: ~\ng: 'x'\nh: .inf\ni: -3\nj: true\n", "x"
    ).values
    assert values == {
        "a": 1e-3, "b": "yes", "c": 15, "d": "2024-01-02", "e": 1000, "f": None, "g": "x", "h": float("inf"), "i": -3,
        "j": True,
    }  # fmt: skip


def test_lines_of_keys_and_items_are_known() -> None:
    document = parse("a:\n  b: 1\n  c:\n    - 2\n    - d: 3\n", "x")
    assert document.lines[("a", "c", 1, "d")] == 5
    assert document.lines[("a", "b")] == 2


def test_small_anchors_may_be_used() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n", "x").values == {"a": {"b": 1}, "c": {"b": 1}}


def test_recipe_without_a_model_takes_that_of_the_folder_it_starts_from(tmp_path: Path) -> None:
    from dougong.checkpoint.weights import save_model

    config = find_part("models", "gpt").PART(vocab_size=257, max_seq_len=16, num_layers=1, num_heads=2, dim=16)
    model = config.build()
    model.init_weights(0)
    save_model(model, tmp_path / "start")
    values = {**tiny_recipe(tmp_path), "init_from": str(tmp_path / "start")}
    del values["model"]
    recipe: Any = load(values)
    assert isinstance(recipe, Recipe)
    assert (recipe.model.dim, recipe.model.vocab_size) == (16, 257)


def test_a_recipe_error_is_a_usage_error() -> None:
    assert issubclass(RecipeError, UsageError)
