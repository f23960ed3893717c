"""What a source of documents is, and how bad samples are counted.

Knows documents; does not know files, formats or the hub (see `reading.py` and `sources/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import PositiveFloat
from typing_extensions import Protocol, runtime_checkable  # typing's own computes every property to check, in 3.11

from dougong.core.config import Config
from dougong.core.errors import FileError
from dougong.data.document import Document


class SourceConfig(Config):
    """What all sources have in common."""

    name: str
    """Which source."""
    weight: PositiveFloat | None = None
    """Share of the training examples relative to other sources; absent: every example once per epoch."""

    def build(self) -> Source:
        """Makes the source; reads nothing yet."""
        raise TypeError(f"{type(self).__name__} describes no source")


@dataclass
class Tally:
    """Counts the samples of one pass over a source: what was read was either used or quarantined.

    Attributes:
        allowed: How many bad samples may be left aside before the pass stops.
        used: Samples given out.
        quarantined: Each bad sample: where it is, and why it is bad.
        left_out: How many files or records do not count as samples, by reason (hidden, binary, empty, ...).
    """

    allowed: int | None = 0
    used: int = 0
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def read(self) -> int:
        """How many samples were read."""
        return self.used + len(self.quarantined)

    def leave_out(self, reason: str) -> None:
        """Counts something that is no sample."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def quarantine(self, where: str, reason: str) -> None:
        """Counts a bad sample.

        Raises:
            FileError: There are now more bad samples than allowed.
        """
        self.quarantined.append((where, reason))
        if self.allowed is not None and len(self.quarantined) > self.allowed:
            number = len(self.quarantined)
            wish = f"That is bad sample {number}, and max_bad_samples is {self.allowed}. " if self.allowed else ""
            raise FileError(f"{where}: {reason}. {wish}Repair it, or set max_bad_samples to leave such aside.")

    def summary(self, samples: str = "documents") -> str:
        """Returns `10 documents used of 12 read, 2 quarantined; left out: 3 hidden`."""
        text = f"{self.used:,} {samples} used of {self.read:,} read, {len(self.quarantined):,} quarantined"
        outside = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        return text + (f"; left out: {outside}" if outside else "")


@runtime_checkable
class Source(Protocol):
    """A stream of documents that can be read again from the start, and is the same each time."""

    @property
    def fingerprint(self) -> str:
        """A hash of the content and of what shapes the documents; computed when first asked for."""

    @property
    def licence(self) -> str:
        """The licence of the content, as its source states it, or "unknown"."""

    @property
    def source(self) -> str:
        """Where the content comes from, for the model card."""

    def documents(self, tally: Tally) -> Iterator[Document]:
        """Yields all documents in order, in bounded memory, and counts them in `tally`.

        Raises:
            FileError: A bad sample that `max_bad_samples` does not allow.
            UsageError: The content is not there.
        """
