"""A language model to use: text in, text out. Knows a model and its tokenizer; knows no recipe and no run.

What a model was trained on matters here in one way: every document began with the end-of-text token, so text out of
nothing begins there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dougong.checkpoint.weights import load_model
from dougong.core.config import Config, validate
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import UsageError
from dougong.data.fim import Infilling
from dougong.data.tokenizer import Tokenizer
from dougong.infer.config import GenerateConfig
from dougong.infer.engine import Decoding, search
from dougong.infer.layout import lay_out_for_decoding
from dougong.infer.text import TextPieces, whole_text

_SCORED_AT_ONCE = 128


@dataclass(frozen=True)
class Completion:
    """What follows one prompt.

    Attributes:
        text: The generated text, without the prompt, the stop string and the end-of-text token.
        tokens: All generated tokens, those of the stop string or the end-of-text token included.
        finish_reason: `eot` (the model ended the text), `stop` (a stop string appeared), or `length` (as many tokens as
            asked for, or the context is full).
    """

    text: str
    tokens: list[int]
    finish_reason: str


class LanguageModel:
    """A model with its tokenizer.

    Attributes:
        model: The `nn.Module`, in evaluation mode.
        tokenizer: What turns text into its tokens.
        config: The model's config.

    Raises:
        UsageError: The tokenizer has tokens that the model does not know.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer):
        most = cast(Any, model).config.vocab_size
        if tokenizer.vocab_size > most:
            raise UsageError(
                f"the tokenizer must have at most the model's {most} tokens, but has "
                f"{tokenizer.vocab_size}. Take the tokenizer that the model was trained with."
            )
        self.model: Any = model.eval()
        self.tokenizer = tokenizer

    @property
    def config(self) -> Config:
        """What the model was built from."""
        return self.model.config

    def generate(self, prompts: str | Sequence[str], suffix: str | None = None, **options: Any) -> str | list[str]:
        """Returns the text that follows a prompt, or one text per prompt of a list.

        Args:
            prompts: What to go on from.
            suffix: What comes after the text that is wanted (see `infill`); None: whatever the model writes.
            options: The fields of `GenerateConfig`.

        Raises:
            UsageError: An option is not allowed, or a prompt leaves no room for a token.
        """
        if isinstance(prompts, str):
            return self.complete([prompts], suffix, **options)[0].text
        return [completion.text for completion in self.complete(prompts, suffix, **options)]

    def infill(self, prefix: str, suffix: str, **options: Any) -> str:
        """Returns the text between a beginning and an end, from a model that was trained to fill in the middle.

        Args:
            prefix: What comes before; may be empty.
            suffix: What comes after; may be empty.
            options: The fields of `GenerateConfig`.

        Raises:
            UsageError: The tokenizer has no tokens for infilling; else as `generate`.
        """
        return self.complete([prefix], suffix, **options)[0].text

    def complete(
        self, prompts: Sequence[str], suffix: str | None = None, *, rows: Sequence[int] | None = None, **options: Any
    ) -> list[Completion]:
        """Returns what follows each prompt, with the tokens and the reason of the end; else like `generate`.

        Args:
            prompts: What to go on from.
            suffix: What comes after the text that is wanted; None: whatever the model writes.
            rows: Each prompt's own number, which decides its draws together with the seed; by default its place.
            options: The fields of `GenerateConfig`.
        """
        config = validate(GenerateConfig, options)
        numbers = range(len(prompts)) if rows is None else rows
        encoded = [self.encode_prompt(prompt, suffix) for prompt in prompts]
        if config.num_beams > 1:
            return [self._search(prompt, config) for prompt in encoded]
        completions: list[Completion] = []
        for start in range(0, len(encoded), config.batch_size):
            batch = encoded[start : start + config.batch_size]
            decoding = self._decoding(batch, config, numbers[start : start + len(batch)])
            texts = [""] * len(batch)
            for place, piece in self._pieces(decoding, config):
                texts[place] += piece
            for text, tokens, reason in zip(texts, decoding.tokens, decoding.reasons, strict=True):
                completions.append(Completion(text, tokens, reason or "length"))
        return completions

    def stream(self, prompt: str, suffix: str | None = None, **options: Any) -> Iterator[str]:
        """Yields the text that follows a prompt as it is generated; the pieces together are what `generate` returns.

        With a suffix they are what `infill` returns. Beam search knows its text at the end only, and yields it as one
        piece. Errors are those of `generate`, raised by the call itself.
        """
        config = validate(GenerateConfig, options)
        encoded = self.encode_prompt(prompt, suffix)
        if config.num_beams > 1:
            return iter([self._search(encoded, config).text])
        decoding = self._decoding([encoded], config, [0])
        return (piece for _, piece in self._pieces(decoding, config))

    @torch.inference_mode()
    def score(self, texts: Sequence[str]) -> list[float]:
        """Returns the log-probability in nats of each text as the beginning of a document.

        Raises:
            UsageError: A text is longer than the model's context.
        """
        return [self._score(self.tokenizer.encode(text)) for text in texts]

    def encode_prompt(self, prompt: str, suffix: str | None = None) -> list[int]:
        """Returns the tokens of a prompt; an empty one is the end-of-text token, which opens every document.

        With a suffix: what the model is to follow with the middle.
        """
        if suffix is not None:
            return Infilling(self.tokenizer).asked(self.tokenizer.encode(prompt), self.tokenizer.encode(suffix))
        return self.tokenizer.encode(prompt) or [self.tokenizer.eot_id]

    def _decoding(self, prompts: list[list[int]], config: GenerateConfig, rows: Sequence[int]) -> Decoding:
        return Decoding(self.model, prompts, config, self.tokenizer.eot_id, rows)

    def _pieces(self, decoding: Decoding, config: GenerateConfig) -> Iterator[tuple[int, str]]:
        """Yields pieces of text, each with the place of its prompt, until all texts have ended."""
        texts = [TextPieces(self.tokenizer.stream(), config.stop) for _ in decoding.tokens]
        while decoding.live:
            for place, token in decoding.step().items():
                piece = texts[place].push(token)
                if decoding.reasons[place] is not None and not texts[place].stopped:
                    piece += texts[place].end()
                if texts[place].stopped:
                    decoding.end(place, "stop")
                if piece:
                    yield place, piece

    def _search(self, prompt: list[int], config: GenerateConfig) -> Completion:
        def stopped(tokens: Sequence[int]) -> bool:
            pieces = TextPieces(self.tokenizer.stream(), config.stop)
            whole_text(pieces, tokens)
            return pieces.stopped

        found = search(self.model, prompt, config, self.tokenizer.eot_id, stopped if config.stop else None)
        text = whole_text(TextPieces(self.tokenizer.stream(), config.stop), found.tokens)
        return Completion(text, found.tokens, found.reason or "length")

    def _score(self, tokens: list[int]) -> float:
        longest = self.model.config.max_seq_len
        if len(tokens) > longest:
            raise UsageError(
                f"a text to score must fit the model's context of {longest} tokens, but has {len(tokens)}. Shorten it."
            )
        device = next(self.model.parameters()).device
        inputs = torch.tensor([[self.tokenizer.eot_id, *tokens[:-1]]], device=device)
        features = self.model.features(inputs)[0] if tokens else inputs.new_zeros(0)
        targets = torch.tensor(tokens, device=device)
        pairs = zip(features.split(_SCORED_AT_ONCE), targets.split(_SCORED_AT_ONCE), strict=True)
        return sum(self._log_probability(*pair) for pair in pairs) if tokens else 0.0

    def _log_probability(self, features: Float[Tensor, "time dim"], targets: Tensor) -> float:
        scores = self.model.head(features).float().log_softmax(-1)
        return float(scores.gather(1, targets[:, None]).double().sum())


def load_language_model(folder: str | Path, precision: str = "auto", device: str = "auto") -> LanguageModel:
    """Returns the language model of a folder, ready to generate.

    Args:
        folder: A Hugging Face folder (model and tokenizer), or a run's folder with such a one named `model`.
        precision: auto, fp32, bf16 or fp16; auto takes bf16 where the machine computes faster in it.
        device: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: The folder does not exist, is no model's, or its tokenizer does not fit the model.
        FileError: A file of it is corrupt.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
        folder = folder / "model"
    where = choose_device(device)
    model: Any = load_model(folder, where, choose_precision(precision, where).dtype)
    if not hasattr(model, "new_cache"):
        raise UsageError(
            f"{folder} must hold a language model, which writes text, but holds a {model.config.name} that does not. "
            "Its figures on the validation data: dougong evaluate RUN"
        )
    return LanguageModel(lay_out_for_decoding(model), Tokenizer.from_folder(folder))
