"""What a config is, how its faults become sentences, and how a part is found by its name.

Knows pydantic; does not know YAML, files or line numbers (see `recipe.py`), and imports no torch.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic_core import PydanticCustomError, core_schema

from dougong.core.errors import RecipeError, UsageError
from dougong.core.sentence import did_you_mean as did_you_mean
from dougong.core.sentence import path_text as path_text
from dougong.core.sentence import sentence_of
from dougong.core.sentence import shown as shown

C = TypeVar("C", bound="Config")


class Fault(NamedTuple):
    """One thing that is wrong in a config: the field, and the rest of the sentence that begins with its path."""

    field: str
    text: str


class Config(pydantic.BaseModel):
    """The frozen description of one part. Unknown keys are refused; every field has a one-line description.

    Values are taken strictly, as YAML means them: neither `"3"` nor `true` is a number, but an integer will do for a
    float, a list for a tuple and a string for a path.

    A subclass adds `faults` for conditions between fields, and `build` to make the part.
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields (each field's own type and range is already checked)."""
        return iter(())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _as_yaml_means(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {key: _fit(value, fields[key].annotation) if key in fields else value for key, value in values.items()}

    @pydantic.model_validator(mode="after")
    def _no_faults(self: C) -> C:
        found = list(self.faults())
        if found:
            raise PydanticCustomError("faults", "faults between fields", {"faults": found})
        return self

    def takes(self, name: str) -> bool:
        """Tells whether a number that the data decides (`vocab_size`, `num_classes`) can be set here."""
        return name in type(self).model_fields

    def replace(self: C, **changes: Any) -> C:
        """Returns a validated copy with the given fields changed.

        Raises:
            RecipeError: A changed value is not allowed.
        """
        return validate(type(self), {**self.model_dump(), **changes})


def _fit(value: Any, annotation: Any) -> Any:
    """Turns the lists and strings of YAML into the tuples and paths that an annotation wants; leaves all else."""
    if not isinstance(value, (list, str)):
        return value
    members = _alternatives(annotation)
    if isinstance(value, str):
        return Path(value) if Path in members and str not in members else value
    for member in members:
        origin, arguments = get_origin(member), get_args(member)
        if origin in (list, tuple):
            last = len(arguments) - 1 - (Ellipsis in arguments)
            return origin(_fit(item, arguments[min(i, last)]) for i, item in enumerate(value))
    return value


@dataclass(frozen=True)
class Complaint:
    """One complaint about a config: where (keys and indices from the root), and a full sentence."""

    path: tuple[str | int, ...]
    text: str


def validate(config_class: type[C], values: Any, prefix: Sequence[str | int] = ()) -> C:
    """Returns the config that `values` describe.

    Raises:
        RecipeError: With every complaint at once.
    """
    config, complaints = try_validate(config_class, values, prefix)
    if config is None:
        raise RecipeError([complaint.text for complaint in complaints])
    return config


def try_validate(
    config_class: type[C], values: Any, prefix: Sequence[str | int] = ()
) -> tuple[C | None, list[Complaint]]:
    """Returns the config and no complaints, or None and all complaints. Paths begin with `prefix`."""
    try:
        return config_class.model_validate(values), []
    except pydantic.ValidationError as error:
        return None, list(_complaints(error, config_class, values, tuple(prefix)))


def _complaints(
    error: pydantic.ValidationError, config_class: type[Config], values: Any, prefix: tuple[str | int, ...]
) -> Iterator[Complaint]:
    """Yields one complaint per place: what several alternatives of one field wish for becomes one sentence."""
    places: dict[tuple[str | int, ...], list[Any]] = {}
    known: dict[tuple[str | int, ...], list[str]] = {}
    for item in error.errors(include_url=False):
        names, inner = _walk(config_class, item["loc"], values)
        places.setdefault(prefix + inner, []).append(item)
        known.setdefault(prefix + inner, names)
    for path, items in places.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in places)
        items = [item for item in items if not (deeper and item["type"].endswith("_type"))]
        for field, text in [fault for item in items if item["type"] == "faults" for fault in item["ctx"]["faults"]]:
            keys = (*path, *_keys(field))[len(prefix) :]
            inside = prefix + _as_written(keys, values)
            option = f" ({keys[-1]})" if keys and inside[-1:] != keys[-1:] else ""  # what a short form leaves unsaid
            yield Complaint(inside, f"{path_text(inside)}{option} {text}")
        items = [item for item in items if item["type"] != "faults"]
        if items:
            yield Complaint(path, sentence_of(items, path, known[path]))


def _keys(field: str) -> list[str | int]:
    """Returns ("betas", 1) for a fault's field `betas[1]`."""
    return [int(index) if index else word for word, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field)]


def _as_written(path: tuple[str | int, ...], values: Any) -> tuple[str | int, ...]:
    """Returns a path without the keys that a short form leaves out: `conv` for `conv.dim`, where `conv: 128` stands."""
    written: list[str | int] = []
    for key in path:
        if isinstance(key, str) and isinstance(values, (str, int, float, list, tuple)):
            continue
        written.append(key)
        values = _inside(values, key)
    return tuple(written)


def _walk(
    config_class: type[Config], loc: tuple[str | int, ...], values: Any
) -> tuple[list[str], tuple[str | int, ...]]:
    """Follows pydantic's location; returns the field names at its last step, and the path as the user wrote it.

    Where a field has alternatives, pydantic puts the tag or the type's name of the one tried into the location; the
    user never wrote that step, so it is dropped.
    """
    here: Any = config_class
    whole = values
    known: list[str] = []
    path: list[str | int] = []
    for key in loc:
        members = _alternatives(here)
        if len(members) > 1:
            here = _member(members, str(key))
            continue
        path.append(key)
        here = members[0].config_of(values) if isinstance(members[0], Part) else members[0]
        if isinstance(here, Keyed):
            known, here, values = [], here.kinds().get(str(key)), _inside(values, key)
            continue
        if isinstance(here, type) and issubclass(here, Config):
            known = list(here.model_fields)
            here = _field_type(here, key) if key in known else None
        else:
            arguments = [argument for argument in getattr(here, "__args__", ()) if argument is not Ellipsis]
            here = arguments[min(key, len(arguments) - 1) if isinstance(key, int) else -1] if arguments else None
        values = _inside(values, key)
    members = _alternatives(here)
    tags = [tag for member in members if len(members) > 1 for tag in _tags(member)]
    return tags or known, _as_written(tuple(path), whole)


def _inside(values: Any, key: Any) -> Any:
    if isinstance(values, dict):
        return values.get(key)
    return values[key] if isinstance(values, (list, tuple)) and isinstance(key, int) and key < len(values) else None


def named_alternatives(config_class: type[Config], field: str) -> dict[str, type[Config]]:
    """Returns the configs that a field may hold, by the name that a recipe gives them."""
    members = _alternatives(config_class.model_fields[field].annotation)
    return {str(tag): member for member in members for tag in _tags(member)}


def _field_type(config_class: type[Config], name: Any) -> Any:
    """Returns a field's annotation, or the `Part` or `Keyed` that says how its config is found."""
    field = config_class.model_fields[name]
    return next((item for item in field.metadata if isinstance(item, (Part, Keyed))), field.annotation)


def _alternatives(annotation: Any) -> list[Any]:
    """Returns the types an annotation allows: without `None` and without the metadata of `Annotated`."""
    while get_origin(annotation) is Annotated:
        part = next((item for item in annotation.__metadata__ if isinstance(item, (Part, Keyed))), None)
        annotation = part or annotation.__origin__
    if get_origin(annotation) not in (Union, UnionType):
        return [annotation]
    rest = [member for member in get_args(annotation) if member is not type(None)]
    return _alternatives(rest[0]) if len(rest) == 1 else rest


def _member(members: Sequence[Any], label: str) -> Any:
    """Returns the alternative that pydantic calls by `label`: a tag, a class's name, or such as `list[int]`."""
    for member in members:
        inner = _alternatives(member)
        if len(inner) > 1 and label.startswith("tagged-union"):
            return member
        if isinstance(inner[0], type) and issubclass(inner[0], Config):
            if label == inner[0].__name__ or label in _tags(inner[0]):
                return inner[0]
        elif label.startswith(f"{getattr(get_origin(inner[0]), '__name__', '?')}["):
            return inner[0]
    return None


def _tags(config_class: Any) -> tuple[Any, ...]:
    """Returns the names that a config of alternatives goes by."""
    field = getattr(config_class, "model_fields", {}).get("name")
    return getattr(field.annotation, "__args__", ()) if field is not None else ()


@dataclass(frozen=True)
class Part:
    """Marks a field whose config is that of the part it names: `model: Annotated[Config, Part("models")]`.

    Written as `{name: gpt, variant: gpt2-small, num_layers: 3}`: first the values of the module's `VARIANTS`, then the
    keys beside it.

    Attributes:
        kind: Where the parts are, as `find_part` takes it.
    """

    kind: str

    def config_of(self, values: Any) -> type[Config] | None:
        """Returns the class of the config that `values` describe, or None if they name no part."""
        if isinstance(values, Config):
            return type(values)
        name = values.get("name") if isinstance(values, dict) else None
        return find_part(self.kind, name).PART if isinstance(name, str) and name in part_names(self.kind) else None

    def validate(self, values: Any) -> Config:
        """Returns the config; the complaints are pydantic's, so that they are collected with all others."""
        if isinstance(values, Config):
            return values
        if not isinstance(values, dict):
            raise PydanticCustomError("dict_type", "not a section")
        names = ", ".join(map(repr, part_names(self.kind)))
        if "name" not in values:
            raise PydanticCustomError("union_tag_not_found", "no name", {"expected_tags": names})
        config_class = self.config_of(values)
        if config_class is None:
            raise PydanticCustomError("union_tag_invalid", "?", {"tag": values["name"], "expected_tags": names})
        variants = getattr(find_part(self.kind, values["name"]), "VARIANTS", None)
        if "variant" not in values or variants is None:
            return config_class.model_validate(values)
        rest = dict(values)
        variant = rest.pop("variant")
        if variant not in list(variants):  # a list has no hash, but may be compared
            near = did_you_mean(str(variant), list(variants))
            text = f"must be a variant of {values['name']}, but is {shown(variant)}.{near}"
            raise PydanticCustomError("faults", "unknown variant", {"faults": [Fault("variant", text)]})
        return config_class.model_validate({**variants[variant], **rest})

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        parts = [find_part(self.kind, name).PART for name in part_names(self.kind)]
        return handler(core_schema.union_schema([part.__pydantic_core_schema__ for part in parts]))


class Form(Config):
    """A config that is written below its own word: `{conv: {dim: 128}}`, or `{conv: 128}`, or `conv`.

    Attributes:
        word: What it is called.
        main: The field that a value beside the word fills; None where there is no such field.
        given_name: What it was named by an `as` beside the word, or None.
    """

    word: ClassVar[str] = ""
    main: ClassVar[str | None] = None
    _given_name: str | None = pydantic.PrivateAttr(default=None)

    @property
    def given_name(self) -> str | None:
        """The name that stands beside the word as `as`."""
        return self._given_name

    def with_name(self, name: str | None) -> Form:
        """Returns the same config under a name."""
        named = self.model_copy()
        named._given_name = name
        return named

    @pydantic.model_serializer(mode="wrap")
    def _below_its_word(self, inner: Any) -> dict[str, Any]:
        fields = type(self).model_fields
        inside = inner(self).items()
        body = {key: value for key, value in inside if value is not None or fields[key].default is not None}
        return {self.word: body} | ({"as": self._given_name} if self._given_name else {})


@dataclass(frozen=True)
class Keyed:
    """Marks a field whose config is written below its word: `Annotated[Stage, Keyed("a stage", stages)]`; see `Form`.

    Attributes:
        what: What all of them are, for a sentence.
        kinds: Returns the configs by their words. Asked when the first recipe is read, so that a config may hold its
            own kind.
        named: Whether each may be given a name by `as`.
    """

    what: str
    kinds: Callable[[], Mapping[str, type[Form]]]
    named: bool = False

    def validate(self, values: Any) -> Form:
        """Returns the config; the complaints are pydantic's, so that they are collected with all others."""
        if isinstance(values, Form):
            return values
        words = dict.fromkeys([values]) if isinstance(values, str) else values
        if not isinstance(words, dict):
            raise _fault(f"must be {self.what}, but is {shown(values)}. Write its word, such as {min(self.kinds())}.")
        words = dict(words)
        name = words.pop("as", None) if self.named else None
        if name is not None and not (isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]*", name)):
            raise _fault("must be a word of small letters, digits and _, but is " + shown(name) + ". Rename it.", "as")
        if len(words) != 1:
            raise _fault(self._not_one(list(words)))
        ((word, body),) = words.items()
        if word not in self.kinds():
            raise _fault(f"must be {self.what}, but {word!r} is none.{did_you_mean(word, list(self.kinds()))}")
        form = self.kinds()[word]
        if body is not None and not isinstance(body, dict) and form.main is not None:
            body = {form.main: body}
        try:
            return form.model_validate({} if body is None else body).with_name(name)
        except pydantic.ValidationError as error:
            raise _below(word, error) from None

    def _not_one(self, words: list[str]) -> str:
        """Returns the complaint about a section that has not exactly one word."""
        known = [word for word in words if word in self.kinds()]
        rest = [word for word in words if word not in known]
        if not words:
            return f"must have the word of {self.what} as its key, but is empty. Remove it."
        if len(known) == 1 and all(word in self.kinds()[known[0]].model_fields for word in rest):
            return f"must have one key, but has {', '.join(words)}. Indent {', '.join(rest)} below {known[0]}."
        return f"must have one key, but has {', '.join(words)}. Begin a line of its own, with a dash, for each."

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        words = list(self.kinds())
        section = {"type": "object", "properties": {word: {} for word in words}, "additionalProperties": False}
        if self.named:
            section["properties"] |= {"as": {"type": "string"}}  # type: ignore[operator]
        return {"anyOf": [{"enum": words}, section]}


def _fault(text: str, field: str = "") -> PydanticCustomError:
    return PydanticCustomError("faults", "not of this form", {"faults": [Fault(field, text)]})


def _below(word: str, error: pydantic.ValidationError) -> pydantic.ValidationError:
    """Returns the same complaints, each one step further down."""
    details = []
    for item in error.errors(include_url=False):
        context = item.get("ctx", {})
        custom = item["type"] in ("faults", "union_tag_invalid", "union_tag_not_found")
        kind = PydanticCustomError(item["type"], "below", context) if custom else item["type"]
        place = {"loc": (word, *item["loc"]), "input": item["input"], "ctx": {} if custom else context}
        details.append({"type": kind, **place})
    return pydantic.ValidationError.from_exception_data(error.title, details)  # type: ignore[arg-type]


def find_part(kind: str, name: str) -> ModuleType:
    """Imports the one module that holds a part: `find_part("models", "gpt")` is `dougong.models.gpt`.

    Args:
        kind: The folder, with dots: `models`, `tasks`, `data.datasets`. Third parties add to the entry point
            group `dougong.<kind>`.
        name: The file's name without its ending.

    Raises:
        UsageError: There is no such part, with the nearest name; or another package's is broken, or named as one of
            ours or a third package's.
    """
    own, singular = _own(kind), kind.rsplit(".", 1)[-1].rstrip("s")
    added = [entry for entry in _added(kind) if entry.name == name]
    if not added and name not in own:
        raise UsageError(f"{name!r} is not a {singular}.{did_you_mean(name, part_names(kind))}")
    if not added:
        return importlib.import_module(f"dougong.{kind}.{name}")
    if len(added) + (name in own) > 1:
        packages = ", ".join(["dougong"] * (name in own) + [_package(entry) for entry in added])
        raise UsageError(f"{name!r} must be one {singular}, but {packages} each have one. Uninstall all but one.")
    try:
        return importlib.import_module(added[0].module)
    except Exception as error:  # whatever it is, another author's package has it
        raise UsageError(
            f"the {singular} {name!r} must be what {_package(added[0])} brings, but {added[0].module} cannot be "
            f"imported ({type(error).__name__}: {error}). Mend or uninstall that package."
        ) from error


def part_names(kind: str) -> list[str]:
    """Returns the names of all parts of a kind, sorted: the files of the folder, and what entry points add."""
    return sorted(_own(kind) | {entry.name for entry in _added(kind)})


def _own(kind: str) -> set[str]:
    """Returns the names of the parts that are files of the folder."""
    package = importlib.import_module(f"dougong.{kind}")
    return {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}


def _package(entry: Any) -> str:
    return entry.dist.name if entry.dist is not None else entry.module.split(".")[0]


def _added(kind: str) -> list[Any]:
    """Returns the entry points of the parts that other packages add."""
    return [entry for entry in _entry_points() if entry.group == f"dougong.{kind}"]


@functools.cache
def _entry_points() -> list[Any]:
    """Returns all entry points of dougong. Asked once: it reads the metadata of every installed package."""
    from importlib.metadata import distributions

    found = (entry for package in distributions() for entry in package.entry_points)
    return [entry for entry in found if entry.group.startswith("dougong.")]
