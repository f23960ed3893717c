"""Where everything of a picture goes: rows from top to bottom, branches beside each other, frames around.

All measures are pixels of a page. Every element has an axis, along which it is entered and left; it reaches so far to
the left and to the right of it. Texts are measured with the widths of a wide font, so that they fit in any. Knows
structures; knows no SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from dougong.plan.diagram.canvas import BOLD, LARGE, NORMAL, SMALL, WIDEST, Drawing, Rectangle, Text, width_of, wrapped
from dougong.plan.diagram.elements import Box, Element, Frame, Join, Parallel, Series, Tangle
from dougong.plan.diagram.labels import short

PAGE = 960.0  # at a width of 800 on the screen, the smallest text is 9 high
NARROWEST = 90.0
COLUMN = 1400.0  # what is taller is set in several columns, if they fit beside each other
MARGIN, PAD, ROW, GAP = 20.0, 10.0, 16.0, 22.0
STEP = 14.0  # an arrow without a label
LABELLED = 31.0  # one with
NOTED = 22.0  # a line with a note across it
FORK = 6.0  # a line before it parts, and after it meets
HEADER = 26.0
RADIUS = 11.0
BADGE = 14.0  # the size of a number of times


@dataclass(frozen=True)
class Setting:
    """In what surroundings an element is drawn.

    Attributes:
        within: The path of the frame around it, which names inside do not repeat.
        names: Where the name of a box stands: beside its title, in the last line, or nowhere.
        width: How wide boxes are at least, so that those of a row are as wide as each other.
    """

    within: str = ""
    names: Literal["beside", "below", "nowhere"] = "beside"
    width: float = NARROWEST


@dataclass(frozen=True)
class Extent:
    """How far an element reaches from its axis, and how high it is."""

    left: float
    right: float
    height: float

    @property
    def width(self) -> float:
        """The whole width."""
        return self.left + self.right


def laid_out(series: Series, title: str, facts: Sequence[str], inputs: str) -> Drawing:
    """Returns the drawing of a model.

    Args:
        series: What is drawn.
        title: The heading.
        facts: Lines below it.
        inputs: What flows in at the top.
    """
    drawing = Drawing()
    top = MARGIN + LARGE
    drawing.texts.append(Text(MARGIN, top, title, LARGE, "title"))
    for fact in facts:
        top += ROW + 2
        drawing.texts.append(Text(MARGIN, top, fact, NORMAL, "soft"))
    setting, columns = _columns(series)
    extents = [Row(column, setting).extent for column in columns]
    inner = _width(columns, setting)
    heading = max(text.box[2] for text in drawing.texts) - MARGIN
    left = MARGIN + max((heading - inner) / 2, 0) * (len(columns) > 1 or heading > 2 * inner)
    top += GAP
    before: tuple[float, float] | None = None
    for column, extent in zip(columns, extents, strict=True):
        axis, start = left + extent.left, top + ROW
        if before is None:
            drawing.texts.append(Text(axis, top + 10, inputs, NORMAL, "strong", "middle"))
        else:
            gutter = left - GAP
            drawing.line(
                before, (before[0], before[1] + STEP), (gutter, before[1] + STEP), (gutter, top + 8), (axis, top + 8)
            )
            drawing.line((axis, top + 8), (axis, start))
        last = column is columns[-1]
        end = Row(column, setting).draw(drawing, axis, start, outermost=True, ends=last)
        before = (axis, end)
        left += extent.width + 2 * GAP
    drawing.width = max(left - 2 * GAP, heading + MARGIN) + MARGIN
    drawing.height = top + ROW + max(extent.height for extent in extents) + MARGIN
    return drawing


def _columns(series: Series) -> tuple[Setting, list[Series]]:
    """Returns a row in as many columns as keep it from being too tall, and fit beside each other; and their setting."""
    found: list[tuple[float, int, Setting, list[Series]]] = []
    for place, setting in enumerate((Setting(), Setting(names="below"), Setting(names="nowhere"))):
        for number in range(1, int(-(-Row(series, setting).extent.height // COLUMN)) + 1):
            columns = _cut(series, number, setting) if number > 1 else [series]
            height = max(Row(column, setting).extent.height for column in columns)
            if _width(columns, setting) <= PAGE - 2 * MARGIN:
                found.append((max(height, COLUMN) + 500 * place, place, setting, columns))
    return min(found, key=lambda each: each[:2])[2:] if found else (Setting(names="nowhere"), [series])


def _width(columns: Sequence[Series], setting: Setting) -> float:
    """Returns the width of columns beside each other."""
    return sum(Row(column, setting).extent.width for column in columns) + 2 * GAP * (len(columns) - 1)


def _cut(series: Series, number: int, setting: Setting) -> list[Series]:
    """Returns a row in columns whose tallest is as low as can be; a join stays with its branches."""
    heights = [max(size.height, 1.0) + LABELLED for size in Row(series, setting).sizes]
    ends = [place for place, item in enumerate(series.items) if place and not isinstance(item, Join)]

    def parts(limit: float) -> list[int]:
        cuts, start = [0], 0
        for place in [*ends, len(heights)]:
            if sum(heights[start:place]) > limit and place > start:
                fitting = [end for end in ends if start < end < place or end == place]
                start = max([end for end in fitting if sum(heights[start:end]) <= limit], default=place)
                cuts.append(start)
        return [cut for cut in cuts if cut < len(heights)]

    limit = sum(heights) / number
    while len(parts(limit)) > number:
        limit *= 1.02
    cuts = [*parts(limit), len(heights)]
    return [Series(series.items[a:b], series.labels[a : b + 1]) for a, b in pairwise(cuts)]


class Row:
    """A series with its measures."""

    def __init__(self, series: Series, setting: Setting):
        self.series = series
        self.setting = replace(setting, width=max(setting.width, _widest(series, setting)))
        self.sizes = [extent_of(item, self.setting) for item in series.items]

    def gaps(self, outermost: bool = False) -> list[float]:
        """Returns the length of each arrow, the one in and the one out included."""
        return [self._gap(place, outermost) for place in range(len(self.series.labels))]

    def _gap(self, place: int, outermost: bool) -> float:
        if self._labelled(place, outermost):
            return LABELLED
        around = self.series.items[max(place - 1, 0) : place + 1]
        return FORK if any(isinstance(item, Parallel) for item in around) else STEP

    def _labelled(self, place: int, outermost: bool = False) -> bool:
        """Tells whether an arrow has a label: not where the one around says the same, nor between branches and join."""
        last = len(self.series.items)
        if place in (0, last) and not outermost:
            return False
        after_branches = place and isinstance(self.series.items[place - 1], Parallel)
        return bool(self.series.labels[place]) and not after_branches

    @property
    def extent(self) -> Extent:
        """How far it reaches, with the arrows in and out."""
        labels = [width_of(label, SMALL) / 2 for p, label in enumerate(self.series.labels) if self._labelled(p, True)]
        left = max([size.left for size in self.sizes] + labels, default=RADIUS)
        right = max([size.right for size in self.sizes] + labels, default=RADIUS)
        return Extent(left, right, sum(size.height for size in self.sizes) + sum(self.gaps(True)))

    @property
    def inner(self) -> Extent:
        """The same without labels at both ends."""
        outer = self.extent
        return Extent(outer.left, outer.right, outer.height - sum(self.gaps(True)) + sum(self.gaps()))

    def draw(
        self, drawing: Drawing, axis: float, top: float, outermost: bool = False, fed: bool = True, ends: bool = True
    ) -> float:
        """Draws it and returns where it ends; one that is not fed has no arrow in, one that goes on none out."""
        gaps = self.gaps(outermost)
        for place, (item, size) in enumerate(zip(self.series.items, self.sizes, strict=True)):
            into = not isinstance(item, Parallel)
            entered = place and isinstance(self.series.items[place - 1], Parallel) and isinstance(item, Join)
            if not entered and (fed or place):
                label = self.series.labels[place] if self._labelled(place, outermost) else ""
                arrow(drawing, axis, top, gaps[place], label, into)
            top += gaps[place]
            following = self.series.items[place + 1] if place + 1 < len(self.series.items) else None
            meets = self.sizes[place + 1] if isinstance(following, Join) and isinstance(item, Parallel) else None
            draw(item, drawing, axis, top, self.setting, meets)
            top += size.height
        if not ends:
            return top
        last = len(self.series.items)
        arrow(drawing, axis, top, gaps[last], self.series.labels[last] if outermost else "", outermost)
        return top + gaps[last]


def _widest(series: Series, setting: Setting) -> float:
    """Returns the width of the widest box of a row, and of the only branch that there is beside bare lines."""
    setting = replace(setting, width=NARROWEST)
    widths = [_box_size(item, setting)[0] for item in series.items if isinstance(item, Box)]
    for item in series.items:
        if isinstance(item, Parallel) and (only := _only_branch(item)):
            widths.append(_widest(only, setting))
    return max(widths, default=NARROWEST)


def _only_branch(parallel: Parallel) -> Series | None:
    """Returns the branch that has only bare lines beside it; None where there are several."""
    full = [branch for branch in parallel.branches if branch is not None]
    return full[0] if len(full) == 1 and all(parallel.fed) else None


def arrow(drawing: Drawing, axis: float, top: float, length: float, label: str, head: bool) -> None:
    """Draws an arrow downwards, its label across it."""
    if label:
        drawing.line((axis, top), (axis, top + 5))
        drawing.texts.append(Text(axis, top + 16, label, SMALL, "soft", "middle"))
        drawing.line((axis, top + 20), (axis, top + length), head=head)
    else:
        drawing.line((axis, top), (axis, top + length), head=head)


def extent_of(element: Element, setting: Setting) -> Extent:
    """Returns how far an element reaches."""
    if isinstance(element, Box):
        width, height = _box_size(element, setting)
        return Extent(width / 2, width / 2, height)
    if isinstance(element, Join):
        words = _join_words(element)
        half = RADIUS if len(words) == 1 else width_of(words, bold=True) / 2 + PAD
        return Extent(half, half, 2 * RADIUS)
    if isinstance(element, Frame):
        body = Row(element.body, _inside(element, setting)).inner
        more = max(_header_width(element, setting) - body.width - 2 * PAD, 0.0)
        stack = 8.0 if element.times > 1 else 0.0
        height = HEADER + ROW * len(element.notes) + body.height + stack
        return Extent(body.left + PAD, body.right + PAD + more + stack, height)
    if isinstance(element, Tangle):
        return _tangle_extent(element, setting)
    places = list(_branches(element, setting))
    left = max(size.left - axis for axis, size in places)
    right = max(size.right + axis for axis, size in places)
    return Extent(left, right, FORK + max(size.height for _, size in places))


def draw(element: Element, drawing: Drawing, axis: float, top: float, setting: Setting, meets: Extent | None) -> None:
    """Draws an element below a point of its axis.

    Args:
        setting: Its surroundings.
        meets: The join that follows, if branches are to end in its sides.
    """
    if isinstance(element, Box):
        _draw_box(element, drawing, axis, top, setting)
    elif isinstance(element, Join):
        _draw_join(element, drawing, axis, top)
    elif isinstance(element, Frame):
        _draw_frame(element, drawing, axis, top, setting)
    elif isinstance(element, Tangle):
        _draw_tangle(element, drawing, axis, top, setting)
    else:
        _draw_parallel(element, drawing, axis, top, setting, meets)


def _inside(frame: Frame, setting: Setting) -> Setting:
    """Returns the setting of what is inside a frame."""
    return replace(setting, within=frame.path or setting.within, width=NARROWEST)


def _short_name(name: str, setting: Setting) -> str:
    """Returns a name without what the frame around it has said."""
    return name.removeprefix(f"{setting.within}.")


def _box_rows(box: Box, setting: Setting) -> tuple[str, str, str, list[str]]:
    """Returns title, the name beside it, number of parameters and further lines; a name below is the last of them."""
    number = short(box.parameters) if box.parameters else ""
    title = wrapped(box.title, WIDEST / BOLD)
    name = wrapped(_short_name(box.name, setting))[0]
    return title[0], name, number, [*title[1:], *(line for text in box.lines for line in wrapped(text))]


def _box_size(box: Box, setting: Setting) -> tuple[float, float]:
    """Returns width and height of a box; one that has no more than a title stays small."""
    title, name, number, lines = _box_rows(box, setting)
    below = setting.names == "below" and bool(name)
    first = [title, number] if setting.names != "beside" else [title, name, number]
    head = width_of(title, bold=True) + sum(width_of(text) + PAD for text in first[1:] if text)
    least = setting.width if name or number or lines else NARROWEST
    width = max([head + 2 * PAD, least, *(width_of(line) + 2 * PAD for line in [*lines, name * below])])
    return width, 2 * 5 + ROW * (1 + len(lines) + below)


def _draw_box(box: Box, drawing: Drawing, axis: float, top: float, setting: Setting) -> None:
    title, name, number, lines = _box_rows(box, setting)
    width, height = _box_size(box, setting)
    left, base = axis - width / 2, top + 5 + 13
    count = f"{box.parameters:,} parameters" if box.parameters else ""
    says = ", ".join(filter(None, [f"{box.title} {box.name}".strip(), *box.lines, count]))
    drawing.rectangles.append(Rectangle(left, top, width, height, box.kind, says))
    if not name and not number and not lines:
        drawing.texts.append(Text(axis, base, title, NORMAL, "strong", "middle"))
    else:
        drawing.texts.append(Text(left + PAD, base, title, NORMAL, "strong"))
    if name and setting.names == "beside":
        drawing.texts.append(Text(left + PAD + width_of(title, bold=True) + PAD / 2, base, name, NORMAL, "soft"))
    if number:
        drawing.texts.append(Text(left + width - PAD, base, number, NORMAL, "ink", "end"))
    below = [(name, "soft")] if name and setting.names == "below" else []
    for line, role in [*((line, "ink") for line in lines), *below]:
        base += ROW
        drawing.texts.append(Text(left + PAD, base, line, NORMAL, role))


def _join_words(join: Join) -> str:
    return f"{join.text}  {join.then}" if join.then else join.text


def _draw_join(join: Join, drawing: Drawing, axis: float, top: float) -> None:
    half, words = extent_of(join, Setting()).left, _join_words(join)
    says = f"{join.text}, then {join.then}" if join.then else join.text
    drawing.rectangles.append(Rectangle(axis - half, top, 2 * half, 2 * RADIUS, "join", says, RADIUS))
    drawing.texts.append(Text(axis, top + RADIUS + 4.5, words, NORMAL, "strong", "middle"))


def _header(frame: Frame, setting: Setting) -> tuple[str, str, str, str]:
    """Returns title, name, number of parameters and number of times of a frame."""
    times = f"× {frame.times}" if frame.times > 1 else ""
    number = short(frame.parameters) if frame.parameters else ""
    return wrapped(frame.title)[0], wrapped(_short_name(frame.name, setting))[0], number, times


def _header_width(frame: Frame, setting: Setting) -> float:
    title, name, number, times = _header(frame, setting)
    texts = [width_of(title, bold=True), width_of(name), width_of(number), width_of(times, BADGE, True)]
    return max(
        sum(text + PAD for text in texts if text) + PAD, *(width_of(note) + 2 * PAD for note in ("", *frame.notes))
    )


def _draw_frame(frame: Frame, drawing: Drawing, axis: float, top: float, setting: Setting) -> None:
    title, name, number, times = _header(frame, setting)
    extent, row = extent_of(frame, setting), Row(frame.body, _inside(frame, setting))
    stack = 8.0 if times else 0.0
    left, width, height = axis - extent.left, extent.width - stack, extent.height - stack
    for offset in (8, 4) if times else ():
        drawing.rectangles.append(Rectangle(left + offset, top + offset, width, height, "behind", "", 8.0))
    each = " each" if times else ""
    count = f"{frame.parameters:,} parameters{each}" if frame.parameters else ""
    says = ", ".join(filter(None, [f"{frame.title} {frame.name}".strip(), f"{frame.times} times" * bool(times), count]))
    drawing.rectangles.append(Rectangle(left, top, width, height, "frame", says, 8.0))
    drawing.rectangles.append(Rectangle(left, top, width, HEADER + ROW * len(frame.notes), "header", "", 8.0))
    base, right = top + 18.5, left + width - PAD
    drawing.texts.append(Text(left + PAD, base, title, NORMAL, "strong"))
    if name:
        drawing.texts.append(Text(left + PAD + width_of(title, bold=True) + PAD / 2, base, name, NORMAL, "soft"))
    if times:
        drawing.texts.append(Text(right, base, times, BADGE, "times", "end"))
        right -= width_of(times, BADGE, True) + PAD
    if number:
        drawing.texts.append(Text(right, base, number, NORMAL, "ink", "end"))
    for line, note in enumerate(frame.notes, 1):
        drawing.texts.append(Text(left + PAD, base + ROW * line, note, NORMAL, "soft"))
    row.draw(drawing, axis, top + HEADER + ROW * len(frame.notes))
    drawing.line((axis, top + height), (axis, top + extent.height))


def _branches(parallel: Parallel, setting: Setting) -> Iterator[tuple[float, Extent]]:
    """Yields for each branch where its axis is beside the common one, and how far it reaches.

    The tallest is on the common axis and the others stand at its right, unless several are about as tall.
    """
    setting = _of_branches(parallel, setting)
    sizes = [
        _branch_extent(branch, times, setting) for branch, times in zip(parallel.branches, parallel.times, strict=True)
    ]
    full = sorted((size.height for size, branch in zip(sizes, parallel.branches, strict=True) if branch), reverse=True)
    if len(full) > 1 and full[1] > 0.6 * full[0]:
        left = -(sum(size.width for size in sizes) + GAP * (len(sizes) - 1)) / 2
        for size in sizes:
            yield left + size.left, size
            left += size.width + GAP
        return
    main = max(range(len(sizes)), key=lambda place: (parallel.fed[place], sizes[place].height))
    right = sizes[main].right
    for place, size in enumerate(sizes):
        if place == main:
            yield 0.0, size
        else:
            right += GAP / 2 + size.left
            yield right, size
            right += size.right


def _of_branches(parallel: Parallel, setting: Setting) -> Setting:
    """Returns the setting of branches: the only one has boxes as wide as those of the row around it."""
    return setting if _only_branch(parallel) else replace(setting, width=NARROWEST)


def _branch_extent(branch: Series | None, times: int, setting: Setting) -> Extent:
    if branch is None:
        return Extent(4.0, 4.0, 2 * STEP)
    inner = Row(branch, setting).inner
    note = width_of(_alike(times), SMALL) / 2 if times > 1 else 0.0
    return Extent(max(inner.left, note), max(inner.right, note), inner.height + (NOTED if times > 1 else 0))


def _alike(times: int) -> str:
    return f"{times} such branches"


def _draw_parallel(
    parallel: Parallel, drawing: Drawing, axis: float, top: float, setting: Setting, meets: Extent | None
) -> None:
    places, setting = list(_branches(parallel, setting)), _of_branches(parallel, setting)
    start = top + FORK
    bottom = start + max(size.height for _, size in places)
    target = bottom + FORK + RADIUS if meets else bottom
    drawing.line((axis, top), (axis, start))
    for number, (offset, _) in enumerate(places):
        branch, times, x, end = parallel.branches[number], parallel.times[number], axis + offset, start
        if parallel.fed[number]:
            drawing.line((axis, start), (x, start))
        if branch is not None:
            if times > 1:
                arrow(drawing, x, end, NOTED, _alike(times), False)
                end += NOTED
            end = Row(branch, setting).draw(drawing, x, end, fed=parallel.fed[number])
        if abs(offset) < 1:
            drawing.line((x, end), (x, bottom + FORK if meets else bottom), head=meets is not None)
        elif meets is None:
            drawing.line((x, end), (x, bottom), (axis, bottom))
        else:
            edge = axis + (meets.right if offset > 0 else -meets.left)
            drawing.line((x, end), (x, target), (edge, target), head=True)


def _tangle_rows(tangle: Tangle, setting: Setting) -> tuple[list[Extent], float, float, list[tuple[int, int]]]:
    """Returns the measures of the elements of a tangle, and the links that go around them at the right."""
    sizes = [extent_of(item, setting) for item in tangle.items]
    left, right = max(size.left for size in sizes), max(size.right for size in sizes)
    return sizes, left, right, [(a, b) for a, b in tangle.links if b != a + 1]


def _tangle_extent(tangle: Tangle, setting: Setting) -> Extent:
    sizes, left, right, around = _tangle_rows(tangle, setting)
    height = sum(size.height for size in sizes) + 2 * STEP * (len(sizes) + 1)
    return Extent(left, right + PAD * (len(around) + 1), height)


def _draw_tangle(tangle: Tangle, drawing: Drawing, axis: float, top: float, setting: Setting) -> None:
    """Draws elements in a row; what does not flow to the next one goes around in a lane of its own."""
    sizes, _, right, around = _tangle_rows(tangle, setting)
    end, last = top + _tangle_extent(tangle, setting).height, len(sizes)
    tops = [top + 2 * STEP]
    for size in sizes:
        tops.append(tops[-1] + size.height + 2 * STEP)
    for place, (item, size) in enumerate(zip(tangle.items, sizes, strict=True)):
        draw(item, drawing, axis, tops[place], setting, None)
        if (place, place + 1) in tangle.links:
            below = tops[place] + size.height
            drawing.line((axis, below), (axis, below + 2 * STEP), head=place + 1 < last)
    if (-1, 0) in tangle.links:
        drawing.line((axis, top), (axis, tops[0]), head=True)
    for lane, (a, b) in enumerate(around):
        x = axis + right + PAD * (lane + 1)
        out = (axis, top) if a < 0 else (axis + sizes[a].right, tops[a] + 0.7 * sizes[a].height)
        into = (axis, end) if b == last else (axis + sizes[b].right, tops[b] + 0.3 * sizes[b].height)
        drawing.line(out, (x, out[1]), (x, into[1]), into, head=b < last)
