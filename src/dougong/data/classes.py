"""Names of classes, as files give them: their order, and the number of each.

Knows names; does not know what they are the classes of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dougong.core.config import did_you_mean
from dougong.data.reading import Bad


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Returns each label once: by value, if all are whole numbers, else by the alphabet."""
    found = set(labels)
    numbers = all(label.isascii() and label.isdigit() for label in found)
    return sorted(found, key=lambda label: (int(label) if numbers else 0, label))


def number_of(label: str, numbers: Mapping[str, int]) -> int:
    """Returns the number of a class.

    Raises:
        Bad: There is none of this name.
    """
    if label not in numbers:
        raise Bad(f"a class must be known, but {label!r} is not.{did_you_mean(label, list(numbers))}".rstrip("."))
    return numbers[label]
