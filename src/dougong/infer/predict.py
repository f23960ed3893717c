"""A trained model that answers: pictures in, classes or objects out; texts, see `texts.py`.

Knows a model, its task and how inputs are taken; does not know recipes, runs or where pictures come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dougong.checkpoint.weights import load_model, read_config
from dougong.core import files
from dougong.core.config import Config, find_part, validate
from dougong.core.contracts import Answering
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import FileError, UsageError
from dougong.data.intake import Intake, Source, Taken, said_by_timm
from dougong.data.tokenizer import Tokenizer
from dougong.infer.texts import Embedding, TextPredictor
from dougong.nn.normed import fold

TASK_FILE = "task.json"
_SENTENCES = "sentence_bert_config.json"
LABELS_FILE = "labels.json"
SOURCE_TOKENIZER = "source_tokenizer"
_PREPROCESSOR = "preprocessor_config.json"


class Predictor:
    """A model with all that it needs to answer.

    Attributes:
        model: The `nn.Module`, in evaluation mode, its batch normalisation folded into the convolutions.
        task: What makes answers of what the model puts out.
        intake: What turns a picture into what the model takes.
        labels: The names of the classes, if they are known.
    """

    def __init__(self, model: nn.Module, task: Any, intake: Intake, dtype: torch.dtype = torch.float32):
        self.model: Any = model.eval()
        self.task, self.intake, self.dtype = task, intake, dtype

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes, if they are known."""
        return self.task.labels

    @property
    def finds_objects(self) -> bool:
        """Whether the answers are objects with boxes, rather than a class."""
        return self.task.pipeline_tag == "object-detection"

    @property
    def config(self) -> Config:
        """What the model was built from."""
        return self.model.config

    def predict(self, pictures: Source | Sequence[Source], batch_size: int = 16) -> Any:
        """Returns the answer for a picture, or a list of answers for a list of pictures.

        Of a classifier an answer has `label`, `probability` and `likeliest`, the next classes; of a detector `objects`,
        each with `label`, `score` and `box` (left, top, right, bottom, in pixels of the picture).

        Args:
            pictures: Paths, contents of files, arrays [height width channel] of uint8, or Pillow images.
            batch_size: How many go through the model at once.

        Raises:
            UsageError: A file does not exist, or an array is no picture.
            FileError: A picture is broken.
        """
        alone = not isinstance(pictures, list | tuple)
        several: Any = [pictures] if alone else pictures
        answers = [answer for _, answer in self.answers(map(self.intake.take, several), batch_size)]
        return answers[0] if alone else answers

    def answers(self, taken: Iterable[Taken], batch_size: int = 16) -> Iterator[tuple[Taken, dict[str, Any]]]:
        """Yields each picture with its answer, in order, as they come."""
        rest = iter(taken)
        while pieces := list(islice(rest, batch_size)):
            yield from zip(pieces, self._answers(pieces), strict=True)

    @torch.inference_mode()
    def _answers(self, pieces: Sequence[Taken]) -> list[dict[str, Any]]:
        device = next(self.model.parameters()).device
        batch = self.task.collate([piece.example for piece in pieces], range(len(pieces))).to(device)
        plain = self.dtype in (torch.float32, torch.float64)
        with contextlib.nullcontext() if plain else torch.autocast(device.type, dtype=self.dtype):
            return self.task.answers(self.model, batch)


def load_predictor(folder: str | Path, precision: str = "auto", device: str = "auto") -> Predictor | TextPredictor:
    """Returns the model of a folder, ready to answer about pictures or texts.

    Args:
        folder: A model folder: a run's, or a Hugging Face one of a family that is built here.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: There is no such folder, or its model answers about neither.
        FileError: A file of it is corrupt.
    """
    folder, place = Path(folder), choose_device(device)
    dtype = choose_precision(precision, place).dtype
    model: Any = load_model(folder, place)
    if getattr(model.config, "embeds", False) and not (folder / TASK_FILE).exists():
        vectors = Embedding(_room(folder, model.config.max_seq_len))
        return TextPredictor(model, vectors, Tokenizer.from_folder(folder), dtype)
    tokenizers = _tokenizers(folder) if answers_about(folder) == "texts" else None
    task = _task(folder, model.config, tokenizers)
    if tokenizers is not None:
        return TextPredictor(model, task, tokenizers[0], dtype)
    intake = Intake(_said(folder), task.shape)
    fold(model)
    return Predictor(model, task, intake, dtype)


def _room(folder: Path, most: int) -> int:
    """Returns how many tokens of a text are read: as many as sentence-transformers reads, if that is said."""
    path = folder / _SENTENCES
    found = files.read_settings(path).get("max_seq_length") if path.exists() else None
    return min(found, most) if isinstance(found, int) and found > 0 else most


def _said(folder: Path) -> Mapping[str, Any]:
    """Returns how pictures are made ready: what the folder says, in words of transformers."""
    path = folder / _PREPROCESSOR
    return files.read_settings(path) if path.exists() else said_by_timm(files.read_settings(folder / "config.json"))


def _tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Returns what cuts texts, and what cuts what is written: mostly the same."""
    found, source = Tokenizer.from_folder(folder), folder / SOURCE_TOKENIZER
    return (Tokenizer.from_folder(source) if source.is_dir() else found), found.target


def answers_about(folder: str | Path) -> Literal["pictures", "texts"] | None:
    """Tells what the model of a folder answers about; None: it writes text, or is for nothing that is known."""
    folder = Path(folder)
    if (folder / _PREPROCESSOR).exists():
        return "pictures"
    try:
        name = files.read_settings(folder / TASK_FILE).get("name") if (folder / TASK_FILE).exists() else None
        config: Any = None if name else read_config(folder)
        if getattr(config, "embeds", False):
            return "texts"
        name = name or getattr(config, "answers_as", None)
        return getattr(find_part("tasks", name).PART, "about", None) if isinstance(name, str) else None
    except (FileError, UsageError, LookupError):  # what is wrong with it, is said by what loads it
        return None


def _task(folder: Path, config: Any, tokenizers: tuple[Tokenizer, Tokenizer] | None) -> Any:
    """Returns the task that a folder says, or else the one that its family is for.

    Raises:
        UsageError: Neither says one, or it gives no answers.
    """
    path = folder / TASK_FILE
    values: dict[str, Any] = dict(files.read_settings(path)) if path.exists() else {}
    values.setdefault("name", getattr(config, "answers_as", None))
    if values.get("name") is None and not path.exists():
        raise UsageError(
            f"{folder} must hold a model that answers about pictures or texts, but says no task and is of the family "
            f"{config.name}. Name the folder of a run, or use dougong generate."
        )
    with _explained(path):
        said: Any = validate(find_part("tasks", values["name"]).PART, values)
    task = said.build(config, _Named(_labels(folder), tokenizers))
    if not isinstance(task, Answering) or not hasattr(task, "shape" if tokenizers is None else "examples"):
        raise UsageError(
            f"{folder} must hold a model that answers about pictures or texts, but its task is {values['name']}. "
            "Use dougong evaluate or dougong generate."
        )
    return task


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (UsageError, LookupError, TypeError, ValueError) as error:
        reason = f"{error} is absent" if isinstance(error, KeyError) else str(error).splitlines()[0].rstrip(".")
        raise FileError(
            f"{path} must say a task and its options, but does not: {reason}. Take the original file."
        ) from error


class _Named:
    """What a task wants to know of the data once there is none: the names of the classes, and the tokenizers."""

    def __init__(self, labels: Sequence[str] | None, tokenizers: tuple[Tokenizer, Tokenizer] | None):
        self.labels = labels
        self.tokenizer: Tokenizer | None = None if tokenizers is None else tokenizers[0]
        self.target_tokenizer: Tokenizer | None = None if tokenizers is None else tokenizers[1]


def _labels(folder: Path) -> list[str] | None:
    """Returns the names of the classes: ours, or those of transformers."""
    path = folder / LABELS_FILE
    found: Any = None
    if path.exists():
        found = files.read_json(path)
    else:
        path = folder / "config.json"
        names = files.read_settings(path).get("id2label")
        if isinstance(names, dict):
            numbered = all(str(key).isdecimal() for key in names)
            found = [names[key] for key in sorted(names, key=int)] if numbered else names
    if found is not None and not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise FileError(f"{path} must give the names of the classes, but does not. Take the original file.")
    return found
