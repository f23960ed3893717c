"""The architecture of a model as a picture: `diagram(config, task, title)` returns the text of an SVG file.

Made from one run on the meta device, so nothing is special to any family: `trace` learns what flows where, `structure`
says what is drawn, `layout` where, `svg` how. Knows models through their config and their `forward`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dougong.core.config import Config
from dougong.core.contracts import Task
from dougong.core.errors import UsageError
from dougong.plan.diagram.labels import shape_words, short
from dougong.plan.diagram.layout import laid_out
from dougong.plan.diagram.structure import structure
from dougong.plan.diagram.svg import svg
from dougong.plan.diagram.trace import trace


def diagram(model: Config | nn.Module, inputs: Task | Mapping[str, Tensor], title: str = "") -> str:
    """Returns the picture of a model as SVG.

    Args:
        model: The model's config, with all that the data decides filled in; or a model on the meta device.
        inputs: The task, whose example of one row is run; or the arguments of the model's `forward` by name.
        title: The heading; absent: the name of the model's class.

    Raises:
        UsageError: The task's example has nothing that the model's `forward` takes, or the model does not run.
    """
    if isinstance(model, Config):
        with torch.device("meta"):
            model = model.build()  # type: ignore[attr-defined]
    assert isinstance(model, nn.Module)
    example = {name: (name, tensor) for name, tensor in inputs.items()} if isinstance(inputs, Mapping) else {}
    example = example or example_arguments(model, inputs)  # type: ignore[arg-type]
    try:
        root = trace(model, {name: tensor for name, (_, tensor) in example.items()})
    except (RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise UsageError(f"the model must run to be drawn, but does not ({first}). Give its inputs by name.") from error
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = max((len(tensor) for _, tensor in example.values() if tensor.ndim), default=1)
    title = title or type(model).__name__
    of = "one sample" if rows == 1 else f"{rows:,} samples"
    facts = [f"{parameters:,} parameters, {short(root.flops, ' KMGTPE')}FLOP forward for {of}"]
    flowing = ", ".join(word for word, _ in example.values())
    drawing = laid_out(structure(root), title, facts, flowing)
    described = f"{facts[0]}. Input: {', '.join(shape_words(value) for value in root.inputs)}."
    return svg(drawing, f"Architecture of {title}", described)


def example_arguments(model: nn.Module, task: Task) -> dict[str, tuple[str, Tensor]]:
    """Returns what a model's `forward` must be given of a task's example of one row: word and tensor, by argument.

    An argument is the field of the same name; the only one that has another name is the field that a task has first.

    Raises:
        UsageError: There is something else that it must be given.
    """
    fields = task.example_batch(1, "meta").fields
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) == 1 and needed[0] not in fields:
        word = next(iter(fields))
        return {needed[0]: (word, fields[word].to("meta"))}
    if not needed or not set(needed) <= set(fields):
        raise UsageError(
            f"the model must take one of {', '.join(fields)} to be drawn, but takes {', '.join(needed)}. "
            "Give its inputs by name."
        )
    return {name: (name, fields[name].to("meta")) for name in needed}
