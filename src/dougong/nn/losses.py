"""Losses over a vocabulary, as sums: once as the formula, once in chunks that never hold all logits.

Knows features, the head's weight and targets; knows no model and no batch.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -1
CHUNK_ELEMENTS = 2**24


class CrossEntropy(NamedTuple):
    """Sums over the targets that count.

    Attributes:
        sum: Scalar, differentiable: the loss with smoothing and z-loss.
        nll: Scalar: the plain negative log-likelihood, in nats.
        z: Scalar: the z-loss, weighted.
        weight: Scalar: how many targets count.
    """

    sum: Tensor
    nll: Tensor
    z: Tensor
    weight: Tensor


def cross_entropy_by_formula(
    features: Float[Tensor, "*places dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, "*places"],
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    bias: Float[Tensor, " vocab"] | None = None,
) -> CrossEntropy:
    """Returns the cross entropy of `softmax(features @ weight.T + bias)` against the targets, as sums.

    With p the softmax over V words, Z its normaliser, y the target and e the smoothing, each place costs
    `-(1 - e) log p_y - e/V sum_v log p_v + z_loss (log Z)^2`: label smoothing of Szegedy et al. 2016 (section 7),
    z-loss of Chowdhery et al. 2022 (PaLM, section 5). Holds all logits, in at least fp32.

    Args:
        targets: Indices of words; -1 marks a place that does not count.
        bias: Added to the logits; None: nothing is.
    """
    logits = F.linear(features, weight, bias)
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    counts = targets != IGNORED
    log_z = logits.logsumexp(-1)
    nll = log_z - logits.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    smooth = log_z - logits.mean(-1)
    z = z_loss * log_z.square()
    loss = (1 - label_smoothing) * nll + label_smoothing * smooth + z
    loss, nll, z = (torch.where(counts, value, 0.0).sum() for value in (loss, nll.detach(), z.detach()))
    return CrossEntropy(loss, nll, z, counts.sum())


def cross_entropy_chunked(
    features: Float[Tensor, "*places dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, "*places"],
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    bias: Float[Tensor, " vocab"] | None = None,
) -> CrossEntropy:
    """Returns what `cross_entropy_by_formula` returns, with the memory of one chunk of logits.

    The loss and all its gradients are computed together, chunk by chunk, in the forward pass; the backward pass only
    scales them, once. Under autocast the products run in its type and the softmax in fp32.
    """
    rows = features.reshape(-1, features.shape[-1])
    return CrossEntropy(*_Chunked.apply(rows, weight, bias, targets.reshape(-1), (label_smoothing, z_loss)))


@torch.no_grad()
def token_nats(
    features: Float[Tensor, "*places dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, "*places"],
    bias: Float[Tensor, " vocab"] | None = None,
) -> Float[Tensor, "*places"]:
    """Returns the negative log-likelihood of each target in nats, 0 where it is ignored; no gradient."""
    rows, flat = features.reshape(-1, features.shape[-1]), targets.reshape(-1)
    size = _rows_per_chunk(len(weight))
    parts = []
    for x, y in zip(rows.split(size), flat.split(size), strict=True):
        logits = F.linear(x, weight, bias)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        nats = logits.logsumexp(-1) - logits.gather(-1, y.clamp(min=0)[:, None]).squeeze(-1)
        parts.append(torch.where(y != IGNORED, nats, 0.0))
    return torch.cat(parts).reshape(targets.shape)


class _Chunked(torch.autograd.Function):
    """Cross entropy whose forward pass already computes the gradients of the sum."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Float[Tensor, "rows dim"],
        weight: Float[Tensor, "vocab dim"],
        bias: Float[Tensor, " vocab"] | None,
        targets: Int[Tensor, " rows"],
        options: tuple[float, float],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = "cpu" if features.is_meta else features.device.type  # autocast does not know the meta device
        mixed = kind != "meta" and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if mixed else features.dtype
        with torch.autocast(kind, enabled=False) if mixed else contextlib.nullcontext():
            sums, gradients = _run_chunks(ctx, (features, weight, bias), targets, options, dtype)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    def backward(ctx: Any, scale: Float[Tensor, ""], *_: Any) -> tuple[Tensor | None, ...]:
        # The gradients are this function's own, so they are scaled in place and given away: a second backward pass
        # over the same graph finds none.
        gradients = ctx.gradients
        del ctx.gradients
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(scale)
        return *gradients, None, None


def _run_chunks(
    ctx: Any,
    inputs: tuple[Tensor, Tensor, Tensor | None],
    targets: Tensor,
    options: tuple[float, float],
    dtype: torch.dtype,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]:
    features, weight, bias = inputs
    wants_features, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    head, shift = weight.to(dtype), None if bias is None else bias.to(dtype)
    size = _rows_per_chunk(len(weight))
    one_chunk = len(features) <= size
    grad_features = torch.empty_like(features) if wants_features else None
    grad_weight = torch.zeros_like(weight) if wants_weight and not one_chunk else None
    grad_bias = torch.zeros_like(bias) if bias is not None and wants_bias else None
    sums = features.new_zeros(3, dtype=torch.float64 if features.dtype == torch.float64 else torch.float32)
    for start in range(0, len(features), size):
        x, y = features[start : start + size].to(dtype), targets[start : start + size]
        grad_logits = _chunk(F.linear(x, head, shift), y, options, sums)
        if grad_bias is not None:
            grad_bias += grad_logits.sum(0)
        if not (wants_features or wants_weight):
            continue
        grad_logits = grad_logits.to(dtype)
        if grad_features is not None:
            _product(grad_logits, head, grad_features[start : start + size])
        if wants_weight and one_chunk:
            grad_weight = (grad_logits.T @ x).to(weight.dtype)
        elif grad_weight is not None:
            _add_product(grad_weight, grad_logits.T, x)
    loss, nll, z = sums.unbind()
    return (loss, nll, z, (targets != IGNORED).sum()), (grad_features, grad_weight, grad_bias)


def _chunk(logits: Tensor, targets: Tensor, options: tuple[float, float], sums: Tensor) -> Tensor:
    """Adds the chunk's loss, nll and z-loss to `sums`; returns the gradient of the loss by the logits."""
    smoothing, z_loss = options
    counts = (targets != IGNORED).to(sums.dtype)
    places = targets.clamp(min=0)[:, None]
    p = torch.softmax(logits, -1, dtype=sums.dtype)
    # The largest probability is at least 1/V, so its logarithm is exact enough, and log Z costs no second exponential.
    log_z = logits.amax(-1).to(sums.dtype) - p.amax(-1).log_()
    nll = log_z - logits.gather(-1, places).squeeze(-1).to(sums.dtype)
    sums[1] += nll @ counts
    loss, factor = nll, counts
    if smoothing:
        loss = (1 - smoothing) * nll + smoothing * (log_z - logits.mean(-1, dtype=sums.dtype))
    if z_loss:
        z = z_loss * log_z.square()
        sums[2] += z @ counts
        loss, factor = loss + z, counts * (1 + 2 * z_loss * log_z)
    sums[0] += loss @ counts
    # On the CPU it is cheap to see that all places count, and a pass over the logits is not.
    if z_loss or logits.device.type != "cpu" or not bool((targets != IGNORED).all()):
        p.mul_(factor[:, None])
    if smoothing:
        p.sub_((counts * (smoothing / p.shape[-1]))[:, None])
    return p.scatter_add_(-1, places, ((smoothing - 1) * counts)[:, None])


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Writes `left @ right` into `out`, whose type may be wider."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `left @ right` to `total`, whose type may be wider."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _rows_per_chunk(vocab: int) -> int:
    """Returns how many rows of logits are held at once: enough for fast products, few enough for a small memory."""
    return max(128, CHUNK_ELEMENTS // vocab)


def class_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    label_smoothing: float = 0.0,
    others: Int[Tensor, " batch"] | None = None,
    shares: Float[Tensor, " batch"] | None = None,
) -> CrossEntropy:
    """Returns the cross entropy of `softmax(logits)` against classes, as sums; smoothing as in the other two.

    Args:
        labels: Numbers of classes; -1 marks an example that does not count.
        others: The class of what is mixed into each example (MixUp, Zhang et al. 2018, eq. 1); None: nothing is.
        shares: The share of the first class, where there are others.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    counts = labels != IGNORED
    log_z = logits.logsumexp(-1)
    said = logits.gather(-1, labels.clamp(min=0)[:, None]).squeeze(-1)
    if others is not None and shares is not None:
        said = torch.lerp(logits.gather(-1, others[:, None]).squeeze(-1), said, shares.to(said.dtype))
    nll = log_z - said
    loss = (1 - label_smoothing) * nll + label_smoothing * (log_z - logits.mean(-1))
    loss, nll = (torch.where(counts, value, 0.0).sum() for value in (loss, nll.detach()))
    return CrossEntropy(loss, nll, torch.zeros_like(nll), counts.sum())
