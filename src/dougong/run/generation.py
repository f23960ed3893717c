"""The verb `generate`, and `load`: a trained model of a run, or of any Hugging Face folder, to use.

Knows where models are; how text is generated and what is asked is answered, `infer` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dougong.core.errors import UsageError
from dougong.infer.language import LanguageModel, load_language_model
from dougong.infer.predict import Predictor, answers_about, load_predictor
from dougong.infer.texts import TextPredictor
from dougong.recipe.sources import Source
from dougong.run.memory import loading
from dougong.run.prediction import folder_of
from dougong.run.training import Run


def load(
    source: Source | Run, *, run: str | Path | None = None, precision: str = "auto", device: str = "auto"
) -> LanguageModel | Predictor | TextPredictor:
    """Returns a language model with `.generate(...)` and `.tokenizer`, or one with `.predict(...)`.

    The latter answers about pictures or texts. Both have `.model`, a plain `torch.nn.Module`, and `.config`.

    Args:
        source: A run or its folder, a Hugging Face folder, or a recipe, whose newest run is taken.
        run: The run folder, where the source is a recipe.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: There is no such folder or run, or the run has no model yet.
        FileError: A file of the model is corrupt.
        ResourceError: The memory is full.
    """
    folder = folder_of(source, run)
    with loading(folder):
        return (load_predictor if answers_about(folder) else load_language_model)(folder, precision, device)


def load_writer(
    source: Source | Run, *, run: str | Path | None = None, precision: str = "auto", device: str = "auto"
) -> LanguageModel:
    """Returns a language model; else as `load`.

    Raises:
        UsageError: The model answers about pictures or texts.
    """
    folder = folder_of(source, run)
    if about := answers_about(folder):
        raise UsageError(
            f"{folder} must hold a language model, but its model answers about {about}. Use dougong predict."
        )
    with loading(folder):
        return load_language_model(folder, precision, device)


def generate(
    source: Source | Run,
    prompts: str | Sequence[str],
    *,
    suffix: str | None = None,
    run: str | Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    **options: Any,
) -> str | list[str]:
    """Returns the text that follows a prompt, or one text per prompt of a list.

    Args:
        source: As `load` takes it.
        prompts: What to go on from.
        suffix: What comes after the text that is wanted, for a model that was trained to fill in the middle.
        run: The run folder, where the source is a recipe.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.
        options: The fields of `GenerateConfig`: max_new_tokens, temperature, top_k, top_p, num_beams, stop, seed, ...
    """
    return load_writer(source, run=run, precision=precision, device=device).generate(prompts, suffix, **options)
