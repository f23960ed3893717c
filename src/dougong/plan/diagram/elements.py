"""What a picture is made of: boxes, branches, joins and frames in rows. Knows no model, and no place on a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Box:
    """A block shown from outside.

    Attributes:
        title: What it is.
        name: Where it is in the model; not compared.
        lines: What else is to be said of it.
        parameters: How many it has, those that it shares with a block before it left out.
        kind: The sort of block.
        light: Whether it may be written into the box before it.
    """

    title: str
    name: str = field(compare=False)
    lines: tuple[str, ...] = ()
    parameters: int = 0
    kind: str = "other"
    light: bool = False


@dataclass(frozen=True)
class Join:
    """Where branches meet: a sum, a product, or a text such as `concatenate`; `then` is done to the result at once."""

    text: str
    then: str = ""


@dataclass(frozen=True)
class Parallel:
    """Branches between a fork and a join.

    Attributes:
        branches: From left to right; one that is None is a bare line.
        fed: Which of them begin at the fork; the others begin by themselves, as a table of positions does.
        times: How many each of them stands for.
    """

    branches: tuple[Series | None, ...]
    fed: tuple[bool, ...]
    times: tuple[int, ...]


@dataclass(frozen=True)
class Tangle:
    """Elements in order whose connections are neither a row nor branches; links are pairs of places, -1 the entry."""

    items: tuple[Element, ...]
    links: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Series:
    """Elements from top to bottom; `labels[i]` is what flows into element i, the last one what flows out."""

    items: tuple[Element, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """A block that is opened, or a run of equal ones.

    Attributes:
        title: What it is.
        name: Where it is in the model; not compared.
        parameters: How many one of them has.
        body: What is inside.
        times: How many there are.
        notes: What differs between them.
        plain: Whether it only puts others in a row: it is drawn without its frame.
        nest: Whether it only connects rows, so that inside another frame it is drawn without its own.
        held: The plain attributes of the module, and whether it is given a mask; not compared, as nothing is drawn of
            them.
        path: Where the first of them is in the model; not compared.
    """

    title: str
    name: str = field(compare=False)
    parameters: int
    body: Series
    times: int = 1
    notes: tuple[str, ...] = ()
    plain: bool = False
    nest: bool = False
    held: Mapping[str, Any] = field(default_factory=dict, compare=False)
    path: str = field(default="", compare=False)


Element = Box | Join | Parallel | Tangle | Frame
