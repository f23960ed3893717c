"""Compiling and recomputing a model's repeated blocks, from outside, and undoing it.

A model offers its blocks as `model.blocks`; one without is left as it is. Of what a block computes, knows only which
functions have a form that compiles better.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dougong.core.errors import UsageError
from dougong.nn.feedforward import FeedForward, GatedFeedForward, activate_compiled
from dougong.nn.norm import OVER_BATCH, BatchNorm, BatchNorm2d
from dougong.nn.whole import batch_norm_whole, relu_whole
from dougong.train.config import TrainConfig

WORTH_SECONDS = 300.0
WORTH_STEPS = 2000
FORMS_OF_A_BLOCK = 8  # training, evaluation, batches of other sizes: what has more runs uncompiled


@contextlib.contextmanager
def prepared_blocks(model: nn.Module, compiled: bool, recompute: bool) -> Iterator[None]:
    """Within this context each block is compiled in place, and its activations are computed again in backward.

    Raises:
        UsageError: Either is asked for, and the model has no blocks.
    """
    blocks = list(getattr(model, "blocks", ()))
    if (compiled or recompute) and not blocks:
        asked = "train.compile" if compiled else "train.recompute"
        raise UsageError(f"{asked} needs a model with repeated blocks, but this one has none. Set it to false.")
    for block in blocks:
        if recompute:
            block.forward = _recomputing(block.forward)
        if compiled:
            _write_for_compiler(block)
            block.compile(recompile_limit=FORMS_OF_A_BLOCK * len(blocks))  # which they share, as they share their code
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
            block._compiled_call_impl = None
            for module in block.modules():
                for form in ("activate", "normalise", "rectify"):
                    module.__dict__.pop(form, None)


def eager(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Within this context compiled blocks run uncompiled: evaluation and sampling bring shapes of their own."""
    compiled = any(block._compiled_call_impl is not None for block in getattr(model, "blocks", ()))
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()


def choose_compile(
    config: TrainConfig, model: nn.Module, seconds: float | None, before: bool | None = None
) -> tuple[bool, str]:
    """Returns whether to compile, and why.

    Args:
        config: What is asked for.
        model: What would be compiled.
        seconds: How long the run is predicted to compute, if that is known. Compiling takes about half a minute.
        before: What was chosen when the run began, if it goes on: another choice would round differently.

    Raises:
        UsageError: It is asked for, and there is no compiler.
    """
    lack = _lack(next(model.parameters()).device)
    if config.compile != "auto":
        if config.compile and lack:
            raise UsageError(f"train.compile needs a compiler, but {lack}. Install one, or set compile: false.")
        return config.compile, "asked for"
    if not len(getattr(model, "blocks", ())):
        return False, "the model has no repeated blocks"
    if lack:
        return False, lack
    if before is not None:
        return before, "as when the run began"
    if next(model.parameters()).device.type == "cpu" and any(isinstance(m, OVER_BATCH) for m in model.modules()):
        return False, "convolutions with norms over the batch run as fast without, on a processor"
    if seconds is not None:
        worth = seconds >= WORTH_SECONDS
        return worth, f"the run will compute for about {_minutes(seconds)}, and compiling takes half a minute"
    return config.steps >= WORTH_STEPS, f"the run has {config.steps} steps, and it pays from about {WORTH_STEPS}"


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    # Blocks draw nothing from a generator (law 1), so there is no generator state to put back.
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return recomputed


def _write_for_compiler(block: nn.Module) -> None:
    """Gives activations, and on a processor norms over the batch, the form that is fastest when compiled."""
    on_processor = all(parameter.device.type == "cpu" for parameter in block.parameters())
    for module in block.modules():
        if isinstance(module, FeedForward | GatedFeedForward):
            module.activate = activate_compiled
        if on_processor and isinstance(module, BatchNorm | BatchNorm2d):
            module.normalise = batch_norm_whole
        if on_processor and hasattr(module, "rectify"):
            module.rectify = relu_whole  # type: ignore[assignment]


def _lack(device: torch.device) -> str | None:
    """Returns what is missing for compiling on a device, or None."""
    if device.type == "cpu":
        names = (os.environ.get("CXX") or "", "g++", "clang++", "cl")
        return None if any(name and shutil.which(name) for name in names) else "there is no C++ compiler here"
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "triton is not installed"
    return f"{device.type} is not compiled for"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
