"""The figures of translations: likelihood, BLEU and chrF. Knows translations as texts; knows no model."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dougong.core.contracts import Batch
from dougong.core.errors import MissingExtra
from dougong.nn.losses import IGNORED
from dougong.nn.metrics import Mean

SHOWN = 10


class TranslationMetrics:
    """Nats per token, perplexity, BLEU and chrF of the translations that the search finds.

    BLEU (Papineni et al. 2002) and chrF (Popović 2015) are those of sacrebleu (Post 2018), with its signatures. They
    are sums over sentences: matches of n-grams and lengths, so memory does not grow but for the few translations that
    are shown. Without a tokenizer, as on the meta device, there are no texts to compare.
    """

    def __init__(self, task: Any):
        self.task, self.nats = task, Mean()
        self.shown: list[dict[str, str]] = []
        compares = task.tokenizer is not None and task.texts is not None
        self.scores = Scores(task.config.bleu_tokenizer, task.config.lowercase) if compares else None

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds the batch's pairs."""
        nats = self.task.nats(model, batch).double().sum()
        self.nats.add(nats.item(), float((batch["targets"] != IGNORED).sum()))
        if self.scores is None:
            return
        found = self.task.search(model, batch["sources"], batch["source_lengths"])
        for number, each in zip(batch["numbers"].tolist(), found, strict=True):
            source, reference = self.task.texts(number)
            said = self.task.tokenizer.decode(each.tokens)
            self.scores.add(said, reference)
            if len(self.shown) < SHOWN:
                self.shown.append({"source": source, "translation": said, "reference": reference})

    def compute(self) -> dict[str, float]:
        """Returns the figures; BLEU and chrF from 0 to 100."""
        figures = {"loss": self.nats.value, "perplexity": math.exp(min(self.nats.value, 700.0))}
        return figures if self.scores is None else {**figures, **self.scores.compute()}

    def details(self) -> dict[str, Any]:
        """Returns sacrebleu's signatures, and the first translations beside their references."""
        if self.scores is None:
            return {}
        return {"signatures": self.scores.signatures(), "translations": self.shown}


class Scores:
    """BLEU and chrF over a corpus, from sums over its sentences.

    Args:
        tokenizer: How BLEU cuts words: sacrebleu's name of it.
        lowercase: Whether BLEU takes no notice of upper and lower case.

    Raises:
        MissingExtra: sacrebleu is not installed.
    """

    def __init__(self, tokenizer: str = "13a", lowercase: bool = False):
        try:
            from sacrebleu.metrics.bleu import BLEU
            from sacrebleu.metrics.chrf import CHRF
        except ImportError as error:
            raise MissingExtra("the task translation", "translation") from error
        self._metrics: dict[str, Any] = {"bleu": BLEU(tokenize=tokenizer, lowercase=lowercase), "chrf": CHRF()}
        self._sums: dict[str, list[int | float]] = {}

    def add(self, said: str, reference: str) -> None:
        """Adds one sentence."""
        for name, metric in self._metrics.items():
            (counts,) = metric._extract_corpus_statistics([said], [[reference]])
            before = self._sums.get(name, [0] * len(counts))
            self._sums[name] = [a + b for a, b in zip(before, counts, strict=True)]

    def compute(self) -> dict[str, float]:
        """Returns both scores, from 0 to 100."""
        scores = {name: self._metrics[name]._compute_score_from_stats(sums) for name, sums in self._sums.items()}
        return {name: float(score.score) for name, score in scores.items()}

    def signatures(self) -> dict[str, str]:
        """Returns what sacrebleu calls the way that each was computed."""
        for metric in self._metrics.values():
            metric.num_refs = 1
        return {name: str(metric.get_signature()) for name, metric in self._metrics.items()}
