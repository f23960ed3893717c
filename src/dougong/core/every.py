"""When something periodic is due. Knows only step numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Every:
    """Due at every multiple of `steps`, and at the last step if `last`. `steps=0` is never, but for the last."""

    steps: int
    last: bool = True

    def due(self, step: int, until: int) -> bool:
        """Tells whether it is due once `step` steps are done, in a run of `until` steps."""
        if step <= 0:
            return False
        return (self.steps > 0 and step % self.steps == 0) or (self.last and step == until)
