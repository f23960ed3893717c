"""How results look: on standard output, as JSON or for a person. Knows plain values."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_ROWS = 10
_SINGULAR = {"classes": "class", "types": "type", "tags": "tag"}
_NAMES = {
    "bits_per_byte": "bits per byte",
    "macro_f1": "F1, mean of the classes",
    "top5_accuracy": "in the five likeliest",
    "bleu": "BLEU",
    "chrf": "chrF",
    "calibration_error": "calibration error",
    "map": "COCO average precision",
    "map_50": "the same, overlap 0.5",
    "map_75": "the same, overlap 0.75",
    "map_small": "the same, small objects",
    "map_medium": "the same, medium objects",
    "map_large": "the same, large objects",
    "map_voc2007": "VOC 2007's precision",
    "map_voc": "VOC average precision",
}


def show_json(value: Any, indent: int | None = 2) -> None:
    """Prints a value as JSON, at once; what is not finite is null. Without an indent it takes one line."""
    print(json.dumps(_finite(value), indent=indent, ensure_ascii=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def show_figures(figures: Mapping[str, float]) -> None:
    """Prints the figures of an evaluation in lines, each with its interval, and the compressors' beside."""
    of = " per token" if "perplexity" in figures else ""
    for name, value in figures.items():
        if name.endswith(("_low", "_high")):
            continue
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        interval = f"  (95 %: {low:.4f} to {high:.4f})" if low is not None and high is not None else ""
        label = f"loss, nats{of}" if name == "loss" else _label(name)
        print(f"  {label:<24}{value:>10.4f}{interval}")


def _label(name: str) -> str:
    compressor, found, _ = name.partition("_bits_per_byte")
    return f"bits per byte, {compressor} -9" if found and compressor != name else _NAMES.get(name, name)


def show_table(rows: Mapping[str, Any], indent: int = 0) -> None:
    """Prints nested names and values, one a line, aligned."""
    width = max((len(str(name)) for name in rows), default=0) + 2
    for name, value in rows.items():
        if isinstance(value, Mapping):
            print(f"{'':{indent}}{name}")
            show_table(value, indent + 2)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            print(f"{'':{indent}}{name:<{width}}{text}".rstrip())


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows of the same keys as a table, after an empty line; nothing where there are none."""
    if not rows:
        return
    lines = [[str(key) for key in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    print()
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  " + "  ".join([first.ljust(widths[0]), *cells]))


def show_details(details: Mapping[str, Any]) -> None:
    """Prints what a task tells beyond its figures: tables by class or type, confusions, signatures, translations."""
    show_rows([{"kind": name, **value} for name, value in details.items() if _is_row(value)])
    for name, value in details.items():
        if _is_row(value):
            continue
        if isinstance(value, Mapping) and all(isinstance(row, Mapping) for row in value.values()):
            show_rows([{_SINGULAR.get(name, name): key, **row} for key, row in value.items()])
        elif isinstance(value, Mapping):
            print()
            show_table(value, indent=2)
        elif all(isinstance(cell, str) for row in value for cell in row.values()):
            show_texts(value[:_ROWS])
        else:
            show_rows(value[:_ROWS])


def _is_row(value: Any) -> bool:
    """Tells whether this is numbers by name, as of the questions that have no answer."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(cell, int | float) for cell in value.values())


def show_texts(rows: Sequence[Mapping[str, str]]) -> None:
    """Prints texts that belong together below each other, each with its name, after an empty line."""
    for row in rows:
        print()
        show_table(row, indent=2)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def write(text: str) -> None:
    """Prints a piece of text at once, with no line end."""
    sys.stdout.write(text)
    sys.stdout.flush()
