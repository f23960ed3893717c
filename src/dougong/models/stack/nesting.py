"""Stages made of stages: residual, parallel, repeat. Options, and the types they take and give. Knows no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from dougong.models.stack.stage import Here, Stage, Stages
from dougong.models.stack.types import Signal

Branch = Annotated[Stages, Field(min_length=1)]


class Residual(Stage):
    """Adds what its stages give to what they are given (He et al. 2016)."""

    word: ClassVar[str] = "residual"
    main: ClassVar[str | None] = "stages"
    stages: Branch
    """What is added."""
    shortcut: Stages = []
    """What the other summand goes through, where its shape has to change; absent: nothing."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what both give, which must have the same axes and sizes."""
        given = here.expect(given, "sequence", "image", "vector")
        inside = here.inside("stages", self.stages, given)
        around = here.inside("shortcut", self.shortcut, given) if self.shortcut else given
        if inside.element == "logits" or around.element == "logits":
            return given
        axes = _unlike(inside, around)
        if inside.form == around.form and not axes:
            return _together([inside, around], inside)
        other = "its shortcut" if self.shortcut else around.source
        if inside.form != around.form:
            text = f"its stages give {inside}, and {other} gives {around}"
            here.complain(f"must add equal axes, but {text}. Move what changes the axes out of the residual.")
        for axis in axes:
            ends = [_of_axis(axis, signal) for signal in (inside, around)]
            text = f"on the axis {axis} its stages give {ends[0]}, and {other} gives {ends[1]}"
            here.complain(f"must add equal shapes, but {text}. {_mend(axis, inside, around)}")
        return _together([around, inside], around)


class Parallel(Stage):
    """Several lists of stages over the same input, joined."""

    word: ClassVar[str] = "parallel"
    main: ClassVar[str | None] = "branches"
    branches: Annotated[list[Stages], Field(min_length=2)]
    """The lists; an empty one hands on what it is given."""
    join: Literal["concat", "add"] = "concat"
    """Whether the branches' channels stand side by side, or are added."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what the branches give, joined; they must agree on all axes, but for the channels of concat."""
        found = [here.inside(f"branches[{i}]", branch, given) for i, branch in enumerate(self.branches)]
        first = found[0]
        if any(signal.element == "logits" for signal in found):
            return given
        if first.form == "tokens":
            here.expect(first, "sequence")
            return first
        for number, signal in enumerate(found[1:], start=1):
            self._compare(first, signal, number, here)
        together = _together(found, first)
        if self.join == "add":
            return together
        channels = [signal.channel for signal in found]
        known = [channel for channel in channels if channel is not None]
        return together.with_channel(sum(known)) if len(known) == len(channels) else together

    def _compare(self, first: Signal, other: Signal, number: int, here: Here) -> None:
        """Complains where a branch does not agree with the first one."""
        if first.form != other.form:
            text = f"branches[0] gives {first}, and branches[{number}] gives {other}"
            here.complain(f"must join equal axes, but {text}. End both alike: with the same pool, or with none.")
        for axis in _unlike(first, other):
            if axis == "channel" and self.join == "concat":
                continue
            ends = [_of_axis(axis, end) for end in (first, other)]
            text = f"on the axis {axis} branches[0] gives {ends[0]}, and branches[{number}] gives {ends[1]}"
            repair = "Give both the same stride and padding."
            if axis == "channel":
                repair = f"Insert project: {first.channel} at the end of branches[{number}], or set join: concat."
            here.complain(f"must join equal shapes, but {text}. {repair}")


class Repeat(Stage):
    """A list of stages, several times over, each time with weights of its own."""

    word: ClassVar[str] = "repeat"
    times: PositiveInt
    """How often."""
    stages: Branch
    """What is repeated."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what the last time gives; each time must take what the one before gives."""
        for done in range(self.times):
            before, given = given, here.inside("stages", self.stages, given)
            here.check.passes += 1
            if replace(given, source=before.source) == before or given.element == "logits":
                break  # nothing changes any more
        here.check.passes -= done + 1
        return given


def _unlike(one: Signal, other: Signal) -> list[str]:
    """Returns the axes on which two signals of the same form do not agree."""
    if one.form != other.form:
        return []
    axes = [axis for axis in one.axes if one.size(axis) != other.size(axis)]
    if one.form == "sequence" and "time" not in axes and not _same_lengths(one, other):
        axes.append("time")
    return axes


def _same_lengths(one: Signal, other: Signal) -> bool:
    """Tells whether two signals have as many valid places, whatever the row's length."""
    if one.windows == other.windows:
        return True
    reach = 2 * max(one.stride, other.stride) + sum(w.reach * 8 for w in (*one.windows, *other.windows))
    return all(one.length(n) == other.length(n) for n in range(min(reach, 512) + 1))


def _of_axis(axis: str, signal: Signal) -> str:
    """Returns what a signal has on an axis, for a complaint."""
    size = signal.size(axis)
    if axis == "time" and signal.windows:
        many = f"{size} places, " if size is not None else ""
        return f"{many}one for {signal.stride} of the input" if signal.stride > 1 else f"{many}only whole windows"
    return "unknown" if size is None else str(size)


def _mend(axis: str, changed: Signal, kept: Signal) -> str:
    """Returns how to repair a shape that is not the other's."""
    if axis == "channel":
        shortcut = f"shortcut: [{{project: {changed.channel}}}]"
        return f"Insert project: {kept.channel} at the end of its stages, or give it {shortcut}."
    return "Set stride: 1 and padding: centred inside, or give it a shortcut that shortens as much."


def _together(found: list[Signal], first: Signal) -> Signal:
    """Returns the first of several joined signals, with what any of them sees of the future."""
    future = next((signal.future for signal in found if signal.future), None)
    return replace(first, future=future)
