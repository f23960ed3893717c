"""Where a recipe comes from: the name of a shipped one, a file, a run folder, inline YAML, or Python values.

Knows files and names. The shipped recipes are data of the package, found by their file names.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.config import did_you_mean, path_text
from dougong.core.errors import RecipeError, UsageError
from dougong.recipe.document import MAX_BYTES, Document, Keys, parse
from dougong.recipe.overrides import changed, merged, parse_override, parse_path
from dougong.recipe.recipe import Recipe, validated

RUN_RECIPE = "recipe.yaml"
_PATH = re.compile("init_from|paths?|[a-z_]+_paths?")  # fields, anywhere in a recipe, that name a person's own files
Source = str | Path | Mapping[str, Any] | Recipe


def load(source: Source, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Recipe:
    """Returns a recipe.

    Args:
        source: A shipped recipe's name, a file, a run folder, inline YAML (`{model: {name: gpt}}`), or values.
        overrides: `path=value` texts, applied in order.
        options: Python's short form: `steps=200` means `train.steps`; a section's name takes a mapping of changes.

    Raises:
        RecipeError: With every complaint, each with file and line.
        UsageError: There is no such recipe, file or folder.
    """
    document, folder = _read(source)
    values = document.values
    places = {path: f"{document.where}:{line}" for path, line in document.lines.items()} if document.lines else {}
    if is_inline(source):
        values = _completed(values)
    elif values is None:
        raise RecipeError([f"{document.where} must be a recipe, but is empty. Print one to edit: dougong recipe NAME"])
    for text in overrides:
        path, value = parse_override(text)
        values = changed(values, path, value)
        _note(places, path, f"--set {text}")
    for path, value in _option_paths(options or {}):
        values = changed(values, path, merged(_at(values, path), value))
        _note(places, path, "")
    if isinstance(values, Mapping):
        values = _with_initial_model(anchored(values, folder or Path()))
    return validated(values, places, document.where)


def load_folder(folder: str | Path) -> Recipe:
    """Returns the recipe of a run folder."""
    return load(Path(folder))


def name_of(source: Source) -> str:
    """Returns a short name for runs of this recipe: `gpt-stdlib`."""
    if isinstance(source, Recipe):
        return str(getattr(source.model, "name", "run"))
    if isinstance(source, Mapping):
        return str(_name_in(source))
    if is_inline(source):
        return _name_in(parse(str(source), "inline recipe").values)
    path = Path(source)
    if path.is_dir() and not _is_shipped(source):
        stem, _, number = path.resolve().name.rpartition("-")
        return stem if stem and number.isdigit() else path.resolve().name
    return path.name.removesuffix(".yaml").removesuffix(".yml")


def _name_in(values: Any) -> str:
    model = values.get("model") if isinstance(values, Mapping) else None
    name = (model.get("variant") or model.get("name")) if isinstance(model, Mapping) else getattr(model, "name", None)
    return str(name or "run")


def shipped_names() -> list[str]:
    """Returns the names of the recipes that come with the package."""
    return sorted(name.removesuffix(".yaml") for name in files.own_names("recipes") if name.endswith(".yaml"))


def shipped_text(name: str) -> str:
    """Returns a shipped recipe as it is written, with its comments.

    Raises:
        UsageError: There is none of this name; the message has the nearest.
    """
    names = shipped_names()
    if name not in names:
        known = did_you_mean(name, names) or " See: dougong list recipes"
        raise UsageError(f"{name!r} is not a recipe.{known}", name="E-RECIPE")
    return files.read_own(f"recipes/{name}.yaml")


def _is_shipped(source: Any) -> bool:
    return isinstance(source, str) and source in shipped_names()


def is_inline(source: Any) -> bool:
    """Tells whether a source is YAML itself, not the name of something."""
    return isinstance(source, str) and (source.lstrip().startswith("{") or "\n" in source or ": " in source)


def _read(source: Source) -> tuple[Document, Path | None]:
    """Returns a recipe's document, and the folder that its relative paths may start from."""
    if isinstance(source, Recipe):
        return Document(source.values(), "the recipe"), None
    if isinstance(source, Mapping):
        return Document(dict(source), "the recipe"), None
    if is_inline(source):
        return parse(str(source), "inline recipe"), None
    if _is_shipped(source):
        return parse(shipped_text(str(source)), f"{source}.yaml"), None
    path = Path(source)
    if path.is_dir():
        if not (path / RUN_RECIPE).is_file():
            raise UsageError(f"{path} must be a run folder, but has no {RUN_RECIPE}. Name another.", name="E-PATH")
        path = path / RUN_RECIPE
    elif not path.exists() and path.name == str(source) and path.suffix not in (".yaml", ".yml"):
        shipped_text(str(source))
    return parse(files.read_bytes(path, MAX_BYTES + 1), str(path)), path.parent


def _completed(values: Any) -> Any:
    """Gives an inline recipe the task and data it leaves out, from the shipped one that completes its model family.

    How it trains is not taken over: what suits a small model may ruin a large one, so TrainConfig's defaults hold.
    """
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        return values
    for name in shipped_names():
        text = shipped_text(name)
        if "completes: true" not in text:
            continue  # unparsed: there are dozens
        whole = parse(text, f"{name}.yaml").values
        if whole.get("completes") and whole["model"]["name"] == values["model"].get("name"):
            return {**{key: whole[key] for key in ("task", "data")}, **values}
    return values


def _with_initial_model(values: Any) -> Any:
    """Takes the model's config from the folder it starts from, apart from what the recipe gives of it."""
    given = values.get("model", {})
    whole = not isinstance(given, Mapping) or "name" in given or "variant" in given
    if whole or not isinstance(values.get("init_from"), str):
        return values
    from dougong.checkpoint.weights import read_config

    model = read_config(model_folder(values["init_from"])).model_dump()
    # The pictures may be of another size than those that the weights have seen; and a new head has the data's classes.
    renewed = ["image_shape", *(["num_classes"] if values.get("init_new") or "head" in given else [])]
    return {**values, "model": {**{name: None if name in renewed else value for name, value in model.items()}, **given}}


def model_folder(folder: str | Path) -> Path:
    """Returns the model folder itself, of a run folder too."""
    folder = Path(folder).expanduser()
    return folder / "model" if (folder / RUN_RECIPE).is_file() else folder


def _option_paths(options: Mapping[str, Any]) -> Iterator[tuple[Keys, Any]]:
    for name, value in options.items():
        path = parse_path(name)
        yield path if path[0] in Recipe.model_fields else ("train", *path), value


def _at(values: Any, path: Keys) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _note(places: dict[Keys, str], path: Keys, place: str) -> None:
    """Notes who wrote a path; the sections above it too, where nobody wrote them before."""
    places[path] = place
    for length in range(1, len(path)):
        places.setdefault(path[:length], place)


def anchored(values: Any, folder: Path, absolute: bool = False) -> Any:
    """Returns values in which each relative path that is found below `folder` alone starts from there.

    Args:
        folder: Where the recipe lies. What is found from the working folder wins.
        absolute: Make all that is found absolute, so that the values hold wherever they are read.
    """
    if isinstance(values, Mapping):
        return {
            key: (_anchored_paths if _PATH.fullmatch(key) else anchored)(value, folder, absolute)
            for key, value in values.items()
        }
    return [anchored(value, folder, absolute) for value in values] if isinstance(values, list) else values


def _anchored_paths(value: Any, folder: Path, absolute: bool) -> Any:
    if isinstance(value, list):
        return [_anchored_paths(item, folder, absolute) for item in value]
    if not isinstance(value, str) or Path(value).expanduser().is_absolute():
        return value
    if _found(value):
        return str(Path(value).absolute()) if absolute else value
    below = str(folder.absolute() / value)
    return below if _found(below) else value


def _found(pattern: str) -> bool:
    return bool(glob.glob(pattern, recursive=True)) or Path(pattern).exists()


def paths_in(values: Any, start: Keys = ()) -> Iterator[tuple[str, str]]:
    """Yields (`data.sources[0].paths`, `input.txt`) for every path that the values name."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if _PATH.fullmatch(key):
                names = [value] if isinstance(value, str) else value or ()
                yield from ((path_text((*start, key)), str(name)) for name in names)
            else:
                yield from paths_in(value, (*start, key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from paths_in(value, (*start, number))
