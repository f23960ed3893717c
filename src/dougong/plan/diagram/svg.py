"""A drawing as SVG: complete in itself, text as text, legible on light and dark, with nothing that runs.

Knows drawings; knows nothing of models.
"""

from __future__ import annotations

from html import escape

from dougong.plan.diagram.canvas import Drawing, Line, Rectangle, Text
from dougong.plan.diagram.labels import plainly

# The colour of each sort of block: its edge and its inside, on light and on dark.
_COLOURS = {
    "embedding": ("#b45309", "#fdf3e3", "#e0a458", "#33270f"),
    "attention": ("#6d4fc4", "#f1edfc", "#b3a0f0", "#261f40"),
    "convolution": ("#1f66d0", "#eaf2fd", "#7fb0f7", "#14263f"),
    "recurrence": ("#b03a75", "#fcecf4", "#ea8dbb", "#3a1728"),
    "linear": ("#0f766e", "#e6f5f3", "#5cc4b8", "#0f2f2c"),
    "norm": ("#5b6675", "#f4f6f9", "#9aa7b8", "#1d242e"),
    "pool": ("#4d7c0f", "#f0f6e4", "#a3cf62", "#1f2c0d"),
    "activation": ("#5b6675", "#f4f6f9", "#9aa7b8", "#1d242e"),
    "other": ("#5b6675", "#ffffff", "#9aa7b8", "#161b22"),
    "join": ("#1c2430", "#ffffff", "#e6eaf0", "#12161c"),
    "frame": ("#aab4c2", "#fbfcfd", "#46525f", "#151a21"),
    "behind": ("#aab4c2", "#eef1f5", "#46525f", "#1a2029"),
}
_LIGHT = ["#ffffff", "#1c2430", "#4d5866", "#6b7685", "#edf0f4", "#b3261e"]
_DARK = ["#12161c", "#e6eaf0", "#a9b4c2", "#8d99a8", "#212933", "#ff8f85"]
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def svg(drawing: Drawing, title: str, description: str) -> str:
    """Returns the text of an SVG file.

    Args:
        drawing: What is painted.
        title: What it is called, for those who cannot see it.
        description: What it shows, for them too.
    """
    width, height = round(drawing.width), round(drawing.height)
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_said(title)}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>{_said(title)}</title>",
        f"<desc>{_said(description)}</desc>",
        f"<style>{_style()}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        *map(_rectangle, drawing.rectangles),
        *map(_line, drawing.lines),
        *map(_text, drawing.texts),
        "</svg>",
    ]
    return "\n".join(body) + "\n"


def _said(text: str) -> str:
    return escape(plainly(text), quote=True)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _rectangle(shape: Rectangle) -> str:
    place = " ".join(
        f'{name}="{_number(value)}"'
        for name, value in (("x", shape.x), ("y", shape.y), ("width", shape.width), ("height", shape.height))
    )
    start = f'<rect class="{shape.role}" {place} rx="{_number(shape.radius)}"'
    return f"{start}><title>{_said(shape.says)}</title></rect>" if shape.says else f"{start}/>"


def _line(line: Line) -> str:
    points = " L".join(f"{_number(x)} {_number(y)}" for x, y in line.points)
    path = f'<path class="line" d="M{points}"/>'
    return path + _head(line) if line.head else path


def _head(line: Line) -> str:
    """Returns the head of an arrow along its last piece."""
    (x0, y0), (x, y) = line.points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    corners = [(x, y), (x - 7 * dx - 4 * dy, y - 7 * dy - 4 * dx), (x - 7 * dx + 4 * dy, y - 7 * dy + 4 * dx)]
    return f'<path class="head" d="M{" L".join(f"{_number(a)} {_number(b)}" for a, b in corners)}Z"/>'


def _text(text: Text) -> str:
    anchor = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    place = f'x="{_number(text.x)}" y="{_number(text.y)}"'
    return f'<text class="{text.role}" {place} font-size="{text.size:g}"{anchor}>{_said(text.words)}</text>'


def _style() -> str:
    dark = "".join(_colours(_DARK, 2))
    return (
        f"text {{ font-family: {_FONT}; white-space: pre; }} .title, .strong, .times {{ font-weight: 600; }} "
        ".line { fill: none; stroke-width: 1.3; } rect { stroke-width: 1.1; } .paper, .header { stroke: none; } "
        f"{''.join(_colours(_LIGHT, 0))}@media (prefers-color-scheme: dark) {{ {dark}}}"
    )


def _colours(palette: list[str], place: int) -> list[str]:
    """Returns the rules of one palette; `place` is where its colours stand in the table of blocks."""
    paper, ink, soft, line, header, times = palette
    return [
        f".paper {{ fill: {paper}; }} .title, .strong, .ink {{ fill: {ink}; }} .soft {{ fill: {soft}; }} ",
        f".line {{ stroke: {line}; }} .head {{ fill: {line}; }} .header {{ fill: {header}; }} ",
        f".times {{ fill: {times}; }} ",
        *(f".{kind} {{ stroke: {c[place]}; fill: {c[place + 1]}; }} " for kind, c in _COLOURS.items()),
    ]
