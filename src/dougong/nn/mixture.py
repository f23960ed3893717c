"""Mixture of experts (Shazeer et al. 2017) with the routing of Mixtral (Jiang et al. 2024, section 2.1).

Each token goes to the `chosen` experts of the highest score, and no expert turns one away: there is no capacity, so
what a token gives depends on that token alone. Knows no model, and no loss that balances the experts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from dougong.core.errors import UsageError
from dougong.nn.feedforward import activate
from dougong.nn.init import Linear
from dougong.nn.named import Activation

Act = Callable[[Tensor], Tensor]


class MixtureOfExperts(nn.Module):
    """`sum_e p_e down_e(activate(up_e x))` over the chosen experts, `p` the softmax of their scores.

    Gated, an expert is `down_e(activate(gate_e x) * up_e x)`. The weights of all experts are one tensor each.

    Attributes:
        combine: `experts_sorted`, or another function with its signature, chosen from outside.
    """

    combine: Callable[..., Tensor]

    def __init__(
        self, dim: int, hidden_dim: int, num_experts: int, chosen: int, activation: Activation, gated: bool = False
    ):
        super().__init__()
        if not 1 <= chosen <= num_experts:
            raise UsageError(f"the chosen experts must be from 1 to {num_experts}, but are {chosen}. Choose fewer.")
        self.chosen, self.activation = chosen, activation
        self.combine = experts_sorted
        self.router = Linear(dim, num_experts, bias=False)
        self.up = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.gate = nn.Parameter(torch.empty(num_experts, hidden_dim, dim)) if gated else None
        self.down = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each position transformed by its own experts."""
        tokens = hidden.reshape(-1, hidden.shape[-1])
        scores, experts = self.router(tokens).topk(self.chosen, dim=-1)
        act = functools.partial(activate, self.activation)
        mixed = self.combine(tokens, experts, scores.softmax(dim=-1), (self.up, self.gate, self.down), act)
        return mixed.reshape(hidden.shape)


def experts_by_formula(
    tokens: Float[Tensor, "tokens dim"],
    experts: Int[Tensor, "tokens chosen"],
    shares: Float[Tensor, "tokens chosen"],
    weights: tuple[Tensor, Tensor | None, Tensor],
    act: Act,
) -> Float[Tensor, "tokens dim"]:
    """Returns the weighted sum as the paper has it: every expert computes every token, most for a weight of zero.

    Args:
        tokens: What is transformed.
        experts: The numbers of each token's experts, all different.
        shares: What each of them counts.
        weights: Of up, gate (or None) and down: [experts hidden dim], the same, [experts dim hidden].
        act: The activation.
    """
    up, gate, down = weights
    inner = einsum(tokens, up, "tokens dim, experts hidden dim -> experts tokens hidden")
    if gate is None:
        inner = act(inner)
    else:
        inner = act(einsum(tokens, gate, "tokens dim, experts hidden dim -> experts tokens hidden")) * inner
    outer = einsum(inner, down, "experts tokens hidden, experts dim hidden -> tokens experts dim")
    dense = torch.zeros_like(shares[:, :1]).expand(-1, len(up)).scatter(1, experts, shares)
    return einsum(outer, dense, "tokens experts dim, tokens experts -> tokens dim")


def experts_sorted(
    tokens: Float[Tensor, "tokens dim"],
    experts: Int[Tensor, "tokens chosen"],
    shares: Float[Tensor, "tokens chosen"],
    weights: tuple[Tensor, Tensor | None, Tensor],
    act: Act,
) -> Float[Tensor, "tokens dim"]:
    """Returns the same as `experts_by_formula`, computing each token by its own experts alone.

    The pairs of token and expert are sorted by expert, so that each expert's tokens stand together: `tokens * chosen`
    rows, whatever the routing. On an accelerator the sizes of the groups are read by the host, which waits for them.
    """
    up, gate, down = weights
    chosen = experts.shape[1]
    order = experts.flatten().argsort(stable=True)
    counts = torch.zeros(len(up), dtype=torch.int64, device=tokens.device)
    counts = counts.scatter_add(0, experts.flatten(), torch.ones_like(experts.flatten()))
    rows = tokens[order // chosen]
    inner = grouped_linear(rows, up, counts)
    inner = act(inner) if gate is None else act(grouped_linear(rows, gate, counts)) * inner
    outer = grouped_linear(inner, down, counts)
    back = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    return einsum(outer[back].unflatten(0, (-1, chosen)), shares, "tokens chosen dim, tokens chosen -> tokens dim")


def grouped_linear(
    rows: Float[Tensor, "rows inputs"], weight: Float[Tensor, "groups outputs inputs"], counts: Int[Tensor, " groups"]
) -> Float[Tensor, "rows outputs"]:
    """Returns `weight_g row` for each row, the first `counts[0]` rows by the first weight, and so on.

    One operation for torch, whose shapes depend on no data: it runs on the meta device, is counted and is compiled.
    """
    kind = rows.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        rows, weight = rows.to(dtype), weight.to(dtype)
    return _grouped_linear(rows, weight, counts)


@torch.library.custom_op(
    "dougong::grouped_linear", mutates_args=(), schema="(Tensor rows, Tensor weight, Tensor counts) -> Tensor"
)
def _grouped_linear(rows, weight, counts):  # type: ignore[no-untyped-def]
    result = rows.new_empty(len(rows), weight.shape[1])
    for group, part, out in zip(weight, *(x.split(counts.tolist()) for x in (rows, result)), strict=True):
        torch.mm(part, group.T, out=out)
    return result


@torch.library.custom_op(
    "dougong::grouped_outer", mutates_args=(), schema="(Tensor outputs, Tensor rows, Tensor counts) -> Tensor"
)
def _grouped_outer(outputs, rows, counts):  # type: ignore[no-untyped-def]
    result = rows.new_empty(len(counts), outputs.shape[1], rows.shape[1])
    for out, part, given in zip(result, *(x.split(counts.tolist()) for x in (outputs, rows)), strict=True):
        torch.mm(part.T, given, out=out)
    return result


@_grouped_linear.register_fake
def _(rows, weight, counts):  # type: ignore[no-untyped-def]
    return rows.new_empty(len(rows), weight.shape[1])


@_grouped_outer.register_fake
def _(outputs, rows, counts):  # type: ignore[no-untyped-def]
    return rows.new_empty(len(counts), outputs.shape[1], rows.shape[1])


def _keep(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, gradient):  # type: ignore[no-untyped-def]
    rows, weight, counts = ctx.saved_tensors
    gradient = gradient.contiguous()
    of_rows = _grouped_linear(gradient, weight.transpose(1, 2), counts) if ctx.needs_input_grad[0] else None
    of_weight = _grouped_outer(gradient, rows, counts) if ctx.needs_input_grad[1] else None
    return of_rows, of_weight, None


_grouped_linear.register_autograd(_backward, setup_context=_keep)


@register_flop_formula([torch.ops.dougong.grouped_linear, torch.ops.dougong.grouped_outer])
def _flops(first, second, counts, *, out_shape=None, **_):  # type: ignore[no-untyped-def]
    return 2 * first[0] * first[1] * (second[1] if len(second) == 2 else out_shape[1])
