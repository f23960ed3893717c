"""Whether a block gives a padded row what it gives the row alone: shared by the tests of blocks over sequences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dougong.nn.mask import mask_of

LENGTHS = torch.tensor([9, 4, 1, 6])
TIME = 9


def filled(module: nn.Module, std: float = 0.3) -> nn.Module:
    """Returns the module in fp64, every parameter drawn."""
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, std)
    return module


def rows(dim: int) -> tuple[Tensor, Tensor]:
    """Returns rows of unequal length and their mask; what is masked is NaN, so that no use of it goes unnoticed."""
    mask = mask_of(LENGTHS, TIME)
    return torch.randn(len(LENGTHS), TIME, dim, dtype=torch.float64).masked_fill(~mask[..., None], torch.nan), mask


def gap_to_alone(
    block: Callable[[Tensor, Tensor | None], Tensor], dim: int, length: Callable[[int], int] = lambda length: length
) -> float:
    """Returns how much, at most, a row of a padded batch differs from itself alone, in values and in gradients.

    Args:
        block: Takes rows and mask.
        dim: The width of what it takes.
        length: How many places come out of so many; a result without time is compared as a whole.
    """
    hidden, mask = rows(dim)
    hidden.requires_grad_()
    together, worst = block(hidden, mask), 0.0
    for row, count in enumerate(LENGTHS.tolist()):
        places = length(count)
        if together.ndim == 3 and places == 0:
            continue
        alone = block(hidden[row : row + 1, :count], None)[0]
        padded = together[row, :places] if together.ndim == 3 else together[row]
        assert alone.shape == padded.shape
        worst = max(worst, largest(alone - padded), largest(_slope(alone, hidden) - _slope(padded, hidden)))
    return worst


def largest(difference: Tensor) -> float:
    """Returns the greatest absolute value; infinity where there is a NaN."""
    return difference.abs().nan_to_num(torch.inf).max().item()


def _slope(result: Tensor, hidden: Tensor) -> Tensor:
    weights = torch.arange(result.numel(), dtype=result.dtype).reshape(result.shape).cos()
    return torch.autograd.grad((result * weights).sum(), hidden, retain_graph=True)[0]
