"""A code model's score: it writes programs for a suite's problems, and pass@k says how often they pass their tests.

Knows which samples and verdicts there are already, in a folder that a killed evaluation goes on with. How text is
generated `infer` knows; how a program is examined, in isolation, `exam.py` does. Sample `i` of a problem is a function
of the seed, the problem and `i`, so more samples go on from those there are.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field

from dougong.checkpoint.adapter import FOLDER as ADAPTER
from dougong.core import files, log
from dougong.core.config import Config, Fault, validate
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import FileError, UsageError
from dougong.core.seed import key
from dougong.nn.pass_at_k import pass_at_k
from dougong.recipe.sources import Source
from dougong.run.exam import Examiner, Verdict, allowance, require_walls
from dougong.run.folder import is_run
from dougong.run.generation import load_writer
from dougong.run.prediction import folder_of
from dougong.run.problems import Problem, Suite, read_solutions, read_suite
from dougong.run.training import Run

_OF_SAMPLING = ("samples", "temperature", "top_p", "max_new_tokens", "seed")
_AT_ONCE = 16
_NO_ROOM = Verdict("no room", "the problem is longer than the model's context")
Place = tuple[str, int]  # a problem and the number of a sample


class CodeConfig(Config):
    """How a code model is evaluated."""

    samples: int = Field(default=1, ge=1)
    """How many programs to write for each problem."""

    k: tuple[int, ...] = Field(default=(1,), min_length=1)
    """The numbers of programs of which one is to pass: pass@1, pass@10."""

    temperature: float | None = Field(default=None, ge=0)
    """Logits are divided by it before sampling; absent: 0 (greedy) for one sample, 0.8 for more."""

    top_p: float | None = Field(default=None, gt=0, lt=1)
    """Sample from the fewest most likely tokens whose probabilities sum to at least this."""

    max_new_tokens: int = Field(default=512, ge=1)
    """The most tokens of a program."""

    seed: int = 0
    """Decides every draw, together with the problem and the number of the sample."""

    workers: int | None = Field(default=None, ge=1)
    """How many programs are examined at a time; absent: one for each core."""

    timeout: float = Field(default=10.0, gt=0, le=86400)
    """Seconds that a program and its tests may take."""

    def faults(self) -> Iterator[Fault]:
        """A k that no number of samples gives, and options of sampling where nothing is drawn, are faults."""
        if min(self.k) < 1:
            yield Fault("k", f"must hold numbers of at least 1, but holds {min(self.k)}.")
        if self.warmth == 0 and self.samples > 1:
            yield Fault("samples", "above 1 have no effect with temperature 0, which writes the same each time.")
        if self.warmth == 0 and self.top_p is not None:
            yield Fault("top_p", "has no effect with temperature 0, which takes the likeliest token. Leave one out.")

    @property
    def warmth(self) -> float:
        """The temperature, given or not."""
        return (0.0 if self.samples == 1 else 0.8) if self.temperature is None else self.temperature


def evaluate_code(
    source: Source | Run | None = None,
    *,
    suite: str | Path,
    solutions: str | Path | None = None,
    run: str | Path | None = None,
    to: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Returns pass@k of a model, or of given solutions, over a suite, and how many programs came to which verdict.

    Args:
        source: A run or its folder, a Hugging Face folder, or a recipe, whose newest run is taken.
        suite: A file of HumanEval's or MBPP's form, `.jsonl` or `.jsonl.gz`.
        solutions: A file of `task_id` and `completion` to score instead of a model.
        run: The run folder, where the source is a recipe.
        to: Where samples and verdicts are kept, to go on with; absent: `suites` in the run's folder; of solutions,
            nowhere.
        options: The fields of `CodeConfig`: samples, k, temperature, top_p, max_new_tokens, seed, workers, timeout.

    Raises:
        IsolationError: Programs cannot be isolated here; none was run, and there is no score.
        UsageError: An option has no effect or is impossible, or what is kept was made with others.
        FileError: The suite or the solutions are broken.
    """
    config = validate(CodeConfig, options)
    read = read_suite(suite)
    given = _given(source, solutions, read, {"run": run, **options} if run is not None else options)
    _check_k(config, given)
    require_walls()
    with _folder(source, run, to, read.name) as folder, _locked(folder):
        made_with = {"suite": read.fingerprint, "timeout": config.timeout}
        if given is None:
            made_with |= _identity(folder_of(source, run), config)  # type: ignore[arg-type]
        else:
            made_with["solutions"] = files.sha256(solutions)  # type: ignore[arg-type]
        _check_settings(folder / "settings.json", made_with)
        if given is None:
            samples = _sampled(source, run, read, config, folder / "samples.jsonl")  # type: ignore[arg-type]
        else:
            samples = {(task, i): text for task, texts in given.items() for i, text in enumerate(texts)}
        verdicts = _examined(read, samples, config, folder / "verdicts.jsonl")
        score = _score(read, verdicts, config.k)
        files.write_json(folder / "score.json", score)
    return score


def _given(
    source: Source | Run | None, solutions: str | Path | None, suite: Suite, options: Mapping[str, Any]
) -> dict[str, list[str]] | None:
    """Returns the given solutions, or None where a model is to write them."""
    if (source is None) == (solutions is None):
        what = "both are given" if solutions is not None else "neither is"
        raise UsageError(f"a model or solutions must be evaluated, but {what}. Name one of the two.")
    if solutions is None:
        return None
    if idle := [name for name in ("run", *_OF_SAMPLING) if name in options]:
        raise UsageError(f"{idle[0]} must be left out, but is given: solutions are scored as they are.")
    return read_solutions(solutions, suite)


def _check_k(config: CodeConfig, given: Mapping[str, list[str]] | None) -> None:
    fewest = config.samples if given is None else min(len(texts) for texts in given.values())
    if max(config.k) > fewest:
        raise UsageError(
            f"k must be at most the {fewest} samples of a problem, but is {max(config.k)}. "
            "Take more samples, or a smaller k."
        )


@contextlib.contextmanager
def _folder(source: Source | Run | None, run: str | Path | None, to: str | Path | None, name: str) -> Iterator[Path]:
    """Gives the folder of samples and verdicts; a temporary one where nothing is to be kept."""
    if to is None and source is None:
        with tempfile.TemporaryDirectory(prefix="dougong-suite-") as temporary:
            yield Path(temporary)
        return
    if to is None:
        trained = folder_of(source, run)  # type: ignore[arg-type]
        if not is_run(trained.parent):
            raise UsageError(f"{trained} must be in a run, to keep samples there, but is not. Add --to FOLDER.")
    folder = Path(to) if to is not None else trained.parent / "suites" / name
    with files.explained(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder against another evaluation; the kernel lets go of it, whatever ends this process."""
    with files.open_binary(folder / "lock", "ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"{folder} must be free, but another evaluation is running in it. Wait for it, or choose another "
                "with --to FOLDER.",
                name="E-LOCKED",
            ) from error
        yield


def _identity(model: Path, config: CodeConfig) -> dict[str, Any]:
    """Returns what decides a model's samples: its files and its adapter's, its precision, the options of sampling."""
    paths = sorted([*model.iterdir(), *(model / ADAPTER).glob("*")])
    read = [path for path in paths if path.suffix in (".json", ".safetensors", ".txt")]
    weights = {path.relative_to(model).as_posix(): files.sha256(path) for path in read}
    precision = str(choose_precision("auto", choose_device("auto")).dtype).removeprefix("torch.")
    drawn = {"top_p": config.top_p, "max_new_tokens": config.max_new_tokens, "seed": config.seed}
    return {"model": weights, "precision": precision, "temperature": config.warmth, **drawn}


def _check_settings(path: Path, made_with: dict[str, Any]) -> None:
    """Notes what samples and verdicts are made with, or sees that it is the same as when they were begun."""
    if not path.exists():
        files.write_json(path, made_with)
        return
    begun = files.read_json(path)
    begun = begun if isinstance(begun, dict) else {}
    for name in sorted({*begun, *made_with}):
        old, new = begun.get(name), made_with.get(name)
        if old != new:
            told = f"was {old} and is {new}" if not isinstance(new or old, dict | str) else "is another"
            raise UsageError(
                f"{path.parent} must be gone on with as it was begun, but {name} {told}. Give the same, or choose "
                "another folder with --to FOLDER.",
                name="E-CHANGED",
            )


class _Lines:
    """A file of JSON objects, one for each sample, to which more are added; what a kill left of a line is removed."""

    def __init__(self, path: Path, keys: tuple[str, ...]):
        self._path, self._keys, self._guard = path, keys, threading.Lock()
        raw = files.read_bytes(path) if path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        if whole != raw:
            files.write_whole(path, whole)
        self.rows = dict(self._row(line, path) for line in whole.splitlines())
        self._file = files.open_binary(path, "ab")

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, place: Place, *values: Any) -> None:
        """Adds what is known of a sample, at once."""
        row = {"task_id": place[0], "sample": place[1], **dict(zip(self._keys, values, strict=True))}
        with self._guard, files.explained(self._path, "written"):
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
            self.rows[place] = values

    def _row(self, line: bytes, path: Path) -> tuple[Place, tuple[Any, ...]]:
        try:
            row = files.parse_json(line)
            values = tuple(row[name] for name in self._keys)
            if not isinstance(row["task_id"], str) or not all(isinstance(value, str | None) for value in values):
                raise TypeError("it holds what is no text")
            return (row["task_id"], int(row["sample"])), values
        except (ValueError, KeyError, TypeError) as error:
            shown = line[:80].decode(errors="replace")
            raise FileError(f"{path} must hold lines of samples, but {shown!r} is none. Remove the file.") from error


def _sampled(
    source: Source | Run, run: str | Path | None, suite: Suite, config: CodeConfig, path: Path
) -> dict[Place, str | None]:
    """Returns the completions, of which those that are not there yet are written now; None: there was no room."""
    wanted = [(problem, i) for problem in suite.problems for i in range(config.samples)]
    with _Lines(path, ("completion",)) as lines:
        missing = [(problem, i) for problem, i in wanted if (problem.task_id, i) not in lines.rows]
        if missing:
            log.say(f"{len(missing)} programs are to be written for {len(suite.problems)} problems")
            model = load_writer(source, run=run)
            for alike, group in itertools.groupby(missing, key=lambda each: each[0].stop):
                _write(model, alike, list(group), config, lines)
        return {(problem.task_id, i): lines.rows[problem.task_id, i][0] for problem, i in wanted}


def _write(
    model: Any, stop: tuple[str, ...], missing: list[tuple[Problem, int]], config: CodeConfig, lines: _Lines
) -> None:
    options = {"temperature": config.warmth, "max_new_tokens": config.max_new_tokens, "seed": config.seed, "stop": stop}
    options |= {} if config.top_p is None else {"top_p": config.top_p}
    for start in range(0, len(missing), _AT_ONCE):
        batch = []
        for problem, i in missing[start : start + _AT_ONCE]:
            if len(model.encode_prompt(problem.prompt)) < model.config.max_seq_len:
                batch.append((problem, i))
            else:
                lines.add((problem.task_id, i), None)
        rows = [key(0, "program", problem.task_id, i) for problem, i in batch]
        for (problem, i), done in zip(
            batch, model.complete([p.prompt for p, _ in batch], rows=rows, **options), strict=True
        ):
            lines.add((problem.task_id, i), done.text)


def _examined(
    suite: Suite, samples: Mapping[Place, str | None], config: CodeConfig, path: Path
) -> dict[Place, tuple[str, str]]:
    """Returns verdicts and reasons, of which those that are not there yet are found now, several at a time."""
    problems = {problem.task_id: problem for problem in suite.problems}
    with _Lines(path, ("verdict", "reason")) as lines:
        waiting = deque(place for place in samples if place not in lines.rows)
        workers = min(config.workers or os.cpu_count() or 1, max(1, len(waiting)))

        def work() -> None:
            with Examiner(allowance(config.timeout)) as examiner:
                while True:
                    try:
                        place = waiting.popleft()
                    except IndexError:
                        return
                    problem, text = problems[place[0]], samples[place]
                    verdict = _NO_ROOM if text is None else examiner.examine(problem, problem.program(text))
                    lines.add(place, verdict.kind, verdict.reason)

        if waiting:
            log.say(f"{len(waiting)} programs are to be examined, {workers} at a time")
        with ThreadPoolExecutor(workers, "exam") as pool:
            try:
                for done in [pool.submit(work) for _ in range(workers)]:
                    done.result()
            finally:
                waiting.clear()  # after a failure, the others end what they have begun
        return {place: lines.rows[place] for place in samples}


def _score(suite: Suite, verdicts: Mapping[Place, tuple[str, str]], k: tuple[int, ...]) -> dict[str, Any]:
    counts = {problem.task_id: [0, 0] for problem in suite.problems}
    for (task, _), (kind, _) in verdicts.items():
        counts[task][0] += 1
        counts[task][1] += kind == "passed"
    means = {
        f"pass@{each}": sum(pass_at_k(n, passed, each) for n, passed in counts.values()) / len(counts)
        for each in sorted(set(k))
    }
    kinds = Counter(kind for kind, _ in verdicts.values())
    found = {"suite": suite.name, "sha256": suite.fingerprint, "problems": len(counts), "programs": len(verdicts)}
    return {**found, **means, "verdicts": dict(sorted(kinds.items(), key=lambda each: (-each[1], each[0])))}
