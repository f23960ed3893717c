"""What a recipe is, and how values become one: all complaints at once, each with the place it comes from.

Knows the sections; finds the parts in them by name (law 10). Does not know where values come from (see `sources.py`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from dougong.core.config import Complaint, Config, Fault, Part, find_part, part_names, try_validate
from dougong.core.errors import RecipeError
from dougong.recipe.document import Keys
from dougong.train.adapter import Adapted, LoraConfig
from dougong.train.config import TrainConfig


class Recipe(Config):
    """The frozen, complete description of one experiment."""

    title: str = ""
    """What it trains, in one line; the model card's heading."""
    description: str = ""
    """What is worth knowing before and after running it; goes into the model card."""
    completes: bool = False
    """Whether inline recipes of the same model family take the task and the data they leave out from this one."""
    init_from: Path | None = None
    """Model folder (Hugging Face's, or a run's) whose weights training starts from; absent: random weights."""
    init_new: tuple[str, ...] = ()
    """What starts anew rather than from `init_from`: names in which `*` stands for anything, as in `head.*`."""
    model: Annotated[Config, Part("models")]
    """The network; without a name it is that of the folder `init_from`, but for what is given here."""
    task: Annotated[Config, Part("tasks")]
    """The objective."""
    data: Annotated[Config, Part("data.datasets")]
    """The dataset."""
    train: TrainConfig = TrainConfig()
    """How the model is trained."""
    adapter: LoraConfig | None = None
    """What is trained beside the weights in their place; absent: the weights themselves."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if self.init_new and self.init_from is None:
            yield Fault("init_new", "has no effect without init_from. Set init_from, or remove it.")
        if self.adapter is not None and self.train.frozen:
            yield Fault(
                "train.frozen",
                "has no effect beside an adapter: all but what adapter.also and init_new name is frozen. Remove it.",
            )

    def trained(self, model: Config | None = None) -> Any:
        """Returns what builds the network that trains: the config of the model (or another), or it with the adapter."""
        model = self.model if model is None else model
        return model if self.adapter is None else Adapted(model, self.adapter, self.init_new)

    def values(self) -> dict[str, Any]:
        """Returns all values, defaults included, as plain data."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Returns the recipe as YAML that reads back as the same recipe."""
        return to_yaml(self.values())


def validated(values: Any, places: Mapping[Keys, str], whole: str = "") -> Recipe:
    """Returns the recipe that values describe.

    Args:
        places: Where each path was written: `recipe.yaml:14`, `--set train.steps`.
        whole: What to name for what was written nowhere.

    Raises:
        RecipeError: With every complaint, each beginning with its place, in the order of the lines.
    """
    recipe, complaints = try_validate(Recipe, {} if values is None else values)
    if recipe is None:
        raise RecipeError(sorted((_placed(complaint, places, whole) for complaint in complaints), key=_line))
    return recipe


def _placed(complaint: Complaint, places: Mapping[Keys, str], whole: str) -> str:
    for length in range(len(complaint.path), 0, -1):
        place = places.get(complaint.path[:length])
        if place is not None:
            return f"{place}: {complaint.text}" if place else complaint.text
    return f"{whole}: {complaint.text}" if whole else complaint.text


def _line(text: str) -> int:
    line = re.match(r"[^ ]*?:(\d+): ", text)
    return int(line[1]) if line is not None else 0


def to_yaml(values: Any) -> str:
    """Returns plain values as YAML, in their order; short lists on one line."""
    import ruamel.yaml

    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    yaml.allow_unicode = True
    text = io.StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of recipes over all parts that are installed, for editors."""
    found = Recipe.model_json_schema()
    definitions = found["$defs"]
    for kind in ("models",):
        for name in part_names(kind):
            module = find_part(kind, name)
            variants = getattr(module, "VARIANTS", None)
            if variants:
                definition = definitions[module.PART.__name__]
                variant = {"enum": list(variants), "description": "A named size; the keys beside it come on top."}
                definition["properties"]["variant"] = variant
    for definition in definitions.values():
        properties = definition.get("properties", {})
        if "const" in properties.get("name", {}):
            definition["required"] = sorted({*definition.get("required", ()), "name"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "dougong recipe"}


def schema_text() -> str:
    """Returns the schema as JSON."""
    return json.dumps(schema(), indent=2)
