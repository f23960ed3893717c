"""Masked language modeling: the loss of hidden words, and of whether a second text follows the first.

Knows rows of tokens, and models with `features`, `word_features`, `head_weight`, `head_bias` and `follows`; knows no
concrete model, tokenizer or dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.contracts import Batch, Loss
from dougong.core.errors import UsageError
from dougong.data.examples import EncoderText
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import MASK
from dougong.nn.losses import IGNORED, cross_entropy_chunked
from dougong.tasks._classes import known
from dougong.tasks._fit import require_examples
from dougong.tasks._rows import MULTIPLE, padded, width_of
from dougong.tasks.masked_lm import MaskedLMConfig
from dougong.tasks.masked_lm.figures import MaskedMetrics
from dougong.tasks.masked_lm.hiding import Hidden, Vocabulary, hide

Equality = tuple[str, Batch, Sequence[Batch]]
HEADS = ("masked_lm", "pretraining")
_LIKELIEST = 5
_KEYS_OF_HIDING = 0x6D6C6D  # far from the places that dropout draws at, which count layers


class MaskedLM:
    """The objective. A batch has `tokens`, `lengths`, `words` and, of pairs, `segments` and `follows` (1 or 0).

    `words` are the numbers of the words that tokens belong to; -1: it is never hidden. What else is to be known of the
    vocabulary, a batch has as well: `special`, `mask_id`, `num_tokens`.

    Which words are hidden is drawn in the loss, from the noise of the batch, or where it has none from the numbers of
    its samples: so the same words are hidden each time the model is evaluated, and others each time a text is trained.

    Attributes:
        item: What a loss's weight counts, as a word for a person.
        per_example: How many of them a text of full length has.
        pipeline_tag: What the hub calls models of this kind.
        labels: None: there are no classes.
        takes: How many texts there are at a time, at least and at most.
    """

    item = "masked tokens"
    pipeline_tag = "fill-mask"
    labels = None
    takes = (1, 1)

    def __init__(self, config: MaskedLMConfig, model: Any, data: Any = None):
        head = getattr(model, "head", None)
        if head not in HEADS:
            raise UsageError(
                f"the task {config.name} needs a model with the head {' or '.join(HEADS)}, but {model.name} has "
                f"{head or 'none'}. Set model.head, or choose another model."
            )
        require_examples(data, config.name, EncoderText)
        self.also_follows = head == "pretraining"
        examples: Any = getattr(data, "validation", ())
        if self.also_follows and len(examples) and examples[0].follows is None:
            raise UsageError("model.head pretraining needs pairs of texts, but there are none. Set data.pairs to true.")
        self.config = config
        self.seq_len: int = known(model, None, "max_seq_len", config.name)
        self.vocab_size: int = known(model, None, "vocab_size", config.name)
        self.per_example = max(1, round(config.share * self.seq_len))
        self.tokenizer: Any = getattr(data, "tokenizer", None)
        self._vocabulary = Vocabulary(self.tokenizer, self.vocab_size, config.whole_words)
        self.cross_entropy = cross_entropy_chunked

    def collate(self, examples: Sequence[EncoderText], samples: Sequence[int]) -> Batch:
        """Returns a batch as long as its longest row, rounded up to a multiple of 8; what is added counts nowhere."""
        lengths = [len(example.tokens) for example in examples]
        width = width_of(lengths, self.seq_len)
        fields = {
            "tokens": padded([example.tokens for example in examples], width),
            "words": padded([self._vocabulary.words(example.tokens) for example in examples], width),
            "lengths": torch.tensor(lengths, dtype=torch.int64),
            **self._vocabulary.fields(len(examples)),
        }
        if examples[0].follows is not None:
            fields["segments"] = padded([example.segments for example in examples], width)
            fields["follows"] = torch.tensor([int(bool(example.follows)) for example in examples], dtype=torch.int64)
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def hidden(self, batch: Batch) -> Hidden:
        """Returns what the model sees of a batch, and what it is to name."""
        if batch.noise is None:
            keys = seeds.sample_keys(batch.samples, 0, self.config.name)
        else:
            keys = seeds.fold(batch.noise, _KEYS_OF_HIDING)
        return hide(self.config, batch, keys)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed cross entropy of the hidden words, in nats, and how many they are.

        With the head `pretraining` each text adds what it costs to tell whether its second part follows its first,
        times the number of its hidden words. So the loss is a sum over items still, however a batch is divided; and
        where texts have equally many hidden words, its mean is the sum of two means that the paper has (A.2).
        """
        hidden = self.hidden(batch)
        features = self.features(model, batch, hidden)
        words: Any = model
        rows = words.word_features(self.at_places(features, hidden))
        found = self.cross_entropy(rows, words.head_weight, hidden.targets, bias=words.head_bias)
        if not self.also_follows:
            return Loss(found.sum, found.weight, {})
        nats, _ = self.follows(model, features, batch)
        follows = (nats * (hidden.targets != IGNORED).sum(1)).sum()
        return Loss(found.sum + follows, found.weight, {"masked": found.nll, "follows": follows.detach()})

    def features(self, model: Any, batch: Batch, hidden: Hidden) -> Float[Tensor, "batch time dim"]:
        """Returns a vector for each token of what the model sees."""
        return model.features(hidden.tokens, batch["lengths"], batch.get("segments"), batch.noise)

    def at_places(self, features: Float[Tensor, "batch time dim"], hidden: Hidden) -> Float[Tensor, "batch most dim"]:
        """Returns the vectors of the hidden words alone: the head computes nothing of the others."""
        return features.gather(1, hidden.places[..., None].expand(-1, -1, features.shape[-1]))

    def follows(
        self, model: Any, features: Float[Tensor, "batch time dim"], batch: Batch
    ) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Returns for each text the nats of whether its second part follows, and whether the model is right."""
        logits = model.follows(features).float() if features.dtype != torch.float64 else model.follows(features)
        labels = 1 - batch["follows"]  # class 0 is "it follows"
        return F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(-1) == labels).long()

    def metrics(self) -> MaskedMetrics:
        """Returns a fresh accumulator."""
        return MaskedMetrics(self, getattr(self.tokenizer, "token_bytes", None))

    def decode(self, outputs: Sequence[int] | Tensor) -> str | list[int]:
        """Returns the text of token ids, or the ids where there is no tokenizer."""
        ids = outputs.tolist() if isinstance(outputs, Tensor) else list(outputs)
        return ids if self.tokenizer is None else self.tokenizer.decode(ids)

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types: tokens 0, 1, 2, ... in rows of the full length."""
        rows = torch.arange(batch_size * self.seq_len, device=device).reshape(batch_size, -1) % self.vocab_size
        fields = {
            "tokens": rows,
            "words": torch.arange(self.seq_len, device=device).repeat(batch_size, 1),
            "lengths": torch.full((batch_size,), self.seq_len, device=device),
            **{name: tensor.to(device) for name, tensor in self._vocabulary.fields(batch_size).items()},
        }
        if self.also_follows:
            second = torch.arange(self.seq_len, device=device) >= self.seq_len // 2
            fields["segments"] = second.long().expand(batch_size, self.seq_len)
            fields["follows"] = torch.arange(batch_size, device=device) % 2
        return Batch(fields, torch.arange(batch_size, device=device))

    def chance(self) -> float:
        """Returns the loss of one who holds all words for equally likely, and does not know what follows."""
        return math.log(self.vocab_size) + (math.log(2) if self.also_follows else 0.0)

    def examples(self, tokenizer: Tokenizer, text: str) -> list[EncoderText]:
        """Returns a text to be completed: an example, in which `[MASK]` stands for a word; a long one is cut off.

        Raises:
            UsageError: No word that is read is hidden, or the vocabulary has no token for that.
        """
        ids, room = _masked_ids(tokenizer, text), self.seq_len - tokenizer.frame_size(pair=False)
        if tokenizer.id_of(MASK) not in ids[:room]:
            raise UsageError(
                f"a text must have {MASK} among its first {room} tokens, as no more are read, but {text[:60]!r} has it "
                "only later. Shorten what stands before it."
            )
        return [EncoderText(*tokenizer.framed(ids[:room]))]

    def too_long(self, tokenizer: Tokenizer, text: str) -> bool:
        """Tells whether the end of a text is cut off; errors are those of `examples`."""
        return len(_masked_ids(tokenizer, text)) > self.seq_len - tokenizer.frame_size(pair=False)

    def answers(self, model: Any, batch: Batch) -> list[dict[str, Any]]:
        """Returns for each hidden word the five likeliest tokens, with their probabilities."""
        mask = self.tokenizer.id_of(MASK)
        features = model.features(batch["tokens"], batch["lengths"], batch.get("segments"))
        found = []
        for row, tokens, length in zip(features, batch["tokens"], batch["lengths"].tolist(), strict=True):
            hidden = tokens[:length] == mask
            best = model.over_words(row[:length][hidden]).float().softmax(-1).topk(min(_LIKELIEST, self.vocab_size))
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            found.append({"masks": [self._likeliest(*pair) for pair in pairs]})
        return found

    def _likeliest(self, probabilities: Sequence[float], ids: Sequence[int]) -> list[dict[str, Any]]:
        words = (self.tokenizer.backend.id_to_token(number) for number in ids)
        return [{"word": word, "probability": each} for word, each in zip(words, probabilities, strict=True)]

    def joined(self, answers: Sequence[dict[str, Any]], *texts: str) -> dict[str, Any]:
        """Returns the answer about the one example that a text gives."""
        return answers[0]

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with the end of row `r` cut off by `7 r` tokens, or all but 8."""
        cut = 7 * torch.arange(len(batch), device=batch.samples.device)
        lengths = torch.minimum(batch["lengths"], (batch["lengths"] - cut).clamp(min=8))
        return replace(batch, fields={**batch.fields, "lengths": lengths})

    def equalities(self, batch: Batch) -> Iterator[Equality]:
        """Yields each text padded a little longer than its batch, and the text alone."""
        width = min(batch["tokens"].shape[1] + MULTIPLE, self.seq_len)
        for row in batch.split(1):
            length, ends = int(row["lengths"][0]), width - batch["tokens"].shape[1]
            wide = {name: row[name] for name in ("tokens", "words", "segments") if name in row.fields}
            longer = {name: F.pad(tensor, (0, ends), value=1) for name, tensor in wide.items()}
            alone = {name: tensor[:, :length] for name, tensor in wide.items()}
            forms = [replace(row, fields={**row.fields, **form}) for form in (longer, alone)]
            yield "a padded text equals the text alone (the mask of `lengths`)", forms[0], forms[1:]


def _masked_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the tokens of a text in which `[MASK]` stands for hidden words.

    Raises:
        UsageError: It has none, or the vocabulary has no such token.
    """
    mask = tokenizer.id_of(MASK)
    if mask is None or MASK not in text:
        reason = f"the vocabulary has no {MASK}" if mask is None else f"{text[:60]!r} has none"
        raise UsageError(f"a text must have {MASK} in the place of each hidden word, but {reason}. Put it in.")
    pieces = tokenizer.encode_batch(text.split(MASK))
    return [token for piece in pieces for token in (mask, *piece)][1:]
