"""How the parts of a model are connected, learned from one run on the meta device (law 5).

Every call of a module, and every function that joins tensors, reads a parameter or is worth a name, becomes an event
that knows from which events its tensors came. So residual and parallel branches are what the run shows, in any
`nn.Module`. Of equal siblings in a list that read equal shapes one is run, and the others take its shapes. Knows torch;
knows no model and nothing of drawing.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dougong.plan.diagram.axes import Axes, as_named, carried, followed, guessed, stated_axes, told_of

JOINS = {
    **dict.fromkeys(("add", "__add__", "__radd__", "__iadd__", "add_"), "+"),
    **dict.fromkeys(("sub", "__sub__", "__isub__"), "−"),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "__imul__", "mul_"), "×"),
    **dict.fromkeys(("cat", "concat"), "concatenate"),
    "stack": "stack",
}
# Functions of one tensor that are worth a place of their own in a picture, by the name that they have there.
NAMED = {
    **{"relu": "ReLU", "relu_": "ReLU", "gelu": "GELU", "silu": "SiLU", "glu": "GLU", "elu": "ELU", "amax": "max"},
    **{name: name for name in ("sigmoid", "tanh", "softmax", "mean", "sum", "interpolate", "pad", "normalize")},
    **{f"{kind}_pool{dims}d": f"{kind} pool" for kind in ("max", "avg") for dims in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{dims}d": f"adaptive {kind} pool" for kind in ("max", "avg") for dims in (1, 2, 3)},
}
# Functions that compute something no part of the module tells of: such a module is shown from outside.
HEAVY = {"matmul", "__matmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention", "softmax", "outer", "mv"}


@dataclass(eq=False)
class Value:
    """A tensor at one moment of the run.

    Attributes:
        shape: Its shape.
        axes: What each axis means, in a word, where that is known.
        origin: The event that made it; None for inputs and parameters.
        kind: "float", "integer", or "truth": masks, which no picture shows.
        parameter: The name of the parameter that it is, if it is one.
        matters: Whether it depends on an input or a parameter; what does not is a constant.
        read: Whether anything was computed of it, or the whole model returns it.
        later: What it was once the call that made it had ended.
    """

    shape: tuple[int, ...]
    axes: Axes
    origin: Event | None
    kind: str
    parameter: str | None = None
    matters: bool = True
    read: bool = False
    later: Value | None = None

    @property
    def wanted(self) -> bool:
        """Whether it was read, then or later."""
        return self.read or (self.later is not None and self.later.wanted)


@dataclass(eq=False)
class Event:
    """A call of a module, or of a function.

    Attributes:
        parent: The module's call in which it happens; None for the whole model.
        name: The module's path, or the function's name.
        module: The module; None for a function.
        inputs: The tensors that it reads.
        outputs: The tensors that it returns, as made by itself.
        made: The same as made by what is inside.
        events: What happens inside, in order.
        parameters: Names of the parameters that a function reads.
        flops: Floating point operations, those of its inside included.
        details: What a function was told, in words: its window, or the axes that it takes away.
        masked: Whether a module was given a mask.
    """

    parent: Event | None
    name: str
    module: nn.Module | None = None
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    flops: int = 0
    made: list[Value] = field(default_factory=list)
    details: str = ""
    masked: bool = False

    def within(self, call: Event) -> Event | None:
        """Returns the event directly inside a call that this one is, or is a part of; None if it is outside."""
        event: Event | None = self
        while event is not None and event.parent is not call:
            event = event.parent
        return event


def trace(model: nn.Module, inputs: Mapping[str, Tensor]) -> Event:
    """Runs a model on the meta device once and returns its call, with all that happened inside.

    Args:
        model: On the meta device.
        inputs: The arguments of its `forward` by name, on the meta device.
    """
    training = model.training
    with FlopCounterMode(display=False) as counter:
        tracer = Tracer(model, counter)
        model.eval()
        try:
            with torch.no_grad(), contextlib.ExitStack() as stack:
                tracer.attach(stack, inputs)
                stack.enter_context(tracer)
                model(**inputs)
        finally:
            model.train(training)
    return tracer.root


class Tracer(TorchFunctionMode):
    """While in this context, notes every call. Tensors that were met are held, so that none is taken for another."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode):
        super().__init__()
        self.model, self.counter = model, counter
        self.root = Event(None, "", model)
        self._stack: list[Event] = []
        self._values: dict[int, tuple[Tensor, Value]] = {}
        self._siblings: dict[tuple[Any, ...], Event] = {}
        self._busy, self._taken = False, 0
        for name, parameter in model.named_parameters(remove_duplicate=True):
            self._set(parameter, Value(tuple(parameter.shape), (None,) * parameter.ndim, None, "float", name))
        for buffer in model.buffers():
            self._set(buffer, Value(tuple(buffer.shape), (None,) * buffer.ndim, None, "float", matters=False))

    def attach(self, stack: contextlib.ExitStack, inputs: Mapping[str, Tensor]) -> None:
        """Puts hooks on every module until the stack ends, and takes note of the inputs."""
        words = stated_axes(self.model)
        for name, tensor in inputs.items():
            axes = as_named(words.get(name), tensor.shape) or guessed(tensor)
            self._set(tensor, Value(tuple(tensor.shape), axes, None, _kind(tensor)))
        for path, module in self.model.named_modules():
            before = module.register_forward_pre_hook(self._enters(path), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(self._leaves, with_kwargs=True).remove)
        for members in (m for m in self.model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)):
            for member in list(members)[1:] if len(members) > 2 else ():
                if "forward" not in vars(member):
                    member.forward = self._once(member, members)
                    stack.callback(delattr, member, "forward")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._busy or not self._stack or not isinstance(result, Tensor | tuple | list):
            return result
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if made:
            read = [self._read_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            name, values = func.__name__, [value for value in read if value.matters]
            first = next(iter(args), None)
            words = None
            if len(values) == 1 and len(made) == 1 and isinstance(first, Tensor) and any(values[0].axes):
                words = carried(func, values[0], args[1:], kwargs or {}, tuple(made[0].shape))
            event = self._note(name, values, made, words)
            if event is not None and values:
                event.details = told_of(name, values[0].axes, args[1:], kwargs or {}) if name in NAMED else ""
        return result

    def _note(self, name: str, read: list[Value], made: list[Tensor], words: Axes | None) -> Event | None:
        """Says where the results of a function come from: from itself, if it is worth an event, or from before."""
        parameters = [value.parameter for value in read if value.parameter is not None]
        data = [value for value in read if value.parameter is None and value.kind != "truth"]
        if not data and not (parameters and (name in JOINS or name in HEAVY or name in ("linear", "embedding"))):
            only = next(iter(read), None)
            for tensor in made:  # made of constants, or a parameter looked at in another way
                self._set(tensor, self._after(tensor, only, None, None))
            return None
        event = None
        places = {id(value.origin) for value in data}
        if len(places) > 1 or parameters or name in NAMED or name in HEAVY:
            event = Event(self._stack[-1], name, inputs=data, parameters=parameters)
            self._stack[-1].events.append(event)
        for tensor in made:
            value = self._after(tensor, data[0] if data else None, event, words)
            if event is not None:
                event.outputs.append(value)
            self._set(tensor, value)
        return event

    def _after(self, tensor: Tensor, source: Value | None, event: Event | None, words: Axes | None) -> Value:
        """Returns the value of a tensor that came from another, by an event or by no more than a change of view."""
        shape = tuple(tensor.shape)
        axes = words or ((None,) * len(shape) if source is None else followed(source.axes, source.shape, shape))
        if event is not None:
            return Value(shape, axes, event, _kind(tensor))
        if source is None:
            return Value(shape, axes, None, _kind(tensor), matters=False)
        same = source.parameter if tensor.numel() == _size(source.shape) else None
        return Value(shape, axes, source.origin, _kind(tensor), same, source.matters)

    def _enters(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            with self._aside():
                read = self._read(module, args, kwargs)
                inputs = [value for value in read if value.matters and value.kind != "truth"]
                parent = self._stack[-1] if self._stack else None
                event = self.root if parent is None else Event(parent, path, module)
                event.inputs, event.flops = inputs, -self._flops()
                event.masked = any(value.kind == "truth" for value in read)
                self._stack.append(event)

        return hook

    def _read(self, module: nn.Module, args: Any, kwargs: Any) -> list[Value]:
        """Returns what a module reads, its axes in the words in which its `forward` states them, wherever they flow."""
        stated = stated_axes(module)
        names = list(inspect.signature(type(module).forward).parameters)[1:] if stated else []
        for name, given in [*zip(names, args, strict=False), *kwargs.items()]:
            if isinstance(given, Tensor) and (axes := as_named(stated.get(name), given.shape)):
                self._value(given).axes = axes
        return [self._read_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]

    def _leaves(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        with self._aside():
            event = self._stack.pop()
            event.flops += self._flops()
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            words = stated_axes(module).get("return")
            values, before = [], []
            for tensor in made:
                value = self._value(tensor)
                before.append(value)
                axes = as_named(words, value.shape) if len(made) == 1 else None
                inside = value.origin is not None and value.origin.within(event) is not None
                lost = not value.matters and bool(event.inputs or any(True for _ in module.parameters()))
                if inside or lost or (value.matters and value.shape not in [known.shape for known in event.inputs]):
                    value.later = Value(value.shape, axes or self._inherited(event, value), event, value.kind)
                    value = value.later
                    self._set(tensor, value)
                value.read |= event.parent is None
                values.append(value)
            event.made = event.made or before
            event.outputs = values
            touched = any(value.origin is event for value in values)
            if event.parent is not None and (touched or event.events):
                event.parent.events.append(event)

    def _inherited(self, event: Event, value: Value) -> Axes:
        """Returns the words for a result's axes: those that it has, or else those of the first input of its rank."""
        if any(value.axes):
            return value.axes
        sources = [known for known in event.inputs if any(known.axes)]
        return followed(sources[0].axes, sources[0].shape, value.shape) if sources else value.axes

    def _flops(self) -> int:
        """Returns the operations so far, those of members that were not run included."""
        return self.counter.get_total_flops() + self._taken

    def _once(self, member: nn.Module, members: nn.Module) -> Any:
        """Returns the `forward` of a member of a list, which takes what an equal member before it returned."""
        forward, looks = member.forward, fingerprint(member)

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._aside():
                leaves = tree_leaves((args, kwargs))
                shapes = [(tuple(t.shape), t.dtype) if isinstance(t, Tensor) else repr(t) for t in leaves]
                key = (id(members), id(self._stack[-1].parent), looks, tuple(shapes))
                event, known = self._stack[-1], self._siblings.get(key)
            if known is None:
                result = forward(*args, **kwargs)
                if isinstance(result, Tensor):
                    self._siblings[key] = event
                return result
            with self._aside():
                self._taken += known.flops
                copy_inside(known, event)
                shape = known.outputs[0].shape
                kind = next(t.dtype for t in leaves if isinstance(t, Tensor) and t.is_floating_point())
                tensor = torch.empty(shape, dtype=kind, device="meta")
                self._set(tensor, Value(shape, known.outputs[0].axes, event, known.outputs[0].kind))
                return tensor

        return run

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Within this context nothing is noted: it is the tracer that looks at tensors."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def _value(self, tensor: Tensor) -> Value:
        held = self._values.get(id(tensor))
        if held is None:
            value = Value(tuple(tensor.shape), (None,) * tensor.ndim, None, _kind(tensor), matters=False)
            self._set(tensor, value)
            return value
        return held[1]

    def _read_of(self, tensor: Tensor) -> Value:
        value = self._value(tensor)
        value.read = True
        return value

    def _set(self, tensor: Tensor, value: Value) -> None:
        self._values[id(tensor)] = (tensor, value)


def copy_inside(before: Event, after: Event) -> None:
    """Gives a call the events inside another that is equal to it, as they would be in it."""
    old, new = (f"{call.name}." for call in (before, after))
    made: dict[int, Event] = {id(before): after}

    def value(given: Value) -> Value:
        origin = given.origin
        place = None if origin is None else made.get(id(origin), origin)
        return Value(given.shape, given.axes, place, given.kind, given.parameter, given.matters, given.wanted)

    def copy(inner: Event, parent: Event) -> Event:
        name = new + inner.name.removeprefix(old) if inner.module is not None else inner.name
        twin = made[id(inner)] = Event(parent, name, inner.module, flops=inner.flops)
        twin.details, twin.masked = inner.details, inner.masked
        twin.parameters = [new + name.removeprefix(old) for name in inner.parameters]
        twin.inputs = [value(given) for given in inner.inputs]
        twin.events = [copy(deeper, twin) for deeper in inner.events]
        twin.outputs, twin.made = ([value(given) for given in values] for values in (inner.outputs, inner.made))
        return twin

    after.events = [copy(event, after) for event in before.events]
    after.made = [value(given) for given in before.made]


def fingerprint(module: nn.Module) -> tuple[Any, ...]:
    """Returns what makes two modules compute alike: classes, plain attributes and the shapes of their parameters."""
    found: list[Any] = []
    for name, inner in module.named_modules():
        plain = {key: repr(value) for key, value in plain_attributes(inner).items()}
        shapes = [(key, tuple(p.shape)) for key, p in inner.named_parameters(recurse=False)]
        found.append((name, type(inner), tuple(sorted(plain.items())), tuple(shapes)))
    return tuple(found)


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Returns the numbers, words and the like that a module holds."""
    return {name: value for name, value in vars(module).items() if isinstance(value, PLAIN)}


PLAIN = (bool, int, float, str, tuple, type(None))


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "truth"
    return "float" if tensor.is_floating_point() or tensor.is_complex() else "integer"


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
