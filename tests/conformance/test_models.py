"""What every model owes, found by listing the folder: a new file in `models/` is tested without writing a test.

A model's module gives `PART` (its config), `VARIANTS` (named sizes, counted in `golden/`), `SMALL` (configs to compute
with here, which between them use every field) and `example(config, batch_size)` (inputs of `forward`).
"""

from __future__ import annotations

import copy
import gc
import inspect
import itertools
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from dougong.checkpoint.weights import load_model, save_model
from dougong.core.config import Config, Keyed, Part, find_part, part_names, try_validate, validate
from dougong.core.contracts import Model
from dougong.core.errors import UsageError
from dougong.core.seed import sample_keys

MODULES = [find_part("models", name) for name in part_names("models")]
SMALL = [
    pytest.param(module, name, id=f"{module.PART.__module__.rsplit('.', 1)[-1]}-{name}")
    for module in MODULES
    for name in module.SMALL
]
GOLDEN = Path(__file__).parents[1] / "golden"
every_model = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
every_small_model = pytest.mark.parametrize(("module", "name"), SMALL)


def built(module: ModuleType, name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = validate(module.PART, module.SMALL[name]).build()
    model.init_weights(0)
    return model.to(dtype)


def inputs_of(module: ModuleType, model: nn.Module, rows: int = 3) -> dict[str, Tensor]:
    """Returns example inputs, and noise where the model takes it."""
    inputs = module.example(model.config, rows)
    if "noise" in inspect.signature(model.forward).parameters:
        inputs["noise"] = sample_keys(torch.arange(rows), 0, "dropout", 1)
    return inputs


def parameter_count(config: Config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.build().parameters())


def accepted(part: type[Config], values: dict[str, Any]) -> Config | None:
    """Returns the config of values without those that have no effect beside the others, or None."""
    config, complaints = try_validate(part, values)
    idle = {complaint.path[0] for complaint in complaints if "has no effect" in complaint.text}
    return config or try_validate(part, {key: value for key, value in values.items() if key not in idle})[0]


# Sizes


@every_model
def test_every_variant_has_its_golden_count(module: ModuleType) -> None:
    name = module.__name__.rsplit(".", 1)[-1]
    lines = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    golden = {variant: int(count.replace(",", "")) for variant, count, *_ in (line.split() for line in lines)}
    # A variant may leave to the data how many tokens and classes there are, if it has any; what it is counted with
    # stands in its line, or is this.
    counted = {}
    for variant, *said in (line.split() for line in lines):
        given = {key: int(number) for key, number in (pair.split("=") for pair in said[1:])}
        defaults = {"vocab_size": 512, "num_classes": 1000} | given
        values = {key: number for key, number in defaults.items() if key in module.PART.model_fields}
        config = accepted(module.PART, values | module.VARIANTS[variant])
        counted[variant] = parameter_count(config or validate(module.PART, module.VARIANTS[variant]))
    assert set(module.VARIANTS) == set(golden)
    assert counted == golden


@every_small_model
def test_model_on_meta_has_the_shapes_of_the_real_one(module: ModuleType, name: str) -> None:
    real = built(module, name)
    with torch.device("meta"):
        shadow = copy.deepcopy(real.config).build()
    assert all(tensor.is_meta for tensor in shadow.state_dict().values())
    shapes = {key: tensor.shape for key, tensor in real.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in shadow.state_dict().items()}
    assert isinstance(real, Model)


# Initialisation


def unfilled(model: nn.Module) -> list[str]:
    """Returns the parameters and buffers that `init_weights` leaves as they were."""
    for tensor in model.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else -77)
    model.init_weights(0)
    return [key for key, tensor in model.state_dict().items() if bool((tensor.isnan() | (tensor == -77)).any())]


@every_small_model
def test_every_parameter_is_initialised_as_the_seed_says(module: ModuleType, name: str) -> None:
    model = built(module, name)
    first = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert unfilled(model) == []
    assert all(torch.equal(first[key], tensor) for key, tensor in model.state_dict().items())
    model.init_weights(1)
    assert not all(torch.equal(first[key], tensor) for key, tensor in model.state_dict().items())


def test_a_forgotten_parameter_is_noticed() -> None:
    model = built(*SMALL[0].values)
    model.forgotten = nn.Parameter(torch.zeros(2))
    inner = model.init_weights
    model.init_weights = lambda seed: (inner(seed), model.forgotten.data.fill_(torch.nan))
    assert unfilled(model) == ["forgotten"]


# Gradients


def without_gradient(model: nn.Module, inputs: dict[str, Tensor]) -> list[str]:
    model(**inputs).square().sum().backward()
    return [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]


@every_small_model
def test_every_parameter_gets_a_gradient(module: ModuleType, name: str) -> None:
    model = built(module, name)
    assert without_gradient(model, inputs_of(module, model)) == []


def test_an_unused_parameter_is_noticed() -> None:
    module, name = SMALL[0].values
    model = built(module, name)
    model.unused = nn.Parameter(torch.zeros(2))
    assert without_gradient(model, inputs_of(module, model)) == ["unused"]


@every_small_model
def test_model_learns_one_batch_by_heart(module: ModuleType, name: str) -> None:
    model = built(module, name)
    inputs = module.example(model.config, 2)
    wanted = torch.randn(model(**inputs).shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (model(**inputs) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# Rows


def crosstalk(compute: Callable[..., Tensor], inputs: dict[str, Tensor]) -> float:
    """Returns by how much a row's output depends on the other rows of its batch."""
    whole = compute(**inputs)
    alone = [compute(**{key: value[row : row + 1] for key, value in inputs.items()}) for row in range(len(whole))]
    return (whole - torch.cat(alone)).abs().max().item()


@every_small_model
@torch.no_grad()
def test_row_is_unchanged_by_its_batch_mates(module: ModuleType, name: str) -> None:
    model = built(module, name, torch.float64)
    assert crosstalk(model, inputs_of(module, model)) < 1e-10


@torch.no_grad()
def test_a_row_that_sees_its_batch_mates_is_noticed() -> None:
    module, name = SMALL[0].values
    model = built(module, name, torch.float64)
    assert crosstalk(lambda **inputs: model(**inputs) - model(**inputs).mean(dim=0), inputs_of(module, model)) > 1e-6


@every_small_model
def test_a_model_is_freed_when_the_last_name_for_it_is_gone(module: ModuleType, name: str) -> None:
    """A model that refers to itself keeps its weights in memory until the collector of cycles happens to run."""
    model = built(module, name)
    alive = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert alive() is None
    finally:
        gc.enable()


@every_small_model
@torch.no_grad()
def test_cached_decoding_equals_full_decoding(module: ModuleType, name: str) -> None:
    model = built(module, name, torch.float64)
    if not hasattr(model, "new_cache"):
        writes = getattr(model.config, "head", "lm") == "lm"
        assert "cache" not in inspect.signature(model.forward).parameters or not writes
        return
    inputs = module.example(model.config, 3)
    tokens, start, given = next(iter(inputs.values())), 3, {}
    if hasattr(model, "encode"):  # it decodes over a memory, of which its cache is made
        start = model.encode(inputs["sources"], inputs["source_lengths"])
        given = {"memory": start}

    def decoded(piece: Tensor, cache: Any) -> Tensor:
        return model.head(model.features(piece, cache=cache, **given))

    full, cache = decoded(tokens, None), model.new_cache(start)
    pieces = [decoded(piece, cache) for piece in tokens.split([5, *[1] * (tokens.shape[1] - 5)], dim=1)]
    assert (torch.cat(pieces, dim=1) - full).abs().max() < 1e-10
    forgetful = [decoded(piece, model.new_cache(start)) for piece in tokens.split(5, dim=1)]
    assert (torch.cat(forgetful, dim=1) - full).abs().max() > 1e-6, "the comparison must notice a lost cache"


# Files


@every_small_model
@torch.no_grad()
def test_saved_model_reloads_equal(module: ModuleType, name: str, tmp_path: Path) -> None:
    model = built(module, name)
    inputs = module.example(model.config, 2)
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert type(again) is type(model)
    assert torch.equal(again(**inputs), model(**inputs))
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())
    noisy = inputs_of(module, model)
    assert torch.equal(again(**noisy), model(**noisy)), "what concerns training alone must survive, too"
    next(again.parameters()).add_(0.01)
    assert not torch.equal(again(**inputs), model(**inputs))


@every_small_model
def test_every_parameter_has_its_split(module: ModuleType, name: str) -> None:
    model = built(module, name)
    for key, _ in model.named_parameters():
        kinds = {kind for pattern, kind in model.SPLIT.items() if fnmatchcase(key, pattern)}
        assert len(kinds) == 1, f"{key} is split as {kinds}"
    assert set(model.SPLIT.values()) <= {"column", "row", "none"}


# Options


def alternatives(annotation: Any, value: Any) -> Iterator[Any]:
    """Yields other values that a field might take; the config says which of them it allows."""
    arguments = typing.get_args(annotation)
    keyed = next((item for item in arguments[1:] if isinstance(item, Keyed)), None)
    part = next((item for item in arguments[1:] if isinstance(item, Part)), None)
    if part is not None:
        yield from ({**value, key: other} for key, other in single_changes(part.config_of(value), value))
    elif keyed is not None:
        for word, body in value.items() if isinstance(value, dict) else ():
            if isinstance(body, dict):
                yield from (
                    {**value, word: {**body, key: new}} for key, new in single_changes(keyed.kinds()[word], body)
                )
    elif isinstance(value, list) and typing.get_origin(arguments[0]) is typing.Annotated:
        for place, item in enumerate(value):
            others = alternatives(arguments[0], item)
            yield from ([*value[:place], other, *value[place + 1 :]] for other in others)
    elif isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        yield from itertools.chain.from_iterable(alternatives(argument, value) for argument in arguments)
    elif typing.get_origin(annotation) is typing.Annotated:
        yield from alternatives(arguments[0], value)
    elif typing.get_origin(annotation) is Literal:
        yield from arguments
    elif typing.get_origin(annotation) is list:
        yield from ([item] for item in alternatives(arguments[0], None))
    elif typing.get_origin(annotation) is tuple and isinstance(value, tuple):
        for place, item in enumerate(value):
            others = alternatives(arguments[0], item)
            yield from ((*value[:place], other, *value[place + 1 :]) for other in others)
    elif annotation is bool:
        yield from (True, False)
    elif annotation is int:
        yield from (1, 2, 5, 8, 32)
    elif annotation is float:
        yield from (0.3, 0.03, 3.0)
    elif annotation is type(None):
        yield None
    elif isinstance(annotation, type) and issubclass(annotation, Config):
        yield from ({**(value or {}), key: other} for key, other in single_changes(annotation, value or {}))


def single_changes(config_class: type[Config], values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields (field, other value) for one field at a time."""
    for key, field in config_class.model_fields.items():
        annotation = typing.Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        for other in alternatives(annotation, values.get(key)):
            if other != values.get(key, field.get_default(call_default_factory=True)):
                yield key, other


def computation(module: ModuleType, config: Config) -> list[Tensor]:
    """Returns all that a config decides: the initial values, and what is computed from them."""
    model = config.build()
    model.init_weights(0)
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):  # biases begin at zero, where they would hide
            parameter.data.add_(0.1)
    with torch.no_grad():
        return [*model.state_dict().values(), model(**inputs_of(module, model))]


def idle_fields(module: ModuleType, part: type[Config]) -> set[str]:
    """Returns the fields that change nothing in any of the small configs."""
    idle = set(part.model_fields) - {"name"}
    for values in module.SMALL.values():
        before = computation(module, validate(part, values))
        for key, other in single_changes(part, values):
            if key not in idle:
                continue
            config = accepted(part, values | {key: other})
            try:
                after = [] if config is None else computation(module, config)
            except UsageError:  # it lacks what the data decides
                after = []
            if not after:
                continue
            same = len(before) == len(after) and all(torch.equal(*pair) for pair in zip(before, after, strict=True))
            idle -= set() if same else {key}
    return idle


@every_model
def test_every_config_field_changes_the_computation(module: ModuleType) -> None:
    assert idle_fields(module, module.PART) == set()


def test_a_field_without_effect_is_noticed() -> None:
    module = MODULES[0]

    class Painted(module.PART):
        colour: int = 3
        """Changes nothing."""

    assert idle_fields(module, Painted) == {"colour"}
