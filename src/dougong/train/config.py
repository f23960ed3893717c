"""The options of training. Imports no torch; knows no model, task or dataset."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dougong.core.config import Config, Fault

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Betas = tuple[Fraction, Fraction]


class SgdConfig(Config):
    """Stochastic gradient descent; with `batch_size: all`, gradient descent."""

    name: Literal["sgd"] = "sgd"
    """The optimizer."""
    lr: PositiveFloat = 0.1
    """Learning rate, before the schedule."""
    momentum: Fraction = 0.0
    """Share of the last direction that is kept (Polyak 1964)."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov 1983)."""
    weight_decay: NonNegativeFloat = 0.0
    """Multiple of each matrix added to its gradient."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if self.nesterov and not self.momentum:
            yield Fault("nesterov", "needs momentum above 0, but momentum is 0. Try momentum: 0.9.")


class AdamConfig(Config):
    """Adam (Kingma and Ba 2015, algorithm 1)."""

    name: Literal["adam"] = "adam"
    """The optimizer."""
    lr: PositiveFloat = 1e-3
    """Learning rate, before the schedule."""
    betas: Betas = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""


class AdamWConfig(Config):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    name: Literal["adamw"] = "adamw"
    """The optimizer."""
    lr: PositiveFloat = 3e-4
    """Learning rate, before the schedule."""
    betas: Betas = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Share of each matrix taken away per step, times the learning rate; biases and norms are exempt."""


class AdafactorConfig(Config):
    """Adafactor (Shazeer and Stern 2018): second moments by rows and columns; lr is relative to the weights' size."""

    name: Literal["adafactor"] = "adafactor"
    """The optimizer."""
    lr: PositiveFloat = 1e-2
    """Largest relative step size, before the schedule."""
    beta2_decay: Annotated[float, Field(lt=0.0)] = -0.8
    """Exponent of the step in the decay of the second moment."""
    clip_threshold: Annotated[float, Field(ge=1.0)] = 1.0
    """Largest root mean square of one update."""
    weight_decay: NonNegativeFloat = 0.0
    """Share of each matrix taken away per step, times the learning rate; biases and norms are exempt."""


class MuonConfig(Config):
    """Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for all else."""

    name: Literal["muon"] = "muon"
    """The optimizer."""
    lr: PositiveFloat = 3e-4
    """Learning rate of both, before the schedule; Muon's updates are scaled to AdamW's size (Liu et al. 2025)."""
    momentum: Fraction = 0.95
    """Share of the last direction that is kept, for the matrices."""
    nesterov: bool = True
    """Look ahead along the momentum, for the matrices."""
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    """Newton-Schulz iterations that make a direction orthogonal."""
    betas: Betas = (0.9, 0.95)
    """AdamW's decay of the running means, for all else."""
    eps: PositiveFloat = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Share of each matrix taken away per step, times the learning rate; biases and norms are exempt."""


OptimizerConfig = Annotated[
    SgdConfig | AdamConfig | AdamWConfig | AdafactorConfig | MuonConfig, Field(discriminator="name")
]


class ConstantConfig(Config):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""


class LinearConfig(Config):
    """The learning rate falls in a straight line to its final value."""

    name: Literal["linear"] = "linear"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Where it ends, as a fraction of lr."""


class PolynomialConfig(Config):
    """The learning rate falls as a power of the remaining time."""

    name: Literal["polynomial"] = "polynomial"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    power: PositiveFloat = 2.0
    """The power; 1 is the linear schedule."""
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Where it ends, as a fraction of lr."""


class CosineConfig(Config):
    """The learning rate falls along half a cosine (Loshchilov and Hutter 2017)."""

    name: Literal["cosine"] = "cosine"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Where it ends, as a fraction of lr."""


class ExponentialConfig(Config):
    """The learning rate is multiplied by the same factor over every equal span, smoothly."""

    name: Literal["exponential"] = "exponential"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """What is left of the learning rate after `every` steps."""
    every: PositiveInt = 1000
    """The span, in steps."""


class StepConfig(Config):
    """The learning rate is multiplied by a factor at every multiple of some steps."""

    name: Literal["step"] = "step"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """What is left of the learning rate after each `every` steps."""
    every: PositiveInt = 1000
    """The span, in steps."""


class MilestonesConfig(Config):
    """The learning rate is multiplied by a factor at each of some steps."""

    name: Literal["milestones"] = "milestones"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    at: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """The steps, ascending; those of the warm-up are counted."""
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """What is left of the learning rate after each."""

    def faults(self) -> Iterator[Fault]:
        """Yields steps that do not ascend, or lie in the warm-up."""
        if any(after <= before for before, after in pairwise(self.at)):
            yield Fault("at", f"must ascend, but is {list(self.at)}.")
        if self.at[0] <= self.warmup_steps:
            yield Fault("at", f"must begin after the warm-up of {self.warmup_steps} steps, but with {self.at[0]}.")


class InverseSqrtConfig(Config):
    """The learning rate falls as one over the root of the step (Vaswani et al. 2017, equation 3)."""

    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    """The schedule."""
    warmup_steps: NonNegativeInt = 1000
    """Steps over which the learning rate rises linearly from near 0; its end is also where the fall starts."""


class PlateauConfig(Config):
    """The learning rate is multiplied by a factor whenever the validation loss has not fallen for some evaluations."""

    name: Literal["plateau"] = "plateau"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """What is left of the learning rate after each plateau."""
    patience: NonNegativeInt = 2
    """Evaluations without improvement that are put up with."""
    min_delta: NonNegativeFloat = 0.0
    """The smallest fall of the loss that counts as improvement."""
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """The learning rate never falls below this fraction of lr."""


class WsdConfig(Config):
    """Warm-up, stable, decay (Hu et al. 2024): constant, then a straight line down over the last part."""

    name: Literal["wsd"] = "wsd"
    """The schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from near 0."""
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """The share of all steps that the decay takes."""
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Where it ends, as a fraction of lr."""


ScheduleConfig = Annotated[
    ConstantConfig
    | LinearConfig
    | PolynomialConfig
    | CosineConfig
    | ExponentialConfig
    | StepConfig
    | MilestonesConfig
    | InverseSqrtConfig
    | PlateauConfig
    | WsdConfig,
    Field(discriminator="name"),
]


class RateConfig(Config):
    """A learning rate of their own for some parameters."""

    parameters: str = Field(min_length=1)
    """Whose: a name, in which `*` stands for anything, as in `trunk.*`."""
    factor: PositiveFloat
    """The multiple of the optimizer's learning rate."""


class EmaConfig(Config):
    """An exponential moving average of the weights, which evaluation and the saved model then use."""

    decay: Fraction = 0.999
    """Share of the average kept at each step, at most; it warms up as (1 + step) / (10 + step)."""


class EarlyStoppingConfig(Config):
    """Ends the run when the validation loss has stopped falling, and gives back the best weights seen."""

    patience: PositiveInt = 5
    """Evaluations in a row without improvement after which the run ends."""
    min_delta: NonNegativeFloat = 0.0
    """The smallest fall of the loss that counts as improvement."""


class BatchRampConfig(Config):
    """The batch grows linearly to its full size (GPT-3, Brown et al. 2020, appendix B)."""

    start: PositiveInt
    """Batch size at the first step."""
    steps: PositiveInt
    """Steps until the full size is reached."""


class BestConfig(Config):
    """Which evaluation is the best."""

    metric: str = "loss"
    """The figure of the evaluation that decides."""
    mode: Literal["lowest", "highest"] = "lowest"
    """Which value of it is the best."""


class CheckpointConfig(Config):
    """When the whole state is saved. It is always saved at the last step, and when the run is asked to stop."""

    every: NonNegativeInt = 500
    """Steps between checkpoints; 0 saves at the last step alone."""
    keep: Annotated[int, Field(ge=2)] = 2
    """How many of the newest checkpoints stay on the disk."""
    keep_every: NonNegativeInt = 0
    """Checkpoints at multiples of this many steps are never removed; 0 is none."""
    best: BestConfig | None = None
    """Save also whenever an evaluation is the best so far, and keep that checkpoint."""
    asynchronous: bool = True
    """Write while training goes on, from a copy of the state in memory; the bytes are the same."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if self.keep_every and (not self.every or self.keep_every % self.every):
            yield Fault(
                "keep_every",
                f"must be a multiple of every, or nothing is saved to keep, but {self.keep_every} is none of "
                f"{self.every}. Try {self.every or 500} for both.",
            )


class EvaluateConfig(Config):
    """When the validation examples are evaluated. They always are at the last step."""

    every: NonNegativeInt = 250
    """Steps between evaluations; 0 evaluates at the last step alone."""
    batches: PositiveInt | None = None
    """How many validation batches each evaluation takes; all if absent."""


class LogConfig(Config):
    """What is written down while training. `run.jsonl` always has every step."""

    every: PositiveInt = 10
    """Steps between lines on the terminal and points in the trackers."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where curves go besides run.jsonl."""


class SamplesConfig(Config):
    """When the model is asked for samples during training."""

    every: NonNegativeInt = 0
    """Steps between samples; 0 samples at the last step alone."""
    prompts: tuple[str, ...] = ()
    """What the model is asked to continue; none switches samples off."""
    max_new_tokens: PositiveInt = 64
    """Length of each sample, in tokens."""


class ProfileConfig(Config):
    """A trace of some steps by torch.profiler, written to `profile.json` (open it in chrome://tracing or Perfetto)."""

    start: PositiveInt = 10
    """Steps done before the trace starts."""
    steps: PositiveInt = 3
    """How many steps are traced."""


class SpikeConfig(Config):
    """Watches for a loss far above the last ones; going back is the remedy of Chowdhery et al. 2022, section 5.1."""

    window: Annotated[int, Field(ge=20)] = 100
    """How many losses a new one is held against; until there are so many, none is a spike."""
    threshold: PositiveFloat = 10.0
    """Median absolute deviations above the median from which a loss is a spike."""
    action: Literal["warn", "rewind"] = "warn"
    """`warn` says so; `rewind` also goes back to the last checkpoint and passes over the batches around the spike."""
    pass_over: PositiveInt | None = None
    """Batches passed over after going back, the spike's own in their middle; 100 if absent."""
    max_rewinds: PositiveInt | None = None
    """How often the run goes back before it ends with exit code 5; 3 if absent."""

    @property
    def window_passed_over(self) -> int:
        """How many batches are passed over."""
        return self.pass_over or 100

    @property
    def rewinds_allowed(self) -> int:
        """How often the run goes back."""
        return self.max_rewinds or 3

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        for name in ("pass_over", "max_rewinds"):
            if self.action == "warn" and getattr(self, name) is not None:
                yield Fault(name, "needs action: rewind, but action is warn. Set action: rewind, or remove it.")


class TrainConfig(Config):
    """How a model is trained."""

    seed: NonNegativeInt = 0
    """Decides every random draw of the run."""
    steps: PositiveInt = 1000
    """How many updates of the weights."""
    batch_size: PositiveInt | Literal["all"] = 32
    """Examples per step; `all` takes every training example at each step."""
    microbatch_size: PositiveInt | None = None
    """Examples per forward and backward pass; the whole batch if absent. Changes memory and speed, not the update."""
    bucket_batches: Annotated[int, Field(ge=2)] | None = None
    """Sort so many batches' examples by length, so that those of a batch are alike and little is padded."""
    workers: NonNegativeInt = 0
    """Processes that prepare batches; 0: a thread, which is enough where a batch is soon made. No value changes."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """The type of matrix products; weights stay in fp32. `auto` takes bf16 where it is measured faster."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the model's repeated block with torch.compile; `auto` decides by the steps, and says why."""
    recompute: bool = False
    """Recompute each block's activations in the backward pass: less memory, about a third more computation."""
    optimizer: OptimizerConfig = AdamWConfig()
    """The optimizer."""
    schedule: ScheduleConfig = ConstantConfig()
    """The course of the learning rate."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are, by names in which `*` stands for anything: `[trunk.*]`."""
    rates: tuple[RateConfig, ...] = ()
    """Learning rates of their own for some parameters; of several that fit, the first counts."""
    layer_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """The learning rate of each block is this multiple of the next one's (layer-wise rates, Howard and Ruder 2018)."""
    l2: NonNegativeFloat = 0.0
    """Lambda of a penalty in the loss: mean loss + lambda / (2 m) * sum of squared weights, m being their number."""
    clip_norm: PositiveFloat | None = None
    """The gradient's global norm is scaled down to this."""
    ema: EmaConfig | None = None
    """Moving average of the weights."""
    early_stopping: EarlyStoppingConfig | None = None
    """Stop when the validation loss no longer falls."""
    batch_ramp: BatchRampConfig | None = None
    """Start with a smaller batch."""
    on_nonfinite: Literal["stop", "skip", "rewind"] = "stop"
    """When a loss or gradient is NaN or infinite: end; leave the update out; or go back and pass over the batch."""
    max_nonfinite: PositiveInt | None = None
    """How often the run skips or rewinds for that before it ends with exit code 5; 10 if absent."""
    spike: SpikeConfig | None = SpikeConfig()
    """What is done about a loss far above the last ones; null watches for none."""
    grace: PositiveFloat = 30.0
    """Seconds after a signal in which the step and the save must be done; then the run ends without."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the state is saved."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """When the validation examples are evaluated."""
    log: LogConfig = LogConfig()
    """What is written down."""
    samples: SamplesConfig = SamplesConfig()
    """When samples are drawn."""
    profile: ProfileConfig | None = None
    """Trace some steps."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if self.batch_ramp is not None:
            yield from self._ramp_faults(self.batch_ramp)
        warmup = self.schedule.warmup_steps
        if warmup >= self.steps and self.schedule.name != "inverse_sqrt":
            yield Fault(
                "schedule", f"must warm up in fewer steps than train.steps, but {warmup} >= {self.steps}. Lower it."
            )
        if isinstance(self.batch_size, int) and self.microbatch_size and self.microbatch_size > self.batch_size:
            yield Fault(
                "microbatch_size",
                f"must be at most batch_size, but {self.microbatch_size} > {self.batch_size}. Lower it.",
            )
        if self.bucket_batches and (self.batch_size == "all" or self.batch_ramp):
            yield Fault(
                "bucket_batches", "needs batches of one size: neither batch_size all nor batch_ramp. Remove it."
            )
        if self.profile is not None and self.profile.start + self.profile.steps > self.steps:
            yield Fault("profile", "must end before the last step, or nothing is traced. Lower start or steps.")
        if self.checkpoint.best is not None and not self.evaluate.every:
            yield Fault("checkpoint.best", "needs evaluations while training, but evaluate.every is 0. Raise it.")
        yield from self._nonfinite_faults()

    @property
    def nonfinite_allowed(self) -> int:
        """How often a number that is not finite is skipped or gone back from."""
        return self.max_nonfinite or 10

    @property
    def rewinds(self) -> bool:
        """Whether anything makes the run go back to a checkpoint."""
        return self.on_nonfinite == "rewind" or (self.spike is not None and self.spike.action == "rewind")

    def _nonfinite_faults(self) -> Iterator[Fault]:
        if self.on_nonfinite == "stop" and self.max_nonfinite is not None:
            yield Fault(
                "max_nonfinite", "needs on_nonfinite: skip or rewind, but on_nonfinite is stop. Set it, or remove this."
            )
        if self.rewinds and not self.checkpoint.every:
            field = "on_nonfinite" if self.on_nonfinite == "rewind" else "spike.action"
            yield Fault(field, "needs checkpoints to go back to, but checkpoint.every is 0. Raise it.")

    def _ramp_faults(self, ramp: BatchRampConfig) -> Iterator[Fault]:
        if self.batch_size == "all":
            yield Fault("batch_ramp", "needs a batch size to grow to, but batch_size is all. Remove one of the two.")
        elif ramp.start >= self.batch_size:
            yield Fault(
                "batch_ramp", f"must start below batch_size, but {ramp.start} >= {self.batch_size}. Lower start."
            )
