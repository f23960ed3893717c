"""What is drawn once instead of many times.

Equal neighbours as one with a number, plain rows without a frame, small steps in the box before them. Knows elements;
knows no model, and no place on a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from dougong.plan.diagram.elements import Box, Element, Frame, Join, Parallel, Series, Tangle


def finished(series: Series) -> Series:
    """Returns a row as it is drawn: equal neighbours folded, plain rows inside it a part of it, small steps glued."""
    return folded(glued(spliced(folded(series))))


def spliced(series: Series, nests: bool = False) -> Series:
    """Returns a row in which a frame that is no block of its own, but a plain row, is replaced by what is in it.

    Args:
        series: The row.
        nests: Whether frames of nests are replaced, too.
    """
    items: list[Element] = []
    labels = [series.labels[0]]
    for item, label in zip(series.items, series.labels[1:], strict=True):
        if isinstance(item, Frame) and item.times == 1 and (item.plain or (nests and item.nest)):
            items += item.body.items
            labels += [*item.body.labels[1:-1], label]
        else:
            items.append(item)
            labels.append(label)
    return Series(tuple(items), tuple(labels))


def settled(series: Series, inside: bool = False) -> Series:
    """Returns a row in which nests that stand inside a frame have none of their own.

    Args:
        series: The row.
        inside: Whether a frame stands around it.
    """
    if inside:
        series = folded(glued(spliced(series, nests=True)))
    return Series(tuple(_settled(item, inside) for item in series.items), series.labels)


def _settled(item: Element, inside: bool) -> Element:
    if isinstance(item, Frame):
        return replace(item, body=settled(item.body, True))
    if isinstance(item, Parallel):
        return replace(item, branches=tuple(branch and settled(branch, inside) for branch in item.branches))
    if isinstance(item, Tangle):
        return replace(item, items=tuple(_settled(inner, inside) for inner in item.items))
    return item


def glued(series: Series) -> Series:
    """Returns a row in which norms and activations, which keep the shape, are written into the box before them."""
    items: list[Element] = []
    labels = [series.labels[0]]
    for item, label in zip(series.items, series.labels[1:], strict=True):
        last = items[-1] if items else None
        if isinstance(item, Box) and item.light and isinstance(last, Box) and not last.light:
            items[-1], labels[-1] = _with_light(last, item), label
        elif last == Join("stack") and isinstance(item, Box) and item.title == "sum over axis 0":
            items[-1], labels[-1] = Join("+"), label
        elif isinstance(item, Box) and item.light and not item.parameters and isinstance(last, Join) and not last.then:
            items[-1], labels[-1] = replace(last, then=item.title), label
        else:
            items.append(item)
            labels.append(label)
    return Series(tuple(items), tuple(labels))


def _with_light(box: Box, light: Box) -> Box:
    """Returns a box with one more step at its end."""
    last = box.lines[-1] if box.lines and box.lines[-1].startswith("then ") else None
    lines = (*box.lines[:-1], f"{last}, {light.title}") if last else (*box.lines, f"then {light.title}")
    return replace(box, lines=lines, parameters=box.parameters + light.parameters)


def folded(series: Series) -> Series:
    """Returns a row in which runs of equal elements are one, with the number of times."""
    items: list[Element] = []
    labels: list[str] = []
    start = 0
    while start < len(series.items):
        period, times = _run_at(series, start)
        labels.append(series.labels[start])
        if times > 1:
            items.append(_repeated(series, start, period, times))
            start += period * times
        else:
            items.append(series.items[start])
            start += 1
    return Series(tuple(items), (*labels, series.labels[-1]))


def _run_at(series: Series, start: int) -> tuple[int, int]:
    """Returns how many elements, from a place on, repeat and how often: what saves most, of few elements."""
    best = (1, 1)
    pairs = list(zip(series.items, series.labels[:-1], series.labels[1:], strict=True))[start:]
    for period in range(1, min(8, len(pairs) // 2) + 1):
        times = 1
        while pairs[times * period : (times + 1) * period] == pairs[:period]:
            times += 1
        if (times - 1) * period > (best[1] - 1) * best[0]:
            best = (period, times)
    return best


def _repeated(series: Series, start: int, period: int, times: int) -> Frame:
    run = series.items[start : start + period * times]
    first = run[0]
    if period == 1 and isinstance(first, Frame) and first.times == 1:
        frames = [item for item in run if isinstance(item, Frame)]
        return replace(first, name=_names(frames), times=times, notes=tuple(_differences(frames)))
    body = Series(run[:period], series.labels[start : start + period + 1])
    return Frame("", "", 0, body, times)


def relabelled(rows: Sequence[Series], label: Callable[[Sequence[str]], str]) -> Series:
    """Returns rows that differ in their labels alone as one, each of its labels made of all of theirs."""
    labels = tuple(label(each) for each in zip(*(row.labels for row in rows), strict=True))
    return Series(tuple(_relabelled(each, label) for each in zip(*(row.items for row in rows), strict=True)), labels)


def _relabelled(items: Sequence[Any], label: Callable[[Sequence[str]], str]) -> Any:
    first = items[0]
    if isinstance(first, Frame):
        return replace(first, body=relabelled([item.body for item in items], label))
    if isinstance(first, Parallel):
        branches = zip(*(item.branches for item in items), strict=True)
        return replace(first, branches=tuple(each[0] and relabelled(each, label) for each in branches))
    if isinstance(first, Tangle):
        inner = zip(*(item.items for item in items), strict=True)
        return replace(first, items=tuple(_relabelled(each, label) for each in inner))
    return first


def _differences(frames: Sequence[Frame]) -> Iterator[str]:
    """Yields the attributes in which equal frames differ all the same: `band: none in 48, 256 in 48`.

    What is another in each of them is a number or a name, and goes without saying.
    """
    for name in frames[0].held:
        values = Counter(repr(frame.held.get(name)) for frame in frames)
        if 1 < len(values) < len(frames) and not name.startswith("_"):
            shown = ", ".join(f"{value.strip(chr(39)).lower()} in {count}" for value, count in values.items())
            yield f"{name.replace('_', ' ')}: {shown}"


def _names(frames: Sequence[Frame]) -> str:
    """Returns `blocks.0–95` for the names of a run: what is not the same in the first and the last stands as a span."""
    first, last = (frame.path.split(".") for frame in (frames[0], frames[-1]))
    if first == last:
        return f"{frames[0].name}, shared weights"
    parts = [one if one == other else f"{one}–{other}" for one, other in zip(first, last, strict=False)]
    return ".".join(parts) + frames[0].name.removeprefix(frames[0].path)
