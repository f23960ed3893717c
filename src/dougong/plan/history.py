"""What plans were worth: measured over predicted, per machine, so that the next plan's interval narrows.

Ratios are kept as lines of JSON in the cache folder, the newest last and at most 1,000 of them. Knows no model and runs
nothing: who calls has predicted and measured.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dougong.core import files
from dougong.core.errors import UsageError
from dougong.core.strict import parse_json
from dougong.plan.machine import machine_name

Kind = Literal["parameters", "flops", "memory", "seconds"]

LIMIT = 1000
OWN = 3
"""From so many runs of its own on, a family no longer borrows those of the others."""

PRIOR: dict[Kind, float] = {"parameters": 0.0005, "flops": 0.005, "memory": 0.03, "seconds": 0.15}
"""What one prediction is thought to be off by before any run: the standard deviation of the ratio's logarithm."""

_PRIOR_MEAN, _PRIOR_SPREAD = 1.0, 4.0  # how many runs the prior is worth, for the mean and for the spread


@dataclass(frozen=True)
class Interval:
    """Where measured over predicted will lie in nine of ten runs.

    Attributes:
        low: One run in twenty is below.
        middle: Half of the runs are below.
        high: One run in twenty is above.
        runs: How many earlier runs say so; with none it is what the planner's makers found.
    """

    low: float
    middle: float
    high: float
    runs: int


def record(kind: Kind, family: str, predicted: float, measured: float, folder: Path | None = None) -> None:
    """Appends measured over predicted of a run on this machine.

    Args:
        kind: What was predicted.
        family: The model's, by its name in a recipe.
        predicted: Above zero.
        measured: Above zero, in the same unit.
        folder: Where the history is kept; absent: the cache folder.

    Raises:
        UsageError: A figure is not above zero.
        ResourceError: The folder cannot be written to.
    """
    if not all(math.isfinite(value) and value > 0 for value in (predicted, measured)):
        raise UsageError(f"{kind} must be above zero, but are {predicted} predicted and {measured} measured.")
    path = _path(folder)
    with files.explained(path.parent, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"machine": machine_name(), "kind": kind, "family": family, "ratio": measured / predicted}
    with files.open_binary(path, "ab") as file:
        file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    lines = files.read_bytes(path).splitlines(keepends=True)
    if len(lines) > LIMIT:
        files.write_whole(path, b"".join(lines[-LIMIT // 2 :]))


def interval(kind: Kind, family: str, folder: Path | None = None) -> Interval:
    """Returns where measured over predicted will lie on this machine in nine of ten runs.

    The logarithms of the ratios are taken as normal, their mean and spread as unknown, with the conjugate prior that
    the mean is 0 (worth one run) and the spread `PRIOR` (worth four): the next one then follows Student's t
    (Gelman et al. 2013, Bayesian Data Analysis, section 3.3). A family with fewer than three runs borrows those of
    the other families.
    """
    found = [entry for entry in _entries(_path(folder)) if entry["kind"] == kind]
    own = [entry for entry in found if entry["family"] == family]
    ratios = [math.log(entry["ratio"]) for entry in (own if len(own) >= OWN else found)]
    middle, scale, freedom = _predictive(ratios, PRIOR[kind])
    reach = scale * t_quantile(0.95, freedom)
    return Interval(math.exp(middle - reach), math.exp(middle), math.exp(middle + reach), len(ratios))


def _path(folder: Path | None) -> Path:
    return (folder or files.cache_folder()) / "plans.jsonl"


def _entries(path: Path) -> list[dict[str, Any]]:
    """Returns this machine's entries; a line that is none, as one that was cut off, is passed over."""
    if not path.exists():
        return []
    name, found = machine_name(), []
    for line in files.read_bytes(path).splitlines():
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("machine") == name and _is_ratio(entry.get("ratio")):
            found.append({"kind": entry.get("kind"), "family": entry.get("family"), "ratio": entry["ratio"]})
    return found


def _is_ratio(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _predictive(values: Sequence[float], prior: float) -> tuple[float, float, float]:
    """Returns middle, scale and degrees of freedom of the next value's distribution."""
    count = len(values)
    mean = statistics.fmean(values) if values else 0.0
    squares = sum((value - mean) ** 2 for value in values)
    weight, freedom = _PRIOR_MEAN + count, _PRIOR_SPREAD + count
    squares += _PRIOR_SPREAD * prior**2 + _PRIOR_MEAN * count / weight * mean**2
    return count * mean / weight, math.sqrt(squares / freedom * (1.0 + 1.0 / weight)), freedom


def t_quantile(probability: float, freedom: float) -> float:
    """Returns a quantile of Student's t distribution, to a hundredth from four degrees of freedom on.

    The expansion about the normal quantile of Abramowitz and Stegun 1964, equation 26.7.5.
    """
    x = statistics.NormalDist().inv_cdf(probability)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / freedom**power for power, term in enumerate(terms, 1))
