"""Heads: the last stage of a stack, which gives what the task wants. Options and types. Knows no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import PositiveInt

from dougong.models.stack.stage import INPUT, Here, Stage
from dougong.models.stack.types import Signal


class OfClasses(Stage):
    """What the heads over classes have."""

    head: ClassVar[bool] = True
    main: ClassVar[str | None] = "num_classes"
    num_classes: PositiveInt | None = None
    """How many classes; absent: model.num_classes, which the data decides."""
    bias: bool = True
    """Whether a learned number is added for each class."""

    def classes(self, here: Here) -> int | None:
        """Returns how many classes there are, if that is known; complains if model.num_classes says otherwise."""
        whole = here.check.num_classes
        if self.num_classes is None:
            here.check.classes_wanted = True
            return whole
        if whole is not None and whole != self.num_classes:
            here.complain_of(
                "num_classes", f"must be that of the model, but {self.num_classes} is not {whole}. Remove it."
            )
        here.check.classes_wanted = here.check.classes_wanted or whole == self.num_classes
        return self.num_classes


class Classify(OfClasses):
    """One class for each row."""

    word: ClassVar[str] = "classify"

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the logits of the classes."""
        given = here.expect(given, "vector")
        return replace(given, sizes=(self.classes(here),), element="logits")


class Tag(OfClasses):
    """One class for each item of a sequence."""

    word: ClassVar[str] = "tag"

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the logits of the classes at each place."""
        given = _each_item(here.expect(given, "sequence"), here)
        return replace(given, sizes=(given.time, self.classes(here)), element="logits")


class NextToken(Stage):
    """The token after each token."""

    word: ClassVar[str] = "next_token"
    head: ClassVar[bool] = True
    main: ClassVar[str | None] = "tie_embeddings"
    tie_embeddings: bool = True
    """Whether its weight is that of the stage embed."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the logits of the vocabulary at each place."""
        given = _each_item(here.expect(given, "sequence"), here)
        embeddings = here.check.embeddings
        if given.future is not None:
            here.complain(
                f"must see nothing that comes later, but {given.future} looks ahead. "
                "Make it causal, or let the head be tag."
            )
        if not embeddings:
            here.complain(f"must predict the tokens that {INPUT} gives, but that gives none. Set input: tokens.")
        elif self.tie_embeddings and len(embeddings) > 1:
            labels = " and ".join(label for label, _ in embeddings)
            here.complain(f"must be tied to one embedding, but there are {labels}. Set next_token: false.")
        elif self.tie_embeddings and given.channel not in (None, embeddings[0][1]):
            label, dim = embeddings[0]
            here.complain(
                f"must take the {dim} channels of {label}, to which it is tied, but {given.source} gives "
                f"{given.channel}. Insert project: {dim}, or set next_token: false."
            )
        return replace(given, sizes=(given.time, here.check.vocab_size), element="logits")


class Ctc(OfClasses):
    """A sequence of symbols shorter than time, without knowing where each stands (Graves et al. 2006).

    Class 0 is the blank, and the symbols follow it. Time must be left as long as the symbols of the row, plus one place
    between equal neighbours: that is a matter of the data, and the loss is infinite where it is not so.
    """

    word: ClassVar[str] = "ctc"

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the logits of the blank and the symbols at each place."""
        given = here.expect(given, "sequence")
        symbols = self.classes(here)
        return replace(given, sizes=(given.time, symbols and symbols + 1), element="logits")


class Regress(Stage):
    """Numbers for each row."""

    word: ClassVar[str] = "regress"
    head: ClassVar[bool] = True
    main: ClassVar[str | None] = "dim"
    dim: PositiveInt = 1
    """How many numbers."""
    bias: bool = True
    """Whether a learned number is added to each."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the numbers."""
        return replace(here.expect(given, "vector").with_channel(self.dim), element="logits")


def _each_item(given: Signal, here: Here) -> Signal:
    """Returns the same where each item of the input still has its place; else complains, and takes it as if it had."""
    if not given.windows:
        return given
    here.complain(
        f"must take one place for each item of the input, but {given.shortened_by} has made "
        f"{'them fewer: one for ' + str(given.stride) if given.stride > 1 else 'time shorter'}. "
        "Set its stride to 1 and padding: centred, or let the head be classify or ctc."
    )
    return replace(given, windows=(), shortened_by=None, sizes=(here.check.max_seq_len, given.channel))
