"""The verb `diff`: what first differs between two runs, and so why they parted.

Knows what runs leave behind, and goes from causes to effects: recipe, versions and machine, data, tokenizer, then the
samples and numbers of each step, evaluations, and at last tensors. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dougong.checkpoint.store import Store, read_scalars
from dougong.checkpoint.weights import load_model
from dougong.core import files
from dougong.core.config import path_text
from dougong.core.errors import UsageError
from dougong.data.marian import SOURCE_IDS, SOURCE_PIECES, TARGET_IDS, TARGET_PIECES
from dougong.infer.predict import SOURCE_TOKENIZER
from dougong.recipe import Recipe, load_folder
from dougong.run.cause import ROUNDING, Finding, Lengths, Pair, sentence
from dougong.run.checkpoints import diff_checkpoints
from dougong.run.folder import is_run
from dougong.train.report import read_run

_NUMBERS = {"samples": "samples", "lr": "learning rate", "loss": "loss", "grad_norm": "gradient norm"}
"""What a step has, from cause to effect, and what it is called."""
_NOTES = ("precision", "compile", "device")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", SOURCE_PIECES, TARGET_PIECES, SOURCE_IDS, TARGET_IDS)


@dataclass(frozen=True)
class Comparison:
    """What comparing two runs found.

    Attributes:
        a: Folder of the one run.
        b: Folder of the other.
        findings: From causes to effects.
        equal: Whether all numbers are the same, and neither has more steps than the other.
        sentence: What to make of it.
    """

    a: Path
    b: Path
    findings: Sequence[Finding]
    equal: bool
    sentence: str

    def summary(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        found = [finding.summary() for finding in self.findings]
        return {"runs": [str(self.a), str(self.b)], "equal": self.equal, "sentence": self.sentence, "findings": found}


class _Run(NamedTuple):
    """What a run has left behind: each step once, of which the last attempt counts."""

    folder: Path
    recipe: Recipe
    steps: Mapping[int, Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    store: Store


def diff(a: str | Path, b: str | Path) -> Comparison:
    """Compares two runs, finished or not, by all that they have left behind.

    Raises:
        UsageError: One of them is no run.
        FileError: A file of one of them is corrupt.
    """
    pair = one, other = _open(Path(a)), _open(Path(b))
    causes = [compare(*pair) for compare in (_recipes, _environments, _data, _tokenizers, _histories)]
    numbers = [_numbers(field, *pair) for field in _NUMBERS]
    effects = [*numbers, *(compare(*pair) for compare in (_evaluations, _checkpoints, _models))]
    common = one.steps.keys() & other.steps.keys()
    last = Pair(max(one.steps, default=0), max(other.steps, default=0))
    lengths = Lengths(str(one.folder), str(other.folder), last, len(common))
    equal = bool(common) and last.a == last.b and all(finding.verdict != "differs" for finding in effects)
    findings = [*causes, *effects]
    return Comparison(one.folder, other.folder, findings, equal, sentence(findings, lengths))


def _open(folder: Path) -> _Run:
    if not is_run(folder):
        what = "has no recipe.yaml" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} must be a run folder, but {what}. Name another.", name="E-PATH")
    steps, events = read_run(folder)
    by_number = {record["step"]: record for record in steps}
    return _Run(folder, load_folder(folder), by_number, events, Store(folder / "checkpoints"))


def _recipes(a: _Run, b: _Run) -> Finding:
    return _finding("recipe", dict(_pairs(a.recipe.values(), b.recipe.values())), "fields")


def _pairs(a: Any, b: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Pair]]:
    """Yields what differs between two nested values, by path."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in [*a, *(name for name in b if name not in a)]:
            yield from _pairs(a.get(name), b.get(name), (*path, name))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _pairs(one, other, (*path, number))
    elif a != b:
        yield path_text(path), Pair(a, b)


def _environments(a: _Run, b: _Run) -> Finding:
    """Compares what the runs ran on; of a run that was gone on with, all that it ran on."""
    one, other = _environment(a), _environment(b)
    if not one or not other:
        return Finding("environment", "unknown", f"{(b if one else a).folder} was never started")
    return _finding("environment", {name: Pair(one[name], other[name]) for name in one if name in other}, "facts")


def _environment(run: _Run) -> dict[str, str]:
    """Returns versions, machine, precision and so on; several values of one name are joined by `then`."""
    found: dict[str, dict[str, None]] = {}
    for event in run.events:
        if event["event"] == "start":
            for name, value in _facts(event).items():
                found.setdefault(name, {})[value] = None
    for step in run.store.steps()[-1:]:
        cpu = read_scalars(run.store.path(step)).get("environment", {}).get("cpu")
        found |= {"processor": {str(cpu): None}} if cpu is not None else {}
    return {name: ", then ".join(values) for name, values in found.items()}


def _facts(start: Mapping[str, Any]) -> dict[str, str]:
    versions = dict(start.get("versions", {}))
    machine, _, threads = str(versions.pop("machine", "")).partition(", ")
    notes = {name: str(start[name]).partition(":")[0] for name in _NOTES if name in start}
    return {**versions, "machine": machine, "threads": threads.removesuffix(" threads"), **notes}


def _data(a: _Run, b: _Run) -> Finding:
    one, other = _plan(a).get("data", {}), _plan(b).get("data", {})
    if "fingerprint" not in one or "fingerprint" not in other:
        return Finding("data", "unknown", f"{(b if 'fingerprint' in one else a).folder} has no plan.json")
    if one["fingerprint"] == other["fingerprint"]:
        return Finding("data", "same")
    names = ("fingerprint", "source", "train_examples", "validation_examples")
    rows = {f"data {name}": Pair(one.get(name), other.get(name)) for name in names}
    return _finding("data", rows, "facts")


def _plan(run: _Run) -> Any:
    path = run.folder / "plan.json"
    return files.read_json(path) if path.exists() else {}


def _tokenizers(a: _Run, b: _Run) -> Finding:
    """Compares every file that a tokenizer is made of, of both sides of a translator; there may be none."""
    absent = [run.folder for run in (a, b) if not (run.folder / "model" / "config.json").exists()]
    if absent:
        return Finding("tokenizer", "unknown", f"{absent[0]} has left no model yet")
    one, other = (_tokenizer_files(run.folder / "model") for run in (a, b))
    return _finding("tokenizer", {name: Pair(one.get(name), other.get(name)) for name in [*one, *other]}, "files")


def _tokenizer_files(model: Path) -> dict[str, str]:
    """Returns the beginning of the hash of each file, by name."""
    names = [f"{folder}{name}" for folder in ("", f"{SOURCE_TOKENIZER}/") for name in _TOKENIZER]
    return {f"tokenizer {name}": files.sha256(model / name)[:16] for name in names if (model / name).is_file()}


def _histories(a: _Run, b: _Run) -> Finding:
    """Compares what became of the runs on their way: going back to a checkpoint, and changed fields when resumed."""
    one, other = _history(a), _history(b)
    names = [*one, *(name for name in other if name not in one)]
    rows = {name: Pair(*(history.get(name, (None, 0))[0] for history in (one, other))) for name in names}
    found = _finding("history", rows, "events")
    since = [(one | other)[name][1] for name in found.rows]
    return replace(found, step=min(since, default=None))


def _history(run: _Run) -> dict[str, tuple[str, int]]:
    """Returns what happened, by name, and the first step that it can have changed."""
    found = {}
    for event in run.events:
        step = event.get("step", 0)
        if event["event"] == "rewind":
            to = event.get("to", 0)
            found[f"rewind at step {step:,}"] = (f"to step {to:,}", to + 1)
        for name, (before, now) in {**event.get("changed", {}), **event.get("allowed", {})}.items():
            found[f"{name} from step {step + 1:,} on"] = (f"{now}, {before} before", 1)
    return found


def _finding(what: str, pairs: Mapping[str, Pair], kind: str) -> Finding:
    rows = {name: pair for name, pair in pairs.items() if pair.a != pair.b}
    note = f"{len(rows)} {kind if len(rows) != 1 else kind[:-1]}" if rows else ""
    return Finding(what, "differs" if rows else "same", note, rows)


def _numbers(field: str, a: _Run, b: _Run) -> Finding:
    """Compares one number of every step that both have."""
    common = sorted(a.steps.keys() & b.steps.keys())
    pairs = {step: Pair(a.steps[step].get(field), b.steps[step].get(field)) for step in common}
    return _first(_NUMBERS[field], pairs, f"in {len(common):,} steps")


def _first(what: str, pairs: Mapping[int, Pair], same: str) -> Finding:
    """Returns the first step that differs, by how much, and what becomes of it."""
    if not pairs:
        return Finding(what, "unknown", "they have none in common")
    parted = [step for step, pair in pairs.items() if pair.a != pair.b]
    if not parted:
        return Finding(what, "same", same)
    first, rows = parted[0], {f"{what} at step {parted[0]}": pairs[parted[0]]}
    note = f"from step {first:,} on, in {len(parted):,} of {len(pairs):,}"
    sizes = [_relative(pairs[step]) for step in parted]
    if sizes[0] is None:
        return Finding(what, "differs", note, rows, first)
    most = max(size for size in sizes if size is not None)
    note += f"; relative {sizes[0]:.1e} at first, {most:.1e} at most"
    note += ": small enough for rounding that grows" if sizes[0] <= ROUNDING else ""
    return Finding(what, "differs", note, rows, first, sizes[0])


def _relative(pair: Pair) -> float | None:
    """Returns the relative difference of two numbers; None of what are none."""
    if not all(isinstance(value, int | float) for value in pair):
        return None
    return abs(pair.a - pair.b) / max(abs(pair.a), abs(pair.b))


def _evaluations(a: _Run, b: _Run) -> Finding:
    one, other = _evaluated(a), _evaluated(b)
    pairs = {
        step: Pair(one[step].get(name), other[step].get(name))
        for step in sorted(one.keys() & other.keys())
        for name in [_first_name(one[step], other[step])]
    }
    return _first("evaluation", pairs, f"in {len(pairs):,} evaluations")


def _evaluated(run: _Run) -> dict[int, Mapping[str, Any]]:
    """Returns the figures after each step that was evaluated; the whole validation text's, at the end."""
    found = {step: record["evaluation"] for step, record in run.steps.items() if "evaluation" in record}
    return found | {event["step"]: event["evaluation"] for event in run.events if "evaluation" in event}


def _first_name(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Returns the first figure that differs, or the first of all."""
    names = [*a, *(name for name in b if name not in a)]
    return next((name for name in names if a.get(name) != b.get(name)), names[0] if names else "loss")


def _checkpoints(a: _Run, b: _Run) -> Finding:
    """Compares the newest checkpoint that both have, every byte of it verified."""
    common = set(a.store.steps()) & set(b.store.steps())
    if not common:
        return Finding("checkpoint", "unknown", "they have no checkpoint of the same step")
    step = max(common)
    tensors = diff_checkpoints(a.store.path(step), b.store.path(step)).tensors
    order = [f"model.safetensors: {name}" for name in _names(a.recipe)]
    return _other("checkpoint", f"the checkpoint of step {step:,}", {n: _how(how) for n, how in tensors.items()}, order)


def _how(how: Mapping[str, Any]) -> str:
    largest = how.get("max_abs_difference")
    return str(how["how"]) if largest is None else f"by {largest:.1e} at most"


def _names(recipe: Recipe) -> list[str]:
    """Returns the names of the model's tensors in their order; nothing is allocated."""
    with torch.device("meta"):
        return list(recipe.trained().build().state_dict())


def _models(a: _Run, b: _Run) -> Finding:
    folders = [run.folder / "model" for run in (a, b)]
    absent = [folder for folder in folders if not (folder / "config.json").exists()]
    if absent:
        return Finding("model", "unknown", f"{absent[0].parent} has left no model yet")
    one, other = (load_model(folder).state_dict() for folder in folders)
    names = [*one, *(name for name in other if name not in one)]
    tensors = {name: how for name in names if (how := _difference(one.get(name), other.get(name)))}
    return _other("model", "the model", tensors, names)


def _difference(a: Tensor | None, b: Tensor | None) -> str:
    """Returns how two tensors differ; nothing if every bit is the same."""
    if a is None or b is None:
        return "only one has it"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} of {list(a.shape)}, {b.dtype} of {list(b.shape)}"
    if torch.equal(*(tensor.contiguous().view(-1).view(torch.uint8) for tensor in (a, b))):
        return ""
    return f"by {(a.double() - b.double()).abs().max().item():.1e} at most"


def _other(what: str, where: str, tensors: Mapping[str, str], order: Sequence[str]) -> Finding:
    """Returns what to say of tensors that differ, by name: the first in the model's order."""
    if not tensors:
        return Finding(what, "same", f"{where}: every tensor, bit for bit")
    place = {name: number for number, name in enumerate(order)}
    first = min(tensors, key=lambda name: (place.get(name, len(place)), name))
    more = f"; {len(tensors):,} tensors differ" if len(tensors) > 1 else ""
    return Finding(what, "differs", f"{where}: {first} differs {tensors[first]}{more}")
