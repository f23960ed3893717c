"""Speeds that can be trusted on a noisy machine: contestants take turns, and only ratios within one round count.

Knows clocks and tables; knows no model.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any


def alternate(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Runs every contestant once per round, in an order that turns, and returns the seconds each one reported."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(contestants[name]())
            print(f"  round {turn + 1}/{rounds} {name}: {seconds[name][-1]:.4g} s", file=sys.stderr, flush=True)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Returns how many times as fast `ours` is: the median over the rounds, and the least and greatest."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def show(title: str, figures: Mapping[str, Any]) -> None:
    """Prints the figures as a table on standard error, and as one line of JSON on standard output."""
    print(f"\n{title}", file=sys.stderr)
    for name, value in figures.items():
        print(f"  {name:<44} {_text(value)}", file=sys.stderr)
    print(json.dumps({"benchmark": title, **figures}), flush=True)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
