"""Whether a model and data fit a task, said in a sentence before anything is computed.

Knows the kinds of examples, and what a model's config says it is for; knows no concrete model or dataset.
"""

from __future__ import annotations

from typing import Any

from dougong.core.errors import UsageError
from dougong.data.examples import (
    AnnotatedImage,
    EncoderText,
    LabelledImage,
    LabelledText,
    QuestionWindow,
    TaggedText,
    TextPair,
    TokenRow,
)

_KINDS = {
    LabelledImage: "pictures with a class each",
    AnnotatedImage: "pictures with boxes",
    LabelledText: "texts with a class each",
    TaggedText: "sentences with a tag for each word",
    QuestionWindow: "questions about texts",
    EncoderText: "texts for encoders",
    TextPair: "texts with their translations",
    TokenRow: "running text",
}
_OWN_MODELS = (AnnotatedImage, TextPair)
"""What takes a model of a kind of its own."""


def require_fit(model: Any, data: Any, task: str, example: type) -> None:
    """Sees that a model is for a task, and that the data has such examples.

    A config that does not say what it is for (`answers_as`), as that of a composed model, may be for any class.

    Args:
        model: The model's config.
        data: The prepared data; None, or without examples, if there is none.
        task: The task's name.
        example: What it takes.

    Raises:
        UsageError: It is for another task, or the data has others.
    """
    wanted = getattr(model, "answers_as", None)
    if wanted != task and (wanted is not None or example in _OWN_MODELS):
        advice = "Choose another model" if wanted is None else f"Set task.name to {wanted}, or choose another model"
        head = getattr(model, "head", None)
        what, other = (model.name, "") if head is None else (f"{model.name} with head {head}", " or head")
        raise UsageError(f"the model must be one for the task {task}, but {what} is not. {advice}{other}.")
    require_examples(data, task, example)


def require_examples(data: Any, task: str, example: type) -> None:
    """Sees that data has the examples that a task takes.

    Args:
        data: The prepared data; None, or without examples, if there is none.
        task: The task's name.
        example: What it takes.

    Raises:
        UsageError: It has others.
    """
    examples: Any = getattr(data, "validation", ())
    if len(examples) and not isinstance(examples[0], example):
        found = _KINDS.get(type(examples[0]), "others")
        raise UsageError(f"the task {task} needs {_KINDS[example]}, but {data.source} has {found}. Choose other data.")
