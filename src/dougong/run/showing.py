"""The verb `data`: what a recipe's data holds, and its first training examples as the model sees them.

Also the pictures that a run leaves: what it learned from, and what it answers. Knows prepared data and the order of
training; what a picture or a text looks like, the floors below know.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dougong.core import files
from dougong.core.contracts import Answering
from dougong.core.errors import UsageError
from dougong.data.examples import AnnotatedImage, EncoderText, LabelledImage, LabelledText, TokenRow
from dougong.data.sheet import Tile, contact_sheet, unnormalised
from dougong.recipe import load
from dougong.recipe.sources import Source
from dougong.run.parts import Parts, prepare

LEFT, SURE = 16, 0.5
_LONGEST = 300


@dataclass(frozen=True)
class Shown:
    """What a recipe's data holds.

    Attributes:
        facts: Source, licence, fingerprint, classes, and how many examples each part has.
        texts: The first examples, where they are text.
        sheet: The file with the first examples, where they are pictures.
    """

    facts: Mapping[str, Any]
    texts: Sequence[str] = ()
    sheet: Path | None = None


def show(
    source: Source,
    to: str | Path | None = None,
    count: int = 0,
    validation: bool = False,
    overrides: Sequence[str] = (),
) -> Shown:
    """Returns what a recipe's data holds, and writes its first examples into one picture if they are pictures.

    Args:
        source: A recipe's name, a file, a run folder, or inline YAML.
        to: The file of the picture.
        count: How many examples to show; those of training in their order, changed at random as the recipe says.
        validation: Show those that are kept apart instead.
        overrides: `path=value` texts.

    Raises:
        UsageError: There is no picture of such examples, or no file is named for it.
        FileError: The data is broken.
    """
    parts = prepare(load(source, overrides))
    if count < 0:
        raise UsageError(f"the number of examples to show must be 0 or more, but is {count}.")
    examples = _examples(parts, count, validation)
    facts = _facts(parts)
    if not examples:
        return Shown(facts)
    if isinstance(examples[0], TokenRow | LabelledText | EncoderText):
        return Shown(facts, [_text(parts, example) for example in examples])
    if not isinstance(examples[0], LabelledImage | AnnotatedImage):
        raise UsageError(f"examples of {parts.data.source} must be pictures or text to be shown, but are others.")
    if to is None:
        raise UsageError("a file must be named for the pictures. Name it with --to FILE.png.")
    files.write_whole(Path(to), _sheet(parts, [_tile(parts, example) for example in examples]))
    return Shown(facts, sheet=Path(to))


def learned_from(parts: Parts) -> bytes | None:
    """Returns the first training examples as one picture, or None where they are no pictures."""
    examples = _examples(parts, 1, False)
    if not isinstance(examples[0], LabelledImage | AnnotatedImage):
        return None
    return _sheet(parts, [_tile(parts, example) for example in _examples(parts, LEFT, False)])


def answered(parts: Parts, model: nn.Module) -> bytes | None:
    """Returns what a model answers about the first validation pictures, or None where they are no pictures."""
    task, examples = parts.task, _examples(parts, LEFT, True)
    if not (examples and isinstance(examples[0], LabelledImage | AnnotatedImage) and isinstance(task, Answering)):
        return None
    batch = parts.task.collate(examples, range(len(examples))).to(next(model.parameters()).device)
    training = model.training
    with torch.inference_mode():
        answers = task.answers(model.eval(), batch)
    model.train(training)
    return _sheet(parts, [_answered(parts, *pair) for pair in zip(examples, answers, strict=True)])


def _answered(parts: Parts, example: LabelledImage | AnnotatedImage, answer: Mapping[str, Any]) -> Tile:
    """Returns a picture with what the model says of it, and what is true."""
    tile = _tile(parts, example)
    if isinstance(example, LabelledImage):
        right = "" if answer["label"] == tile.caption else f"\n(it is {tile.caption})"
        return replace(tile, caption=f"{answer['label']} {answer['probability']:.0%}{right}")
    sure = [each for each in answer["objects"] if each["score"] >= SURE]
    boxes = np.array([each["box"] for each in sure], dtype=np.float32).reshape(-1, 4)
    boxes = boxes * np.array(example.scale[::-1] * 2, dtype=np.float32)
    names = list(parts.data.labels)
    labels, scores = [names.index(each["label"]) for each in sure], [each["score"] for each in sure]
    return Tile(tile.pixels, f"{len(sure)} found, {tile.caption} there", boxes, labels, scores)


def _sheet(parts: Parts, tiles: Sequence[Tile]) -> bytes:
    content = io.BytesIO()
    contact_sheet(tiles, getattr(parts.data, "labels", None)).save(content, "PNG")
    return content.getvalue()


def _examples(parts: Parts, count: int, validation: bool) -> list[Any]:
    if validation:
        return [parts.data.validation[number] for number in range(min(count, len(parts.data.validation)))]
    every = parts.batches().examples
    return [every[number] for number in range(count)]


def _facts(parts: Parts) -> dict[str, Any]:
    data = parts.data
    labels = getattr(data, "labels", None)
    return {
        "source": data.source,
        "licence": data.licence,
        "fingerprint": data.fingerprint,
        "training examples": sum(len(part) for part, _ in data.train),
        "validation examples": len(data.validation),
        **({"classes": list(labels)} if labels else {}),
        "counts": list(data.counts),
    }


def _text(parts: Parts, example: TokenRow | LabelledText | EncoderText) -> str:
    words = parts.data.tokenizer.decode(example.tokens.tolist())
    label = f"{parts.data.labels[example.label]}: " if isinstance(example, LabelledText) else ""
    if isinstance(example, EncoderText) and example.follows is not None:
        label = "follows: " if example.follows else "does not follow: "
    return label + (words if len(words) <= _LONGEST else words[:_LONGEST] + "...")


def _tile(parts: Parts, example: LabelledImage | AnnotatedImage) -> Tile:
    """Returns an example as a person sees it; of several views the first."""
    scaling = getattr(parts.data.config, "scaling", None)
    channels = example.pixels.shape[-3]
    mean, std = scaling() if scaling is not None else ([0.0] * channels, [1.0] * channels)
    pixels = example.pixels.reshape(-1, *example.pixels.shape[-3:])[0]
    if isinstance(example, AnnotatedImage):
        caption = f"{len(example.labels)} object{'s' * (len(example.labels) != 1)}"
        return Tile(unnormalised(pixels, mean, std), caption, example.boxes, example.labels.tolist())
    names = parts.data.labels
    caption = names[example.label] if example.label < len(names) else str(example.label)
    if example.other is not None:
        caption = f"{example.share:.0%} {caption}, {1 - example.share:.0%} {names[example.other]}"
    return Tile(unnormalised(pixels, mean, std), caption)
