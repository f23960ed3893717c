"""The verb `train`: a run folder opened or made, the parts wired and handed to the loop, and what is left behind.

Knows the order of things in a run; what each is, the floors below know.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dougong.checkpoint.adapter import Adapter
from dougong.checkpoint.weights import load_weights, save_model
from dougong.core import files, log
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import DougongError, FileError, Preempted
from dougong.data.tokenizer import Tokenizer
from dougong.infer.language import LanguageModel, load_language_model
from dougong.infer.predict import LABELS_FILE, SOURCE_TOKENIZER, TASK_FILE, Predictor, answers_about, load_predictor
from dougong.infer.texts import TextPredictor
from dougong.plan.count import count, foreseen_model
from dougong.recipe import Recipe, load, name_of
from dougong.recipe.recipe import to_yaml
from dougong.recipe.sources import RUN_RECIPE, Source, anchored, model_folder
from dougong.run.card import write_card
from dougong.run.evaluation import compressed_bits_per_byte, full_evaluation
from dougong.run.folder import claimed, is_run, new_run_folder, newest_run_folder
from dougong.run.measuring import compare, predicted_step
from dougong.run.memory import MemoryWatch, require_memory
from dougong.run.parts import Parts, prepare
from dougong.run.sampler import Sampler
from dougong.run.showing import answered, learned_from
from dougong.train.adapter import lora
from dougong.train.loop import Job, Outcome, fit
from dougong.train.page import write_page
from dougong.train.resume import Resume, permitted, resume_of
from dougong.train.step import Report

Observer = Callable[[Report], None]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where everything it left is.
        recipe: Its recipe, with all that the data decided filled in.
        steps: Updates of the weights, over all resumptions.
        reason: Why it ended: "done" or "early stopping".
        metrics: The figures of the final weights on all validation data, and those of gzip and xz on a text.
        seconds: Of this call's training.
        writes_text: Whether it left a language model.
    """

    folder: Path
    recipe: Recipe
    steps: int
    reason: str
    metrics: Mapping[str, float]
    seconds: float
    writes_text: bool = True

    def summary(self) -> dict[str, Any]:
        """Returns what a machine would want to know of it, as JSON values."""
        figures = {"steps": self.steps, "reason": self.reason, "seconds": self.seconds, "metrics": dict(self.metrics)}
        return {"folder": str(self.folder), **figures}

    def load(self, precision: str = "auto", device: str = "auto") -> LanguageModel | Predictor | TextPredictor:
        """Returns the trained model, ready to generate, or to answer about pictures or texts."""
        folder = self.folder / "model"
        return (load_predictor if answers_about(folder) else load_language_model)(folder, precision, device)


@dataclass(frozen=True)
class Order:
    """What `train` was asked for.

    Attributes:
        source: A recipe's name, a file, a run folder, inline YAML, values, or a recipe.
        run: The run folder; absent: `runs/<name>-<n>`, a new one, or with `resume` the newest.
        resume: How to go on with the run in the folder, if there is one; None: there must be none.
        overrides: `path=value` texts.
        options: Values by path; a name without a section means `train.<name>`.
        observers: Called with the report of every step.
    """

    source: Source
    run: str | Path | None = None
    resume: Resume | None = None
    overrides: Sequence[str] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    observers: Sequence[Observer] = ()

    def folder(self) -> Path:
        """Returns the folder that the run is to have."""
        if self.run is not None:
            return Path(self.run)
        if self.resume and isinstance(self.source, str | Path) and is_run(Path(self.source)):
            return Path(self.source)
        name = name_of(self.source)
        return (newest_run_folder(name) if self.resume else None) or new_run_folder(name)


def train(
    source: Source,
    *,
    run: str | Path | None = None,
    resume: Resume | bool = False,
    overrides: Sequence[str] = (),
    observers: Sequence[Observer] = (),
    **options: Any,
) -> Run:
    """Trains what a recipe describes, and returns the run: `train("gpt-stdlib", steps=200)`.

    Args:
        source: A recipe's name, a file, a run folder, inline YAML, values, or a recipe.
        run: The run folder; absent: `runs/<name>-<n>`, a new one, or with `resume` the newest.
        resume: Go on with the run in the folder, if there is one; `Resume(allow=["train.seed"], fallback=True)` says
            which fields may differ, and that a damaged checkpoint may be passed over for the one before it.
        overrides: `path=value` texts, as `--set` takes them.
        observers: Called with the report of every step; they only read.
        options: Values by path; a name without a section means `train.<name>`, a section takes a mapping of changes.

    Raises:
        RecipeError: The recipe has faults; all of them, with file and line.
        UsageError: The folder holds another run, what must be equal to go on with one is not, or parts do not fit each
            other.
        FileError: The data or a checkpoint is corrupt, or the data has changed since the run began.
        ResourceError: The disk or the memory is full.
        NonFiniteError: The loss became NaN or infinite.
        Preempted: The run was asked to stop; its state is saved.
    """
    order = Order(source, run, resume_of(resume), overrides, options, observers)
    folder = order.folder()
    recipe = load(source, overrides, options)
    with claimed(folder, order.resume is not None) as goes_on:
        log.say(f"run folder: {folder}")
        files.remove_leftovers(folder / "model")
        return _run(recipe, folder, order.resume if goes_on else None, order)


def _run(recipe: Recipe, folder: Path, resume: Resume | None, order: Order) -> Run:
    if not foreseen_model(recipe)[1]:
        require_memory(recipe)  # before the data is touched, if it can be told by then
    parts = prepare(recipe)
    require_memory(parts.recipe)
    if resume is not None:
        _require_same_data(parts, folder, resume)
    names = [name for name in (RUN_RECIPE, "plan.json") if (folder / name).exists()]
    before = {name: files.read_bytes(folder / name) for name in names}
    watch = MemoryWatch(parts)
    with watch:
        job = _job(parts, folder, resume, order, watch)
    try:
        with watch:
            outcome = fit(job)
    except Preempted as error:
        raise Preempted(f"{str(error).split('. The same')[0]}. Go on with: dougong train {folder} --resume") from error
    except DougongError:
        if not watch.step:  # what was asked for now may not go on with what was begun: the folder stays as it was
            for name, content in before.items():
                files.write_whole(folder / name, content)
        raise
    finally:
        if (folder / "run.jsonl").exists():
            write_page(folder)
    metrics = _leave_model(parts, job.model, folder, outcome)
    compare(parts, job.model, folder)
    write_page(folder)
    return Run(folder, parts.recipe, outcome.steps, outcome.reason, metrics, outcome.seconds, parts.writes_text)


def _require_same_data(parts: Parts, folder: Path, resume: Resume) -> None:
    """Sees that the data is what the run was begun with, unless it is allowed to differ.

    Raises:
        UsageError: The recipe asks for other data; with a table of what differs.
        FileError: It asks for the same, which has another content now.
    """
    plan = files.read_json(folder / "plan.json") if (folder / "plan.json").exists() else {}
    before, now = plan.get("data", {}).get("fingerprint"), parts.data.fingerprint
    if before is None or before == now:
        return
    begun = load(folder)
    asks = _cutting(parts.recipe, now)
    if _cutting(begun, now) == asks and not {"data", "data.fingerprint"} & set(resume.allow):
        raise FileError(
            f"the data must be what {folder} began with (sha256 {before[:12]}), but is {now[:12]}: "
            f"{parts.data.source} or how it is cut has changed. Put it back, start a new run, or permit it with "
            "--allow data.",
            name="E-DATA",
        )
    permitted(_cutting(begun, before), asks, resume.allow)


def _cutting(recipe: Recipe, fingerprint: str) -> dict[str, Any]:
    """Returns all that decides which data there is and how it is cut: the model's context is a part of that."""
    return {"data": _data_values(recipe, fingerprint), "model": recipe.values()["model"]}


def _data_values(recipe: Recipe, fingerprint: str) -> dict[str, Any]:
    """Returns all that decides the data."""
    return {**anchored(recipe.values(), Path(), absolute=True)["data"], "fingerprint": fingerprint}


def _job(parts: Parts, folder: Path, resume: Resume | None, order: Order, watch: MemoryWatch) -> Job:
    recipe, train = parts.recipe, parts.recipe.train
    device = choose_device(train.device)
    counted = count(recipe)
    log.say(f"plan: {counted.flops_per_sample * parts.sizes().size(0) / 1e9:,.1f} GFLOP a step; {watch.estimate}")
    model = new_model(recipe)
    if recipe.init_from is not None:
        _warn_of_other_words(model_folder(recipe.init_from), parts.data)
    plan = {**_plan(parts, dataclasses.asdict(counted)), **predicted_step(parts), **watch.figures()}
    values = anchored(recipe.values(), Path(), absolute=True)
    files.write_json(folder / "plan.json", plan)
    files.write_whole(folder / RUN_RECIPE, to_yaml(values))
    for name in ("samples", "tensorboard", "checkpoints"):
        (folder / name).mkdir(exist_ok=True)
    _leave_sheet(folder / "samples" / "training.png", learned_from(parts))
    facts = {"data": parts.data.source, "licence of the data": parts.data.licence}
    facts |= {f"{name} -9, bits per byte": f"{bits:.4f}" for name, bits in compressed_bits_per_byte(parts.data).items()}
    dtype = choose_precision(train.precision, device).dtype
    return Job(
        config=train,
        model=model,
        task=parts.task,
        batches=parts.batches(),
        folder=folder,
        validation=parts.validation(),
        resume=resume,
        flops_per_sample=float(counted.flops_per_sample),
        facts=facts,
        identity={
            "model": values["model"],
            "task": values["task"],
            "init_from": values["init_from"],
            "init_new": values["init_new"],
            **_identity_of_adapter(recipe, model),
            "data": _data_values(recipe, parts.data.fingerprint),
        },
        observers=[watch.observe, *order.observers],
        attachments=[Sampler(train.samples, train.seed, parts, folder / "samples", dtype)]
        if train.samples.prompts
        else [],
    )


def new_model(recipe: Recipe) -> nn.Module:
    """Returns the model with the weights that training starts from."""
    model = recipe.model.build()  # type: ignore[attr-defined]
    model.init_weights(recipe.train.seed)
    if recipe.init_from is not None:
        fresh = load_weights(model, model_folder(recipe.init_from), recipe.init_new)
        but = f", but for {len(fresh)} new tensors ({', '.join(recipe.init_new)})" if fresh else ""
        log.say(f"starting from the weights of {recipe.init_from}{but}")
    if recipe.adapter is not None:
        if recipe.init_from is None:
            log.warn("the adapter is trained beside random weights, as init_from is absent: they learn nothing.")
        lora.attach(model, recipe.adapter, recipe.init_new)
        lora.draw(model, recipe.train.seed)
    return model


def _warn_of_other_words(folder: Path, data: Any) -> None:
    """Tells the person if an id stands for one word in the data, and for another in the folder begun with."""
    ours = getattr(data, "tokenizer", None)
    if ours is None:
        return
    apart = folder / SOURCE_TOKENIZER
    try:
        theirs = Tokenizer.from_folder(apart if apart.is_dir() else folder)
    except DougongError:  # the folder has none, or one that does not open: then nothing is known
        return
    if not ours.agrees(theirs):
        log.warn(
            f"data.tokenizer should be that of {folder}, whose weights stand for its words, but gives the same ids to "
            f"others. Set data.tokenizer to {{name: file, path: {folder}}}."
        )


def _identity_of_adapter(recipe: Recipe, model: nn.Module) -> dict[str, Any]:
    """Returns what must be equal to go on with an adapter: what it is, and the weights beside it, which stay."""
    if recipe.adapter is None:
        return {}
    said = recipe.adapter.model_dump(mode="json", exclude={"merge"})  # what is left at the end changes no number
    return {"adapter": said, "weights_beside_adapter": lora.fingerprint(model)}


def _plan(parts: Parts, counted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the run will take; figures that are measured later have the same name here."""
    data = parts.data
    return {
        "parameters": counted["parameters"],
        "steps": parts.recipe.train.steps,
        parts.task.item: parts.items(parts.recipe.train.steps),
        **{name: value for name, value in counted.items() if name != "parameters" and value is not None},
        "data": {
            "source": data.source,
            "licence": data.licence,
            "fingerprint": data.fingerprint,
            "train_examples": sum(len(part) for part, _ in data.train),
            "validation_examples": len(data.validation),
        },
    }


def _leave_model(parts: Parts, model: nn.Module, folder: Path, outcome: Outcome) -> dict[str, float]:
    """Evaluates the final weights on the whole validation text, and writes the model folder with its card."""
    metrics, details = full_evaluation(parts, model)
    _leave_sheet(folder / "samples" / "validation.png", answered(parts, model))
    if details:
        files.write_json(folder / "evaluation.json", {"metrics": metrics, **details})
    # The compressors' figures do not change while training: they stand among the facts of the run's start.
    of_model = {name: value for name, value in metrics.items() if not name.startswith(("gzip", "xz"))}
    _note_evaluation(folder, outcome.steps, of_model)
    left, adapter = _left(parts.recipe, model)
    card = write_card(parts, model, metrics, outcome.steps)
    assets = {**_assets(parts.data), "README.md": card.encode()}
    written: Any = getattr(parts.data, "target_tokenizer", parts.data.tokenizer if parts.writes_text else None)
    eos_id = None if written is None else written.eot_id
    if not parts.writes_text:
        assets[TASK_FILE] = json.dumps(parts.recipe.values()["task"], indent=2).encode()
    labels = json.loads(assets[LABELS_FILE]) if LABELS_FILE in assets else None
    save_model(left, folder / "model", assets, eos_id=eos_id, labels=labels, adapter=adapter)
    return metrics


def _left(recipe: Recipe, model: nn.Module) -> tuple[nn.Module, Adapter | None]:
    """Returns what the run leaves: one model, or the one that it began from and an adapter."""
    merged = recipe.adapter is None or recipe.adapter.merge
    left, adapter = lora.plain(model, merged)
    begun_from = None if recipe.init_from is None else str(recipe.init_from)
    return left, None if merged or adapter is None else dataclasses.replace(adapter, begun_from=begun_from)


def _leave_sheet(path: Path, content: bytes | None) -> None:
    if content is not None:
        files.write_whole(path, content)


def _assets(data: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as temporary:
        data.save_assets(temporary)
        found = (path for path in sorted(Path(temporary).rglob("*")) if path.is_file())
        return {path.relative_to(temporary).as_posix(): files.read_bytes(path) for path in found}


def _note_evaluation(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Adds the evaluation of the final weights to `run.jsonl`."""
    record = {"event": "final evaluation", "step": step, "evaluation": dict(metrics)}
    with files.open_binary(folder / "run.jsonl", "ab") as file, files.explained(folder / "run.jsonl", "written"):
        file.write(json.dumps(record).encode() + b"\n")
