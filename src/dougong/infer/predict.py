"""A trained model that answers: pictures in, classes or objects out. Knows a model, its task and how inputs are taken.

Does not know recipes, runs or where pictures come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dougong.checkpoint.weights import load_model, read_config
from dougong.core import files
from dougong.core.config import Config, find_part, validate
from dougong.core.contracts import Answering
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import FileError, UsageError
from dougong.data.intake import Intake, Source, Taken, said_by_timm
from dougong.nn.normed import fold

TASK_FILE = "task.json"
LABELS_FILE = "labels.json"
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


def load_predictor(folder: str | Path, precision: str = "auto", device: str = "auto") -> Predictor:
    """Returns the model of a folder, ready to answer about pictures.

    Args:
        folder: A model folder: a run's, or a Hugging Face one of a family that is built here.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: There is no such folder, or its model does not answer about pictures.
        FileError: A file of it is corrupt.
    """
    folder, place = Path(folder), choose_device(device)
    dtype = choose_precision(precision, place).dtype
    model: Any = load_model(folder, place)
    task = _task(folder, model.config)
    intake = Intake(_said(folder), task.shape)
    fold(model)
    return Predictor(model, task, intake, dtype)


def _said(folder: Path) -> Mapping[str, Any]:
    """Returns how pictures are made ready: what the folder says, in words of transformers."""
    path = folder / _PREPROCESSOR
    return files.read_settings(path) if path.exists() else said_by_timm(files.read_settings(folder / "config.json"))


def is_pictures(folder: str | Path) -> bool:
    """Tells whether the model of a folder answers about pictures."""
    if (Path(folder) / _PREPROCESSOR).exists():
        return True
    try:
        return hasattr(read_config(folder), "answers_as")
    except (FileError, UsageError):  # what is wrong with it, is said by what loads it
        return False


def _task(folder: Path, config: Any) -> Any:
    """Returns the task that a folder says, or else the one that its family is for.

    Raises:
        UsageError: Neither says one, or it gives no answers about pictures.
    """
    path = folder / TASK_FILE
    values: dict[str, Any] = dict(files.read_settings(path)) if path.exists() else {}
    values.setdefault("name", getattr(config, "answers_as", None))
    if values.get("name") is None and not path.exists():
        raise UsageError(
            f"{folder} must hold a model that answers about pictures, but says no task and is of the family "
            f"{config.name}. Name the folder of a run, or use dougong generate."
        )
    with _explained(path):
        said: Any = validate(find_part("tasks", values["name"]).PART, values)
    task = said.build(config, _Named(_labels(folder)))
    if not isinstance(task, Answering) or not hasattr(task, "shape"):
        raise UsageError(
            f"{folder} must hold a model that answers about pictures, but its task is {values['name']}. "
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
    """What a task wants to know of the data once there is none: the names of the classes."""

    def __init__(self, labels: Sequence[str] | None):
        self.labels = labels


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
