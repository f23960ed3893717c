"""Whether a run can fit this machine at all, asked before anything is allocated.

Knows how much memory there is; activations, which depend on the batch, are not counted in.
"""

from __future__ import annotations

import os
import resource

import torch

from dougong.core.device import choose_device
from dougong.core.errors import ResourceError
from dougong.plan.count import state_bytes
from dougong.recipe import Recipe


def require_memory(recipe: Recipe) -> None:
    """Sees that weights, gradients and the optimizer's state fit the device's memory.

    Raises:
        ResourceError: They do not.
    """
    needed, there = state_bytes(recipe), memory_of(choose_device(recipe.train.device))
    if there is not None and needed > there:
        raise ResourceError(
            f"the memory must hold {needed / 1e9:,.1f} GB of weights, gradients and optimizer state, but has "
            f"{there / 1e9:,.1f} GB. Take a smaller model, or an optimizer with less state (adafactor, sgd).",
            name="E-MEMORY",
        )


def memory_of(device: torch.device) -> int | None:
    """Returns the bytes of memory that a process may have on a device, or None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit)
