"""`report.html`: one page that shows a run, complete in itself, readable light and dark, with no network.

Made from the run folder alone: `run.jsonl`, `recipe.yaml`, `plan.json`, `evaluation.json`, `samples/`. Curves are SVG
in the page, drawn by matplotlib; pictures are in it as they are. Knows the folder's files; knows nothing of the process
that wrote them.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.train.report import duration, read_run

Curve = tuple[str, Sequence[float], Sequence[float]]
POINTS = 1200
SAMPLES, ROWS = 3, 20
# Placeholders that matplotlib takes for colours; the page's style sheet gives them their light and dark values.
_INK, _COLOURS = "#010203", ("#010204", "#010205")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #ffffff; --soft: #5b6675; --line: #d8dee6;
  --first: #1f66d0; --second: #c2410c; --shade: #f4f6f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --paper: #12161c; --soft: #9aa7b8; --line: #2c3541;
  --first: #6ea8fe; --second: #fb923c; --shade: #1a2029; } }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.soft, figcaption { color: var(--soft); }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; }
figure svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); } td.number { font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; border-radius: .5rem; }
pre { background: var(--shade); padding: .75rem; border-radius: .5rem; overflow-x: auto; white-space: pre-wrap; }
"""


def write_page(folder: Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Raises:
        ResourceError: The disk is full.
    """
    folder = Path(folder)
    steps, events = read_run(folder)
    starts = [event for event in events if event["event"] == "start"]
    start = starts[-1] if starts else {}
    end = {name: value for event in events if event["event"] in ("end", "measured") for name, value in event.items()}
    sections = [
        _summary(steps, events, start),
        _section("Curves", _curves(steps, events)),
        _section("In detail", _classes(folder / "evaluation.json")),
        _section("Samples", _samples(folder / "samples")),
        _section(
            "Plan against measured",
            _plan(folder / "plan.json", measured_figures(steps, start, end, _item(folder / "plan.json"))),
        ),
        _section("Recipe", _verbatim(folder / "recipe.yaml")),
        _section("Versions", _table({**start.get("versions", {}), **_notes(start)})),
    ]
    title = html.escape(folder.absolute().name)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{''.join(sections)}</body>\n</html>\n"
    )
    files.write_whole(folder / "report.html", page)
    return folder / "report.html"


def _summary(steps: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], start: Mapping[str, Any]) -> str:
    if not steps:
        return '<p class="soft">No step is written down yet.</p>\n'
    seconds = sum(step.get("seconds", 0.0) for step in steps)
    parts = [
        f"{steps[-1]['step']:,} steps",
        f"{start.get('parameters', 0):,} parameters",
        f"{duration(seconds)} of steps",
    ]
    skipped = sum(bool(step.get("skipped")) for step in steps)
    if skipped:
        parts.append(f"{skipped} steps skipped")
    for name, words in (("rewind", "rewinds"), ("spike", "loss spikes")):
        if number := sum(event["event"] == name for event in events):
            parts.append(f"{words}: {number}")
    figures = dict(_evaluations(steps, events)[-1][1]) if _evaluations(steps, events) else {}
    rows = {f"validation {name.replace('_', ' ')}": f"{value:.4f}" for name, value in figures.items()}
    table = _table({**rows, **start.get("facts", {})})
    return f'<p class="soft">{html.escape(", ".join(parts))}</p>\n{table}'


def _evaluations(
    steps: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]
) -> list[tuple[int, Mapping[str, float]]]:
    """Returns each evaluation once, by its step, in order; one made after the step, of all examples, counts more."""
    found = {record["step"]: record["evaluation"] for record in [*steps, *events] if record.get("evaluation")}
    return sorted(found.items())


def _curves(steps: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> str:
    if not steps:
        return ""
    evaluations = _evaluations(steps, events)
    validation = ("validation", [float(step) for step, _ in evaluations], [f["loss"] for _, f in evaluations])
    drawn = {
        "Loss": [_curve("training", steps, "loss"), *([validation] if evaluations else [])],
        "Learning rate": [_curve("", steps, "lr")],
        "Items per second": [_curve("", steps, "items_per_second")],
        "Gradient norm": [_curve("", steps, "grad_norm")],
    }
    figures = [
        f"<figure>{_svg(title, curves)}<figcaption>{title} by step</figcaption></figure>\n"
        for title, curves in drawn.items()
        if curves[0][1]
    ]
    return f'<div class="curves">\n{"".join(figures)}</div>\n'


def _curve(label: str, steps: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Returns a curve of at most `POINTS` points: means over equal spans where there are more steps."""
    points = [(float(step["step"]), float(step[name])) for step in steps if step.get(name) is not None]
    span = -(-len(points) // POINTS) or 1
    spans = [points[i : i + span] for i in range(0, len(points), span)]
    return label, [s[-1][0] for s in spans], [sum(value for _, value in s) / len(s) for s in spans]


def _svg(title: str, curves: Sequence[Curve]) -> str:
    """Returns a drawing whose text is text and whose colours come from the page."""
    import matplotlib
    from matplotlib.figure import Figure

    options: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": title, "text.color": _INK, "font.size": 10}
    options |= {f"{part}.color": _INK for part in ("xtick", "ytick")}
    options |= {"axes.edgecolor": _INK, "axes.labelcolor": _INK, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(options):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for colour, (label, x, y) in zip(_COLOURS, curves, strict=False):
            axes.plot(x, y, color=colour, linewidth=1.5, label=label, marker="o" if len(x) == 1 else None, markersize=3)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        axes.set_xlabel("step")
        if curves[0][0]:
            axes.legend(frameon=False)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawing.getvalue()
    svg = svg[svg.index("<svg") :]
    for placeholder, name in zip((_INK, *_COLOURS), ("ink", "first", "second"), strict=True):
        svg = svg.replace(placeholder, f"var(--{name})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def _samples(folder: Path) -> str:
    """Returns the newest samples, each as it was written."""
    if not folder.is_dir():
        return ""
    every = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [path for path in every if path.suffix == ".png"]
    newest = [path for path in every if path.suffix != ".png"][-SAMPLES:]
    shown = [f"<h3>{html.escape(path.stem)}</h3>\n{_picture(path)}" for path in pictures]
    return "".join([*shown, *(f"<h3>{html.escape(path.name)}</h3>\n{_verbatim(path)}" for path in reversed(newest))])


def _picture(path: Path) -> str:
    inside = base64.b64encode(files.read_bytes(path)).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{inside}">\n'


def _classes(path: Path) -> str:
    """Returns the tables that the task tells: figures of each class, confusions, translations, or what it may be."""
    if not path.is_file():
        return ""
    said = files.read_json(path)
    shown = _rows([{"class": name, **row} for name, row in said.get("classes", {}).items()])
    for name, value in said.items():
        if name not in ("metrics", "classes"):
            nested = isinstance(value, dict) and all(isinstance(row, dict) for row in value.values())
            value = [{name: key, **row} for key, row in value.items()] if nested else value
            shown += _table(value) if isinstance(value, dict) else _rows(value[:ROWS])
    return shown


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows of the same keys as a table."""
    if not rows:
        return ""
    heads = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
    cells = ("".join(map(_cell, row.values())) for row in rows)
    return f"<table>\n<tr>{heads}</tr>\n" + "".join(f"<tr>{row}</tr>\n" for row in cells) + "</table>\n"


def _cell(value: Any) -> str:
    return f"<td>{_shown(value)}</td>" if isinstance(value, str) else f'<td class="number">{_shown(value)}</td>'


def _plan(path: Path, measured: Mapping[str, Any]) -> str:
    """Returns what was planned beside what was measured under the same name, then what was only measured."""
    if not path.is_file():
        return ""
    plan = dict(_flat(files.read_json(path)))
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="number">{_shown(plan.get(name, ""))}</td>'
        f'<td class="number">{_shown(measured.get(name, ""))}</td>'
        f'<td class="number">{_ratio(measured.get(name), plan.get(name))}</td></tr>\n'
        for name in {**plan, **measured}
    )
    heads = "".join(f"<th>{head}</th>" for head in ("", "planned", "measured", "measured over planned"))
    return f"<table>\n<tr>{heads}</tr>\n{rows}</table>\n" if rows else ""


def _ratio(measured: Any, planned: Any) -> str:
    """Returns how often the one is in the other, where both are numbers."""
    if not all(
        isinstance(value, int | float) and not isinstance(value, bool) and value for value in (measured, planned)
    ):
        return ""
    return f"{measured / planned:.3f}"


def _item(path: Path) -> str:
    """Returns what the items of a run are called: its plan counts them under their name."""
    return "tokens" if not path.is_file() or "tokens" in files.read_json(path) else "examples"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested mappings by their dotted paths."""
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{path}.{name}" if path else str(name))


def measured_figures(
    steps: Sequence[Mapping[str, Any]], start: Mapping[str, Any], end: Mapping[str, Any], item: str = "tokens"
) -> dict[str, int | float]:
    """Returns what a plan can be held against: counts and bytes, and the medians of seconds and rates."""
    seconds = sorted(step["seconds"] for step in steps if step.get("seconds"))
    rates = sorted(step["items_per_second"] for step in steps if step.get("items_per_second"))
    shares = sorted(step["mfu"] for step in steps if step.get("mfu"))
    figures = {
        "parameters": start.get("parameters"),
        "steps": len(steps),
        item: sum(step.get("items", 0.0) for step in steps),
        "seconds": sum(seconds),
        "seconds_per_step": seconds[len(seconds) // 2] if seconds else None,
        f"{item}_per_second": rates[len(rates) // 2] if rates else None,
        "mfu": shares[len(shares) // 2] if shares else None,
        **{name: value for name, value in end.items() if name.endswith("_bytes") or name == "flops_per_step"},
    }
    return {name: value for name, value in figures.items() if value is not None}


def _notes(start: Mapping[str, Any]) -> dict[str, str]:
    return {name: start[name] for name in ("device", "precision", "compile") if name in start}


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return html.escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(rows: Mapping[str, str]) -> str:
    body = "".join(f"<tr><td>{html.escape(n)}</td><td>{html.escape(str(v))}</td></tr>\n" for n, v in rows.items())
    return f"<table>\n{body}</table>\n" if body else ""


def _verbatim(path: Path) -> str:
    if not path.is_file():
        return ""
    return f"<pre>{html.escape(files.read_text(path))}</pre>\n"


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}" if body else ""
