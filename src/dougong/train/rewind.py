"""Going back to a checkpoint because of what a batch did, and passing that batch over the second time.

Knows a state, its checkpointer and its record; does not know how a bad number or a spike is found. Where a run goes
back to is a function of the step alone (the newest checkpoint at a multiple of `checkpoint.every`), and which batches
it passes over is a function of the batch that was bad; so two runs go the same way, stopped in between or not.
"""

from __future__ import annotations

from dougong.core import log
from dougong.core.errors import NonFiniteError
from dougong.train.checkpointer import Checkpointer
from dougong.train.config import TrainConfig
from dougong.train.nonfinite import NonFiniteStep
from dougong.train.report import Recorder
from dougong.train.spike import Spike
from dougong.train.state import State
from dougong.train.step import Report, written


class Rewinder:
    """What is asked when a step went wrong, and once a step for spikes.

    Args:
        config: Whether the run goes back, and how often.
        checkpointer: Where it goes back to.
        recorder: Where that is written down.
    """

    def __init__(self, config: TrainConfig, checkpointer: Checkpointer, recorder: Recorder):
        self.config, self.checkpointer, self.recorder = config, checkpointer, recorder

    def after_nonfinite(self, state: State, number: int, error: NonFiniteStep) -> None:
        """Goes back, and passes over the batch of this number.

        Raises:
            NonFiniteError: The run is not to go back, has done so too often, or has nothing to go back to.
        """
        if self.config.on_nonfinite != "rewind":
            raise error
        if state.rewinds.get("nonfinite", 0) >= self.config.nonfinite_allowed:
            raise NonFiniteError(f"{error} The run went back {self.config.nonfinite_allowed} times already.") from error
        self._go_back(state, "nonfinite", (number, number), error.step, error.reason)

    def after_spike(self, state: State, number: int, report: Report) -> bool:
        """Warns of a loss that spikes, or goes back and passes over a window around its batch; tells whether it did.

        Raises:
            NonFiniteError: The run has gone back too often, or has nothing to go back to.
        """
        spike = None if report.skipped else state.spikes.observe(report.loss)
        if spike is None or self.config.spike is None:
            return False
        reason = f"step {report.step}: {_sentence(spike)} (samples {written(report.samples)})"
        if self.config.spike.action == "warn":
            log.warn(f"{reason}. If it does not fall again, look at these samples, or set train.spike.action=rewind.")
            figures = {"loss": spike.loss, "median": spike.median, "deviation": spike.deviation}
            self.recorder.event("spike", report.step, **figures, samples=report.samples)
            return False
        allowed, size = self.config.spike.rewinds_allowed, self.config.spike.window_passed_over
        if state.rewinds.get("spike", 0) >= allowed:
            raise NonFiniteError(
                f"{reason}, and the run went back {allowed} times already. Lower the learning rate, add clip_norm, or "
                "raise train.spike.max_rewinds.",
                name="E-DIVERGED",
            )
        first = number - size // 2
        self._go_back(state, "spike", (first, first + size - 1), report.step, f"{reason}.")
        return True

    def _go_back(self, state: State, cause: str, batches: tuple[int, int], step: int, reason: str) -> None:
        """Loads the checkpoint; what the state's docstring says must not be forgotten is kept."""
        passed_over, rewinds = state.passed_over, {**state.rewinds}
        rewinds[cause] = rewinds.get(cause, 0) + 1
        to = self.checkpointer.rewind(state)
        state.passed_over, state.rewinds = passed_over, rewinds
        first = max(batches[0], state.batch_number)
        state.pass_over(first, batches[1])
        self.recorder.event("rewind", step, to=to, passed_over=[[first, batches[1]]], cause=cause, reason=reason)
        self.recorder.flush()
        left_out = "batch" if first == batches[1] else "batches"
        log.warn(f"{reason} Back to step {to}; {left_out} {written([(first, batches[1])])} will be passed over.")


def _sentence(spike: Spike) -> str:
    above = (spike.loss - spike.median) / spike.deviation
    return (
        f"the loss {spike.loss:.4g} is a spike, {above:,.0f} median absolute deviations above the median "
        f"{spike.median:.4g} of the last losses"
    )
