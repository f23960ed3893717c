from __future__ import annotations

import pytest

from dougong.core.errors import FileError
from dougong.data.source import SourceConfig, Tally


def test_samples_read_are_the_used_and_the_quarantined() -> None:
    tally = Tally(allowed=2)
    tally.used += 3
    tally.quarantine("a, line 2", "it is broken")
    tally.leave_out("empty")
    tally.leave_out("empty")
    assert (tally.read, tally.used, len(tally.quarantined)) == (4, 3, 1)
    assert tally.summary() == "3 documents used of 4 read, 1 quarantined; left out: 2 empty"


def test_one_bad_sample_more_than_allowed_stops() -> None:
    tally = Tally(allowed=1)
    tally.quarantine("a, line 2", "it is broken")
    with pytest.raises(
        FileError, match="^a, line 7: it is cut. That is bad sample 2, and max_bad_samples is 1. Repair"
    ):
        tally.quarantine("a, line 7", "it is cut")
    with pytest.raises(FileError, match="^a, line 2: it is broken. Repair it, or set max_bad_samples"):
        Tally().quarantine("a, line 2", "it is broken")
    for number in range(1000):
        Tally(None).quarantine(f"line {number}", "bad")


def test_config_without_a_source_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="SourceConfig describes no source"):
        SourceConfig(name="x").build()
