"""The verb `data`: what a recipe's data holds, and its first training examples as the model sees them.

Knows prepared data and the order of training; what a picture or a text looks like, the floors below know.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import UsageError
from dougong.data.examples import AnnotatedImage, LabelledImage, LabelledText, TokenRow
from dougong.data.sheet import Tile, contact_sheet, unnormalised
from dougong.recipe import load
from dougong.recipe.sources import Source
from dougong.run.parts import Parts, prepare

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
    if isinstance(examples[0], TokenRow | LabelledText):
        return Shown(facts, [_text(parts, example) for example in examples])
    if not isinstance(examples[0], LabelledImage | AnnotatedImage):
        raise UsageError(f"examples of {parts.data.source} must be pictures or text to be shown, but are others.")
    if to is None:
        raise UsageError("a file must be named for the pictures. Name it with --to FILE.png.")
    content = io.BytesIO()
    contact_sheet([_tile(parts, example) for example in examples], getattr(parts.data, "labels", None)).save(
        content, "PNG"
    )
    files.write_whole(Path(to), content.getvalue())
    return Shown(facts, sheet=Path(to))


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


def _text(parts: Parts, example: TokenRow | LabelledText) -> str:
    words = parts.data.tokenizer.decode(example.tokens.tolist())
    label = f"{parts.data.labels[example.label]}: " if isinstance(example, LabelledText) else ""
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
