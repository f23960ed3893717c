"""What a stage is, and how a list of stages is checked like a program: each takes the type that the one before gives.

A complaint names both stages, the axis, what each expects and gives, and the repair; after it, the check goes on with
what should have come, so that all complaints come at once. Knows no concrete stage and imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple

from dougong.core.config import Fault, Form, Keyed
from dougong.models.stack import types
from dougong.models.stack.types import AXES, Signal

INPUT = "the model's input"
KINDS: dict[str, type[Stage]] = {}

# What to insert, where one form of a signal is given and another is wanted.
REPAIRS: dict[tuple[types.Form, types.Form], str] = {
    ("tokens", "sequence"): "Insert embed: 128.",
    ("tokens", "image"): "Give the model images: input: {image: {channels: 3, height: 32, width: 32}}.",
    ("tokens", "vector"): "Insert embed: 128, and pool: mean.",
    ("sequence", "tokens"): "Remove it, or put project: 128 in its place.",
    ("sequence", "image"): "Remove it, or give the model images: input: {image: ...}.",
    ("sequence", "vector"): "Insert pool: mean.",
    ("image", "tokens"): "Put patch: {size: 4, dim: 128} in its place.",
    ("image", "sequence"): "Insert flatten.",
    ("image", "vector"): "Insert pool: mean.",
    ("vector", "tokens"): "Remove it, or put project: 128 in its place.",
    ("vector", "sequence"): "Move it before {source}.",
    ("vector", "image"): "Move it before {source}.",
}


class Stage(Form):
    """One stage of a stack, written below its word.

    Attributes:
        head: Whether it gives what the task wants, and so comes last.
    """

    head: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Enters a stage under its word."""
        if cls.word:
            KINDS[cls.word] = cls

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns the type of what it gives for what it is given; tells `here` of what does not fit.

        What does not fit is taken as if it did, as far as it can be known.
        """
        raise AssertionError(f"{type(self).__name__} does not say what it gives for {given} at {here.path}")


Stages = list[Annotated[Stage, Keyed("stage", lambda: KINDS, named=True)]]


class Declared(NamedTuple):
    """What one stage gives: its path in the model's section, its word, its name if it has one, what comes and goes."""

    path: str
    word: str
    name: str | None
    given: Signal
    signal: Signal


@dataclass
class Check:
    """One walk over a model: what is known beforehand, and what was found.

    Attributes:
        max_seq_len: The longest input, in places, if that is known.
        vocab_size: How many tokens there are, if that is known.
        num_classes: How many classes there are, if that is known.
        faults: What does not fit.
        declared: What each stage gives; of a repeated list, its first time.
        embeddings: The label and the dim of each embedding.
        classes_wanted: Whether a head takes the number of classes from the model.
        headed: Whether there is a head anywhere.
        passes: How often the repeated lists around the present stage were gone through.
    """

    max_seq_len: int | None
    vocab_size: int | None
    num_classes: int | None
    faults: list[Fault] = field(default_factory=list)
    declared: list[Declared] = field(default_factory=list)
    embeddings: list[tuple[str, int]] = field(default_factory=list)
    classes_wanted: bool = False
    headed: bool = False
    passes: int = 0

    def complain(self, path: str, text: str) -> None:
        """Notes a fault; of a list that is gone over again, only where there was none the first time."""
        if not (self.passes and any(fault.field == path for fault in self.faults)):
            self.faults.append(Fault(path, text))

    def walk(self, path: str, stages: Sequence[Stage], given: Signal) -> Signal:
        """Returns what a list of stages, which stands at a path, gives."""
        names: dict[str, str] = {}
        for number, stage in enumerate(stages):
            here = Here(self, f"{path}[{number}]", stage)
            if stage.given_name in names:
                self.complain(here.path, f"must have a name of its own, but {names[stage.given_name]} has it, too.")
            names |= {stage.given_name: here.label} if stage.given_name else {}
            given = self._through(stage, given, here)
        return given

    def _through(self, stage: Stage, given: Signal, here: Here) -> Signal:
        nested = "." in here.path
        self.headed = self.headed or stage.head
        if given.element == "logits":
            here.complain(f"must come before the head, but {given.source} gives the model's answer. Move it up.")
            return given
        if stage.head and nested:
            around = here.path.partition(".")[0]
            here.complain(f"is a head, which must stand at the end of stages, but stands inside {around}. Move it.")
            return given
        place = len(self.declared)
        found = stage.out(given, here).given_by(here.label)
        if not self.passes:
            self.declared.insert(place, Declared(here.path, stage.word, stage.given_name, given, found))
        return found


@dataclass(frozen=True)
class Here:
    """A stage's place in the walk.

    Attributes:
        check: The walk.
        path: Where it stands in the model's section: `stages[3]`.
        stage: The stage.
    """

    check: Check
    path: str
    stage: Stage

    @property
    def label(self) -> str:
        """What complaints call it: `stages[3] (lstm)`, or by its name."""
        return f"{self.path} ({self.stage.given_name or self.stage.word})"

    def complain(self, text: str) -> None:
        """Notes what is wrong with the stage; the sentence begins with its path and its word."""
        self.check.complain(self.path, f"({self.stage.given_name or self.stage.word}) {text}")

    def complain_of(self, option: str, text: str) -> None:
        """Notes what is wrong with an option of the stage; the sentence begins with its path."""
        self.check.complain(f"{self.path}.{self.stage.word}.{option}", text)

    def idle(self, why: str, *options: str) -> None:
        """Complains of each option that differs from its default although it has no effect."""
        for option in options:
            info = type(self.stage).model_fields[option]
            if getattr(self.stage, option) != info.default:
                self.complain_of(option, f"has no effect {why}. Remove it.")

    def inside(self, option: str, stages: Sequence[Stage], given: Signal) -> Signal:
        """Returns what the stages of an option give."""
        # As it is most likely written: a list beside the word fills the main field.
        short = option.startswith(self.stage.main or "-") and self.stage.model_fields_set == {self.stage.main}
        inner = option[len(self.stage.main or "") :] if short else f".{option}"
        return self.check.walk(f"{self.path}.{self.stage.word}{inner}", stages, given)

    def expect(self, given: Signal, *forms: types.Form) -> Signal:
        """Returns what is given, if it has one of the forms; else complains, and returns what should have come."""
        if given.form in forms:
            return given
        wanted = " or ".join(str(Signal(form, (None,) * len(AXES[form]), "")) for form in forms)
        form = forms[0]
        repair = REPAIRS[given.form, form].format(source=given.source)
        axes = _difference(given.axes, AXES[form])
        self.complain(f"must take {wanted}, but {given.source} gives {given}: {axes}. {repair}")
        return given.as_form(form, *(given.size(axis) for axis in AXES[form]))

    def divides(self, option: str, number: int, whole: int | None, of: str) -> bool:
        """Tells whether a number divides a whole, which is `of`; complains if not."""
        if whole is None or whole % number == 0:
            return True
        near = sorted((n for n in range(1, whole + 1) if whole % n == 0), key=lambda n: (abs(n - number), n))[:2]
        tries = " or ".join(map(str, sorted(near)))
        rest = f"{whole} % {number} is {whole % number}"
        self.complain_of(option, f"must divide the {whole} {of}, but {rest}. Try {tries}.")
        return False

    def slide(self, given: Signal, window: types.Window) -> Signal:
        """Returns what is left once a window has slid over time or space; complains if that is nothing."""
        found = given.through(window, self.label)
        lost = [axis for axis in found.axes if axis in ("time", "height", "width") and found.size(axis) == 0]
        for axis in lost[:1]:
            size = given.size(axis)
            self.complain(
                f"must leave at least one place of {axis}, but its window of {window.reach + 1} is larger than the "
                f"{size} that {given.source} gives. Make the kernel smaller, or set padding: centred."
            )
        sizes = (1 if axis in lost else size for axis, size in zip(found.axes, found.sizes, strict=True))
        return found.as_form(found.form, *sizes)


def _difference(given: Iterable[str], wanted: Iterable[str]) -> str:
    """Returns which axes are left over, and which are missing."""
    over = [axis for axis in given if axis not in wanted]
    lacking = [axis for axis in wanted if axis not in given]
    parts = []
    for axes, what in ((over, "left over"), (lacking, "missing")):
        if axes:
            parts.append(
                f"the ax{'es' if axes[1:] else 'is'} {' and '.join(axes)} {'are' if axes[1:] else 'is'} {what}"
            )
    return ", and ".join(parts)


def kinds() -> Mapping[str, type[Stage]]:
    """Returns all stages by their words."""
    return KINDS
