"""From a trace to what is drawn: boxes in a row, branches that part and meet, frames, and repeats folded.

A call is opened into a frame where that shows how parts are connected: a container, a residual or parallel branch, or
parts that are opened themselves. Else it is a box. Equal neighbours, by what would be drawn of them, become one with
the number of times. Knows traces; knows nothing of places on a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from dougong.plan.diagram.elements import Box, Element, Frame, Join, Parallel, Series, Tangle
from dougong.plan.diagram.folding import finished, relabelled, settled
from dougong.plan.diagram.labels import details_of, is_light, kind_of, layers_of, shape_words, spanned, title_of
from dougong.plan.diagram.rows import forms_of, given_name, is_nest, is_row, names_of_steps
from dougong.plan.diagram.trace import HEAVY, JOINS, Event, Value, plain_attributes

ALIKE = 3  # parallel branches that are drawn as one


def structure(root: Event) -> Series:
    """Returns what is drawn of a traced model."""
    owners: dict[str, str] = {}
    for event in _all(root):
        for name in event.parameters:
            owners.setdefault(name, event.parent.name if event.parent and event.parent.parent else event.name)
    return settled(_Reader(root, owners).series(root))


def _all(event: Event) -> Iterable[Event]:
    yield event
    for inner in event.events:
        yield from _all(inner)


def _read(event: Event) -> set[str]:
    """Returns the names of the parameters that are read in an event."""
    return {name for inner in _all(event) for name in inner.parameters}


def _is_inside(owner: str, event: Event) -> bool:
    return f"{owner}.".startswith(f"{event.name}.")


class _Reader:
    """Reads calls into elements; remembers who was the first to read a parameter."""

    def __init__(self, root: Event, owners: dict[str, str]):
        assert root.module is not None
        self.model, self.owners = root.module, owners
        self.given: dict[int, str] = {}
        self.sizes = {name: parameter.numel() for name, parameter in root.module.named_parameters()}

    def series(self, call: Event) -> Series:
        """Returns what is inside a call."""
        self.given |= names_of_steps(call)
        return finished(decomposed(Graph.of(call), self.element))

    def element(self, event: Event) -> Element:
        """Returns what is drawn of one event."""
        if event.module is None:
            return self._function(event)
        row, nest = is_row(event.module), is_nest(self.model, event)
        if not is_open(event) and not ((row or nest) and event.events):
            return self._box(event)
        body, given = self.series(event), given_name(self.model, event)
        if len(body.items) == 1 and isinstance(body.items[0], Box | Frame):
            item = body.items[0]  # a frame around one block would say nothing more
            return replace(item, name=f"{item.name} as {given}".strip()) if given else item
        held = plain_attributes(event.module) | {"mask": "given" if event.masked else "none"}
        title = given or ("Block" if forms_of(event.module) else title_of(event))
        return Frame(
            title,
            event.name,
            self._own(event),
            body,
            plain=row and not given,
            nest=nest and not given,
            held=held,
            path=event.name,
        )

    def _function(self, event: Event) -> Element:
        title = title_of(event)
        lines = []
        for name in event.parameters:
            owner = self.owners[name]
            lines.append(name if owner == event.name else f"weight shared with {owner}")
        if event.name in JOINS and not event.parameters:
            return Join(title)
        if event.name in JOINS:
            return Box(f"{title} {', '.join(lines)}", "", (), self._sum(event.parameters), "embedding")
        if event.name == "linear" and event.inputs and event.outputs:
            lines.insert(0, f"{event.inputs[0].shape[-1]:,} → {event.outputs[0].shape[-1]:,}")
        own = [name for name in event.parameters if self.owners[name] == event.name]
        given = self.given.get(id(event), "")
        if event.details and event.details not in title:
            lines.insert(0, event.details)
        light, name = is_light(event) and not given, f"as {given}" if given else ""
        return Box(title, name, tuple(lines), self._sum(own), kind_of(event), light)

    def _box(self, event: Event) -> Box:
        assert event.module is not None
        module, lines = event.module, []
        if details := details_of(module):
            lines.append(details)
        if any(True for _ in module.children()):
            lines += layers_of(module)
        shared = {self.owners[name] for name in _read(event) if not _is_inside(self.owners[name], event)}
        lines += [f"weight shared with {owner}" for owner in sorted(shared)]
        given = given_name(self.model, event)
        name, light = f"{event.name} as {given}" if given else event.name, is_light(event) and not given
        return Box(title_of(event), name, tuple(lines), self._own(event), kind_of(event), light)

    def _own(self, event: Event) -> int:
        """Returns how many parameters a call has, but for those that another read before it."""
        assert event.module is not None
        taken = [self.sizes.get(name, 0) for name in _read(event) if not _is_inside(self.owners[name], event)]
        return sum(parameter.numel() for parameter in event.module.parameters()) - sum(taken)

    def _sum(self, names: Iterable[str]) -> int:
        return sum(self.sizes.get(name, 0) for name in names)


def is_open(call: Event) -> bool:
    """Tells whether a call is drawn from inside."""
    if call.parent is None:
        return True
    calls = [event for event in call.events if event.module is not None]
    if not calls or call.module is None:
        return False
    if isinstance(call.module, nn.Sequential):
        return True
    own = [event for event in call.events if event.module is None]
    if any(event.name in HEAVY for event in own):
        return False
    if any(_meets(event, call) for event in own):
        return True
    return not own or any(is_open(inner) for inner in calls)


def _meets(event: Event, call: Event) -> bool:
    """Tells whether a function is where branches of a call meet: of parts, or of a part and what came in."""
    if JOINS.get(event.name) in (None, "×"):
        return False
    ends = [_part(value, call) for value in event.inputs]
    return all(end is None or end.module is not None for end in ends) and any(end is not None for end in ends)


def _part(value: Value, call: Event) -> Event | None:
    """Returns the part of a call from which a tensor comes, through functions of that tensor alone."""
    event = None if value.origin is None else value.origin.within(call)
    while event is not None and event.module is None and len(event.inputs) == 1:
        origin = event.inputs[0].origin
        event = None if origin is None else origin.within(call)
    if event is not None and event.module is None and JOINS.get(event.name) == "+":
        return None if _meets(event, call) else event
    return event


@dataclass
class Graph:
    """The events directly inside a call, and what flows between them. Places count from 0; -1 is the entry.

    Attributes:
        events: In the order of the run.
        links: What flows from one place to another, by the pair; the exit is the number of events.
        unfed: Pairs along which nothing flows: they tie an event that reads nothing to the place where it belongs.
    """

    events: list[Event]
    links: dict[tuple[int, int], Value]
    unfed: set[tuple[int, int]]

    @classmethod
    def of(cls, call: Event) -> Graph:
        """Returns the graph of a call, without what its result does not depend on."""
        places = {id(event): place for place, event in enumerate(call.events)}
        links: dict[tuple[int, int], Value] = {}

        def source(value: Value) -> int:
            inner = None if value.origin is None else value.origin.within(call)
            return -1 if inner is None else places.get(id(inner), -1)

        for place, event in enumerate(call.events):
            for value in _flowing(event.inputs):
                links.setdefault((source(value), place), value)
        end, wanted = len(call.events), [value for value in call.outputs if value.wanted]
        for result, made in zip(call.outputs, call.made, strict=True):
            if result in _flowing(wanted or call.outputs):
                links.setdefault((source(made), end), result)
        return cls(call.events, links, set())._used()._tied()

    def _used(self) -> Graph:
        """Returns the graph without events whose results reach no exit, and those that read nothing where needed."""
        end = len(self.events)
        targets: dict[int, list[int]] = {}
        for a, b in self.links:
            targets.setdefault(a, []).append(b)
        used = {end}
        for place in reversed(range(end)):
            if used & set(targets.get(place, ())):
                used.add(place)
        fed = {b for _, b in self.links}
        order = sorted(used - {end}, key=lambda p: (p, 1) if p in fed else (min(used & set(targets[p])), 0))
        new = {old: place for place, old in enumerate(order)} | {-1: -1, end: len(order)}
        links = {(new[a], new[b]): value for (a, b), value in self.links.items() if a in new and b in new}
        return Graph([self.events[place] for place in order], links, set())

    def _tied(self) -> Graph:
        """Ties events that read nothing to what they meet: beside the first event of all, else right behind it."""
        sources: dict[int, list[int]] = {}
        for a, b in self.links:
            sources.setdefault(b, []).append(a)
        for place in range(len(self.events)):
            if place not in sources:
                meets = min(b for a, b in self.links if a == place)
                other = max((a for a in sources[meets] if a != place), default=-1)
                begin = max(sources.get(other, [-1]))
                self.unfed.add((min(begin if begin < 0 else other, place - 1), place))
        return self

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """All pairs that are tied, whether something flows or not."""
        return set(self.links) | self.unfed


def _flowing(values: Sequence[Value]) -> list[Value]:
    """Returns the values that arrows are drawn for: the floating ones, or where there is none all."""
    floating = [value for value in values if value.kind == "float"]
    return floating or list(values)


def decomposed(graph: Graph, element: Callable[[Event], Element]) -> Series:
    """Returns a graph as a row of elements, with branches between them."""
    return _Rows(graph, element).series(range(len(graph.events)), -1, len(graph.events))


class _Rows:
    """Takes a graph apart at the places that everything passes through."""

    def __init__(self, graph: Graph, element: Callable[[Event], Element]):
        self.graph, self.element = graph, element

    def series(self, places: Sequence[int], entry: int, exit_: int) -> Series:
        """Returns what lies between two places as a row."""
        inside = {entry, exit_, *places}
        pairs = {(a, b) for a, b in self.graph.pairs if {a, b} <= inside and (a, b) != (entry, exit_)}
        cuts = [entry, *_passed_by_all(places, pairs, exit_), exit_]
        items: list[Element] = []
        labels: list[str] = []
        for before, after in pairwise(cuts):
            between = [place for place in places if before < place < after]
            labels.append(self._label(before, after, between))
            if between:
                items.append(self._between(between, before, after, pairs))
                labels.append(self._label(between[-1], after, []))
            if after != exit_:
                items.append(self.element(self.graph.events[after]))
        return Series(tuple(items), tuple(labels))

    def _between(self, places: Sequence[int], entry: int, exit_: int, pairs: set[tuple[int, int]]) -> Element:
        """Returns the branches between two places, or a tangle."""
        groups = _apart(places, pairs)
        if len(groups) == 1 and (entry, exit_) not in pairs:
            return self._tangle(places, entry, exit_, pairs)
        branches = [self.series(group, entry, exit_) for group in groups]
        fed = [(entry, group[0]) not in self.graph.unfed for group in groups]
        return together(branches, fed, (entry, exit_) in pairs)

    def _tangle(self, places: Sequence[int], entry: int, exit_: int, pairs: set[tuple[int, int]]) -> Tangle:
        numbers = {entry: -1, exit_: len(places)} | {place: number for number, place in enumerate(places)}
        links = sorted((numbers[a], numbers[b]) for a, b in pairs - self.graph.unfed if a in numbers and b in numbers)
        return Tangle(tuple(self.element(self.graph.events[place]) for place in places), tuple(links))

    def _label(self, before: int, after: int, between: Sequence[int]) -> str:
        """Returns the shape of what leaves one place towards another, or towards what is between."""
        for target in (after, *between):
            if (before, target) in self.graph.links:
                return shape_words(self.graph.links[before, target])
        return ""


def _passed_by_all(places: Sequence[int], pairs: set[tuple[int, int]], exit_: int) -> list[int]:
    """Returns the places over which no pair reaches: whatever flows, flows through them."""
    found, furthest = [], min(places, default=exit_)
    reach: dict[int, int] = {}
    for a, b in pairs:
        reach[a] = max(reach.get(a, b), b)
    before = sorted(set(reach) - set(places))
    furthest = max((reach[a] for a in before), default=furthest)
    for place in places:
        if furthest <= place:
            found.append(place)
        furthest = max(furthest, reach.get(place, place))
    return found


def _apart(places: Sequence[int], pairs: set[tuple[int, int]]) -> list[list[int]]:
    """Returns places in groups between which nothing flows."""
    group = {place: place for place in places}

    def first(place: int) -> int:
        while group[place] != place:
            place = group[place]
        return place

    for a, b in pairs:
        if a in group and b in group:
            low, high = sorted((first(a), first(b)))
            group[high] = low
    found: dict[int, list[int]] = {}
    for place in places:
        found.setdefault(first(place), []).append(place)
    return list(found.values())


def together(branches: Sequence[Series], fed: Sequence[bool], bare: bool) -> Parallel:
    """Returns branches side by side; many that differ at most in shapes become one, and a bare line stands right."""
    alike: dict[tuple[Series, bool], list[Series]] = {}
    for branch, begins in zip(map(finished, branches), fed, strict=True):
        alike.setdefault((relabelled([branch], lambda _: ""), begins), []).append(branch)
    found: list[tuple[Series | None, bool, int]] = []
    for (_, begins), rows in alike.items():
        if len(rows) >= ALIKE:
            found.append((relabelled(rows, spanned), begins, len(rows)))
        else:
            found += [(row, begins, 1) for row in rows]
    if bare:
        found.append((None, True, 1))
    return Parallel(*map(tuple, zip(*found, strict=True)))
