"""A trace of some steps by torch.profiler, for a person to look at.

Knows the steps' numbers alone.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from dougong.core import log
from dougong.train.config import ProfileConfig


class Profiler:
    """A context; `step()` is called after each step. Writes the trace when the last traced step is done.

    Args:
        config: Which steps; None profiles nothing.
        path: Where the trace goes.
    """

    def __init__(self, config: ProfileConfig | None, path: Path):
        self.config, self.path, self.done = config, path, 0
        self._profile: Any = None

    def __enter__(self) -> Profiler:
        return self

    def step(self) -> None:
        """Takes note that a step of this process is done; starts or ends the trace when it is time."""
        self.done += 1
        if self.config is None:
            return
        if self.done == self.config.start:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profile = torch.profiler.profile(activities=activities)
            self._profile.start()
        elif self.done == self.config.start + self.config.steps:
            self._stop()

    def _stop(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile.export_chrome_trace(str(self.path))
            log.say(f"trace of {self.done - (self.config.start if self.config else 0)} steps: {self.path}")
            self._profile = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
