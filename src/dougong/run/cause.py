"""What comparing two runs found, and the sentence that it amounts to: where they part, and why.

Knows findings, from causes to effects; does not know where they come from (see `difference.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dougong.core.config import shown

ROUNDING = 1e-5
"""The largest relative difference of a first loss that another order of the same sums explains."""
CAUSES = ("recipe", "environment", "data", "tokenizer", "history")
_WITHOUT_EFFECT = (
    "title", "description", "completes", "train.log", "train.samples", "train.profile", "train.grace", "train.workers",
    "train.checkpoint.keep", "train.checkpoint.keep_every", "train.checkpoint.asynchronous",
    "adapter.merge",
)  # fmt: skip
"""Fields that change no number of a run."""
_SELDOM = (
    "train.steps", "train.evaluate", "train.checkpoint", "train.recompute", "train.microbatch_size", "train.compile",
    "train.precision", "train.device",
)  # fmt: skip
"""Fields that change numbers only in their last digits, or only together with others."""
_WORDS = {
    "lr": "learning rate",
    "dim": "width",
    "paths": "text",
    "fraction": "validation fraction",
    "init_from": "model it starts from",
    "init_new": "parameters that start anew",
    "rank": "rank of the adapter",
    "alpha": "scale of the adapter",
    "torch": "version of torch",
    "python": "version of Python",
    "dougong": "version of dougong",
    "data fingerprint": "data",
}


class Pair(NamedTuple):
    """What the one run has and what the other has."""

    a: Any
    b: Any


class Lengths(NamedTuple):
    """How far two runs came.

    Attributes:
        a: Name of the one run.
        b: Name of the other.
        last: The last step of each; 0 for none.
        common: How many steps both have.
    """

    a: str
    b: str
    last: Pair
    common: int


@dataclass(frozen=True)
class Finding:
    """What comparing one kind of thing found.

    Attributes:
        what: What was compared: "recipe", "loss".
        verdict: Whether it is the same; "unknown" where one of the runs does not have it.
        note: Where and how much it differs, or why that is unknown.
        rows: What differs, by name.
        step: The first step at which it differs, where it is a matter of steps.
        difference: The first relative difference of a number.
    """

    what: str
    verdict: Literal["same", "differs", "unknown"]
    note: str = ""
    rows: Mapping[str, Pair] = field(default_factory=dict)
    step: int | None = None
    difference: float | None = None

    def summary(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        rows = {name: list(pair) for name, pair in self.rows.items()}
        return {"what": self.what, "verdict": self.verdict, "note": self.note, "step": self.step, "rows": rows}


def sentence(findings: Sequence[Finding], lengths: Lengths) -> str:
    """Returns where two runs part and why, or that they do not."""
    effects = [finding for finding in findings if finding.what not in CAUSES and finding.verdict == "differs"]
    causes = [finding for finding in findings if finding.what in CAUSES and finding.verdict == "differs"]
    if not effects:
        return f"{_agreement(findings, lengths)}{_without_effect(causes)}"
    first = min(effects, key=lambda finding: float("inf") if finding.step is None else finding.step)
    place = f"at step {first.step:,}" if first.step is not None else f"in {first.note.split(':')[0]}"
    before = [cause for cause in causes if cause.step is None or first.step is None or cause.step <= first.step]
    return f"The runs part {place}: {_cause(before, seldom=first.step is not None) or _no_cause(first)}"


def _agreement(findings: Sequence[Finding], lengths: Lengths) -> str:
    if not lengths.common:
        last = f"{lengths.a} has {_steps(lengths.last.a)}, {lengths.b} {lengths.last.b:,}"
        return f"The runs have no step in common: {last}. Train them first."
    if lengths.last.a != lengths.last.b:
        short = lengths.a if lengths.last.a < lengths.last.b else lengths.b
        asked = any("train.steps" in finding.rows for finding in findings)
        return (
            f"The runs are equal in the {_steps(lengths.common)} that both have, but {short} ends at step "
            f"{min(lengths.last):,} and the other at {max(lengths.last):,}"
            + (", as their recipes say." if asked else f". Go on with: dougong train {short} --resume")
        )
    tensors = [finding for finding in findings if finding.what in ("checkpoint", "model")]
    unseen = [finding.note for finding in tensors if finding.verdict == "unknown"]
    weights = "weights not compared" if len(unseen) == len(tensors) else "weights bit-identical"
    why = f" ({unseen[0]})" if len(unseen) == len(tensors) else ""
    return f"The runs are equal: {_steps(lengths.common)}, same samples, same losses, {weights}{why}."


def _steps(number: int) -> str:
    return f"{number:,} step{'s' * (number != 1)}"


def _without_effect(causes: Sequence[Finding]) -> str:
    names = [name for finding in causes for name in finding.rows if not name.startswith("train.steps")]
    return f" What differs changed no number: {', '.join(names)}." if names else ""


def _cause(causes: Sequence[Finding], seldom: bool) -> str:
    """Returns the first cause that is likely, and names the others; nothing where there is none.

    Args:
        causes: What differs of what comes before the numbers.
        seldom: Whether what seldom changes a number may be a cause, if there is no other.
    """
    same_data = all(finding.what != "data" for finding in causes)
    rows = {name: pair for finding in causes for name, pair in finding.rows.items()}
    able = {
        name: pair
        for name, pair in rows.items()
        if not _under(name, _WITHOUT_EFFECT) and not (same_data and name.startswith("data."))
    }
    likely = {name: pair for name, pair in able.items() if not _under(name, _SELDOM)}
    ordered = {**likely, **(able if seldom else {})}
    if not ordered:
        return ""
    (name, pair), *rest = ordered.items()
    more = f" Also different: {', '.join(name for name, _ in rest)}." if rest else ""
    words = _words(name)
    verb = "differ" if words.endswith("s") and not words.endswith("ss") else "differs"
    return f"the {words} {verb} ({name} {shown(pair.a)}, {shown(pair.b)}).{more}"


def _no_cause(first: Finding) -> str:
    alike = "though recipe, environment, data and tokenizer are the same"
    if first.step is None:
        return f"{first.note.partition(': ')[2]}, though all steps have the same numbers. It was changed afterwards."
    if first.what == "samples":
        return f"they saw other samples ({_values(first)}), {alike}. The order of the data is not what the seed says."
    if first.difference is not None and first.difference <= ROUNDING:
        return (
            f"the {first.what} differs by rounding (relative {first.difference:.1e}), {alike}. "
            "An operation adds in no fixed order, or the machines differ."
        )
    return (
        f"the {first.what} differs ({_values(first)}), {alike}, and so are the samples. Something that is not recorded "
        "differs: the code, or the weights that one of them went on from."
    )


def _values(finding: Finding) -> str:
    pair = next(iter(finding.rows.values()))
    return f"{shown(pair.a)}, {shown(pair.b)}"


def _words(name: str) -> str:
    if name.startswith("tokenizer "):  # one of its files
        return "tokenizer"
    key = name.rpartition(".")[2].partition("[")[0]
    return _WORDS.get(key, key.replace("_", " "))


def _under(row: str, sections: Sequence[str]) -> bool:
    name = row.partition(" ")[0]  # `train.steps from step 5 on` is about train.steps
    return any(name == section or name.startswith((section + ".", section + "[")) for section in sections)
