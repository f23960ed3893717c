"""What the parts of a model cost per example, traced on the meta device (law 5): of blocks that are alike, one.

Counts products and attention, as `count.py` does, and the tensors that autograd keeps. Attention is traced as the fused
kernel, which keeps no scores, where the model calls torch's; a formula that holds them is traced as written. Knows
models and tasks through their contracts; knows no device and no layout.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dougong.core.config import Config
from dougong.core.contracts import Batch, Task
from dougong.plan import formulas
from dougong.plan.count import build_on_meta, examples_traced
from dougong.plan.shapes import arange, made
from dougong.plan.tree import numbered
from dougong.train.config import AdafactorConfig, AdamConfig, AdamWConfig, MuonConfig, OptimizerConfig, SgdConfig
from dougong.train.optim import muon_parameters
from dougong.train.step import draws_noise

FUSED = F.scaled_dot_product_attention
_BEFORE, _AFTER, _APART = -1, -2, -3  # what is not one of the blocks, which have their numbers


@dataclass
class Part:
    """What a part of a model costs for one example.

    Attributes:
        name: `before` and `after` the blocks, or which kind of block.
        parameters: Its trainable numbers.
        split_parameters: Those of them that tensor parallelism divides.
        optimizer_bytes: The optimizer's state, in fp32, without a master copy of the weights.
        forward_flops: Operations of the forward pass (a loss that finds its gradient in the forward pass included).
        backward_flops: Operations of the backward pass.
        split_flops: Those of the forward pass that tensor parallelism divides.
        saved_bytes: What autograd keeps for the backward pass, each tensor once.
        split_saved_bytes: Those of them that tensor parallelism divides.
        boundary_bytes: What goes in and has a gradient: kept with recomputation, sent between pipeline stages.
        reduced_forward_bytes: What tensor parallelism sums over its devices in the forward pass.
        reduced_backward_bytes: The same in the backward pass: the gradients of what enters a product split by column.
        ring_bytes: Keys and values, which context parallelism passes around.
        moved_bytes: What the forward pass's other operations read and write (norms, activations, sums), each by itself.
        split_moved_bytes: Those of them that tensor parallelism divides.
        largest_bytes: The largest tensor that is made.
    """

    name: str
    parameters: int = 0
    split_parameters: int = 0
    optimizer_bytes: int = 0
    forward_flops: int = 0
    backward_flops: int = 0
    split_flops: int = 0
    saved_bytes: int = 0
    split_saved_bytes: int = 0
    boundary_bytes: int = 0
    reduced_forward_bytes: int = 0
    reduced_backward_bytes: int = 0
    ring_bytes: int = 0
    moved_bytes: int = 0
    split_moved_bytes: int = 0
    largest_bytes: int = 0

    @property
    def split_share(self) -> float:
        """The share of the operations that tensor parallelism divides."""
        return self.split_flops / self.forward_flops if self.forward_flops else 0.0


@dataclass(frozen=True)
class Cost:
    """A model as what it costs.

    Attributes:
        before: What is computed before the blocks.
        kinds: The blocks that differ, each once.
        order: Of each block, from the first to the last, which kind it is.
        after: What is computed after the blocks; of a model without blocks, all.
        tied_parameters: Numbers that `before` and `after` both count, as a tied embedding.
        tensor_degrees: What tensor parallelism must divide (the numbers of heads); empty where no split is told.
        length: How many tokens an example has; None where it has none.
        unknown: Operations that may have products which no formula counts.
    """

    before: Part
    kinds: tuple[Part, ...]
    order: tuple[int, ...]
    after: Part
    tied_parameters: int
    tensor_degrees: tuple[int, ...]
    length: int | None
    unknown: tuple[str, ...] = ()

    @property
    def blocks(self) -> list[Part]:
        """All blocks in order, those that are alike as the same object."""
        return [self.kinds[kind] for kind in self.order]

    @property
    def parameters(self) -> int:
        """All trainable numbers, each once."""
        return self.total("parameters") - self.tied_parameters

    def total(self, name: str) -> int:
        """Returns the sum of a figure over all parts."""
        return sum(getattr(part, name) for part in (self.before, *self.blocks, self.after))

    def flops(self, recompute: bool = False) -> int:
        """Returns the operations of one example, forward and backward, and the blocks' forward again to recompute."""
        again = sum(block.forward_flops for block in self.blocks) if recompute else 0
        return self.total("forward_flops") + self.total("backward_flops") + again


def cost_of(
    model: Config,
    task: Task,
    optimizer: OptimizerConfig,
    dtype: torch.dtype = torch.float32,
    length: int | None = None,
) -> Cost:
    """Returns what a model costs per example of the task.

    Args:
        model: The model's config, with the size of its vocabulary.
        task: Gives an example batch and the loss.
        optimizer: Whose state is counted.
        dtype: The type of weights and activations while computing.
        length: How long an example is; absent: as long as the model reads.
    """
    network = build_on_meta(model).to(dtype)
    every = list(getattr(network, "blocks", ()))
    order, prefix = _folded(every, _told(model, len(every)))
    if isinstance(network._modules.get("blocks"), nn.ModuleList) and prefix < len(every):
        network.blocks = nn.ModuleList(every[:prefix])
    trace = _Trace(network, every)
    trace.run(task, _example(task, network, dtype))
    if trace.entered == list(range(len(every))):  # all were traced: so what each is given tells them apart as well
        order = numbered([(kind, trace.given(number)) for number, kind in enumerate(order)])
    elif trace.entered != list(range(prefix)):
        every, order = [], ()  # the blocks are not called one after the other: all is one part
    return _assembled(trace, every, order, optimizer, length)


def state_bytes(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> int:
    """Returns the bytes of an optimizer's state, in fp32; its few counters are left out."""
    named = list(named)
    sizes = {name: parameter.numel() for name, parameter in named}
    match config:
        case SgdConfig():
            return 4 * sum(sizes.values()) if config.momentum else 0
        case AdamConfig() | AdamWConfig():
            return 8 * sum(sizes.values())
        case MuonConfig():
            return 8 * sum(sizes.values()) - 4 * sum(p.numel() for _, p in muon_parameters(named))
        case AdafactorConfig():
            return 4 * sum(
                sizes[name] // p.shape[-1] + sizes[name] // p.shape[-2] if p.ndim > 1 else sizes[name]
                for name, p in named
            )


def _folded(blocks: list[nn.Module], told: list[Any]) -> tuple[tuple[int, ...], int]:
    """Returns each block's kind, and how many blocks from the first on show all kinds."""
    order = numbered([(_signature(block), mark) for block, mark in zip(blocks, told, strict=True)])
    return order, max((order.index(kind) + 1 for kind in order), default=0)


def _told(model: Config, count: int) -> list[Any]:
    """Returns what a model tells each of its blocks when it calls them: over how many tokens they look back."""
    band_of = getattr(model, "band_of", lambda _: None)
    return [band_of(number) for number in range(count)]


def _signature(block: nn.Module) -> tuple[Any, ...]:
    """Returns what two blocks must have in common to cost the same: modules, their plain settings, all shapes."""
    plain = (bool, int, float, str, tuple, type(None))
    return tuple(
        (
            name,
            type(module),
            tuple(sorted((key, repr(value)) for key, value in vars(module).items() if isinstance(value, plain))),
            tuple((key, tuple(p.shape)) for key, p in module.named_parameters(recurse=False)),
        )
        for name, module in block.named_modules()
    )


def _example(task: Task, network: nn.Module, dtype: torch.dtype) -> Batch:
    """Returns an example batch, real numbers in the type, with noise where the model draws any."""
    batch = task.example_batch(examples_traced(network), "cpu").to("meta")
    fields = {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.fields.items()}
    noise = torch.empty(len(batch), dtype=torch.int32, device="meta") if draws_noise(network) else None
    return Batch(fields, batch.samples, noise)


def _of_one(part: Part, examples: int) -> Part:
    """Returns what one of some examples costs."""
    fixed = ("name", "parameters", "split_parameters", "optimizer_bytes")
    return replace(part, **{name: value // examples for name, value in vars(part).items() if name not in fixed})


def _assembled(
    trace: _Trace, every: list[nn.Module], order: tuple[int, ...], optimizer: OptimizerConfig, length: int | None
) -> Cost:
    """Returns the cost: each kind of block as the first of it, and outside what no block was."""
    named = dict(trace.network_parameters)
    inside = {id(p): number for number, block in enumerate(every) for p in block.parameters()}
    kinds = []
    for kind in dict.fromkeys(order):
        number = order.index(kind)
        part = trace.parts[number]
        part.name = f"block {number}"
        _enter_parameters(part, {n: p for n, p in named.items() if inside.get(id(p)) == number}, trace, optimizer)
        part.backward_flops = trace.backward_of(number)
        kinds.append(part)
    before, after = trace.parts[_BEFORE], trace.parts[_AFTER]
    if not order:
        before, after = (
            Part("before"),
            _merged({number: part for number, part in trace.parts.items() if number != _APART}),
        )
        trace.used = {_AFTER: set(map(id, named.values()))}
    outside = {name: p for name, p in named.items() if id(p) not in inside or not order}
    early = {n: p for n, p in outside.items() if id(p) in trace.used.get(_BEFORE, ())}
    late = {n: p for n, p in outside.items() if id(p) in trace.used.get(_AFTER, ()) or n not in early}
    _enter_parameters(before, early, trace, optimizer)
    _enter_parameters(after, late, trace, optimizer)
    rest = trace.backward_flops - sum(trace.backward_of(number) for number in (trace.entered if order else ()))
    share = before.forward_flops / max(1, before.forward_flops + after.forward_flops)
    before.backward_flops = round(rest * share)
    after.backward_flops = rest - before.backward_flops
    tied = sum(p.numel() for name, p in early.items() if name in late)
    config = getattr(trace.network, "config", None)
    degrees = tuple(sorted(set(_heads(config)))) if trace.dims else ()
    before, *inner, after = (_of_one(part, examples_traced(trace.network)) for part in (before, *kinds, after))
    length = length or getattr(config, "max_seq_len", None)
    return Cost(before, tuple(inner), order, after, tied, degrees, length, tuple(trace.unknown))


def _heads(model: Any) -> tuple[int, ...]:
    heads = getattr(model, "num_heads", None)
    return (heads, getattr(model, "num_kv_heads", None) or heads) if heads else ()


def _enter_parameters(part: Part, named: dict[str, nn.Parameter], trace: _Trace, optimizer: OptimizerConfig) -> None:
    part.parameters = sum(p.numel() for p in named.values())
    part.split_parameters = sum(p.numel() for name, p in named.items() if name in trace.dims)
    part.optimizer_bytes = state_bytes(named.items(), optimizer)


def _merged(parts: Mapping[int, Part]) -> Part:
    """Returns all parts as one."""
    whole = Part("model")
    for name in vars(whole):
        if name == "largest_bytes":
            whole.largest_bytes = max(part.largest_bytes for part in parts.values())
        elif name not in ("name", "boundary_bytes"):
            setattr(whole, name, sum(getattr(part, name) for part in parts.values()))
    return whole


def split_dims(network: nn.Module) -> dict[str, int]:
    """Returns along which dim tensor parallelism splits each parameter that its model's `SPLIT` table divides.

    A linear layer's weight is [out, in]: `column` splits what comes out, `row` what goes in. Of an embedding `row`
    splits the vocabulary, which is its first dim.
    """
    table: Mapping[str, str] = getattr(network, "SPLIT", {})
    embeddings = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Embedding)}
    found = {}
    for name, parameter in network.named_parameters():
        how = next((way for pattern, way in table.items() if fnmatch.fnmatchcase(name, pattern)), "none")
        if how != "none":
            found[name] = 0 if how == "column" or name in embeddings or parameter.ndim < 2 else 1
    return found


@dataclass
class _Trace(TorchDispatchMode):
    """Runs one example forward and backward and books what each part does, a block or what is around them."""

    network: nn.Module
    every: list[nn.Module]
    parts: dict[int, Part] = field(default_factory=dict)
    entered: list[int] = field(default_factory=list)
    used: dict[int, set[int]] = field(default_factory=dict)
    backward_flops: int = 0
    unknown: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        TorchDispatchMode.__init__(self)
        whole = nn.Module()
        whole.add_module("blocks", nn.ModuleList(self.every))
        self.network_parameters = dict(self.network.named_parameters())
        here = set(self.network_parameters.values())
        self.network_parameters |= {name: p for name, p in whole.named_parameters() if p not in here}
        self.dims = split_dims(self.network) | _unfolded(self.network, self.every)
        self.parts |= {_BEFORE: Part("before"), _AFTER: Part("after"), _APART: Part("apart")}
        self._now, self._backward = _BEFORE, False
        self._held: list[Any] = []  # keeps every memory alive, so that none is taken for another at the same place
        self._split: set[int] = set()
        self._saved: set[int] = set()
        self._columns: set[int] = set()
        self._owned = {_place(p): name for name, p in self.network_parameters.items()}
        self._numbers = {_place(p): id(p) for p in self.network_parameters.values()}
        self._fixed = {_place(b) for b in self.network.buffers()}
        self._shapes = {p.shape for p in self.network_parameters.values() if p.ndim > 1}
        self._calls: dict[int, tuple[Any, Any]] = {}
        self._backward_of: dict[int, int] = {}

    def run(self, task: Task, batch: Batch) -> None:
        """Traces the task's loss."""
        hooks = []
        for number, block in enumerate(self.every):
            hooks.append(block.register_forward_pre_hook(self._entering(number), with_kwargs=True))
            hooks.append(block.register_forward_hook(self._left))
        with self, _FusedAttention(self), torch.autograd.graph.saved_tensors_hooks(self._keep, lambda t: t):
            loss = task.loss(self.network, batch).sum
            self._backward = True
            loss.backward()
        for hook in hooks:
            hook.remove()

    def given(self, number: int) -> tuple[torch.Size, ...]:
        """Returns the shapes of what a block was called with."""
        return tuple(t.shape for t in tree_leaves(self._calls[number]) if isinstance(t, Tensor))

    def backward_of(self, number: int) -> int:
        """Returns the operations of the backward pass of a block, found by running it alone; 0 if it was not called."""
        if number not in self._backward_of and number in self._calls:
            args, kwargs = tree_map_only(Tensor, _leaf, self._calls[number])
            before, self._backward, self._now = self.backward_flops, False, _APART
            with self, _FusedAttention(self):
                found = [t for t in tree_leaves(self.every[number](*args, **kwargs)) if isinstance(t, Tensor)]
                self._backward = True
                total: Any = sum(tensor.sum() for tensor in found if tensor.requires_grad)
                total.backward()
            self._backward_of[number] = self.backward_flops - before
            self.backward_flops = before
        return self._backward_of.get(number, 0)

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Books the two products of attention, and what context parallelism passes on."""
        part = self.parts[self._now]
        flops = (
            2 * query.numel() * key.shape[-2] + 2 * query.numel() // query.shape[-1] * key.shape[-2] * value.shape[-1]
        )
        if self._backward:
            self.backward_flops += 2 * flops
            return
        part.forward_flops += flops
        part.split_flops += flops if _place(query) in self._split else 0
        part.ring_bytes += _size(key) + _size(value)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch need not load its compiler, which takes a second and 100 MB."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        result = made(func, args, kwargs or {})
        if result is None:
            result = func(*args, **(kwargs or {}))
        flops = formulas.flops(func, args, kwargs or {}, result)
        if formulas.unknown(func):
            self.unknown[str(func)] = self.unknown.get(str(func), 0) + 1
        if self._backward:
            self.backward_flops += flops
        else:
            self._book(func, [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)], result, flops)
        return result

    def _book(self, func: Any, inputs: list[Tensor], result: Any, flops: int) -> None:
        """Books an operation of the forward pass: what it does, what it makes, and who shares it."""
        part, out = self.parts[self._now], [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self._held += [t.untyped_storage() for t in out]
        places, sources = {_place(t) for t in out}, {_place(t) for t in inputs}
        self.used.setdefault(self._now, set()).update(self._numbers[p] for p in sources if p in self._numbers)
        ways = {self.dims[self._owned[place]] for place in sources if self._owned.get(place) in self.dims}
        lookup = func._overloadpacket is torch.ops.aten.embedding
        if (lookup and 0 in ways) or (flops and 1 in ways):
            part.reduced_forward_bytes += sum(map(_size, out))
        elif ways or sources & self._split:
            self._split |= places - self._owned.keys()
            if flops and ways:
                self._enter_columns(part, inputs)
        part.forward_flops += flops
        part.split_flops += flops if ways or sources & self._split else 0
        if not flops and not lookup and (places - sources or func.__name__.split(".")[0].endswith("_")):
            moved = sum(map(_size, (*inputs, *out)))
            part.moved_bytes += moved
            part.split_moved_bytes += moved if places & self._split else 0
        new = [_size(t) for t in out if _place(t) not in sources and t.shape not in self._shapes]
        part.largest_bytes = max(part.largest_bytes, *new, 0)

    def _enter_columns(self, part: Part, inputs: list[Tensor]) -> None:
        """Books what goes whole into a product that is split by column, once for all such products that read it."""
        for tensor in inputs:
            place = _place(tensor)
            if place not in self._owned.keys() | self._split | self._columns:
                self._columns.add(place)
                part.reduced_backward_bytes += tensor.untyped_storage().nbytes()

    def _keep(self, tensor: Tensor) -> Tensor:
        """Books a tensor that autograd keeps."""
        place = _place(tensor)
        if place not in self._owned and place not in self._saved and place not in self._fixed:
            self._saved.add(place)
            size = tensor.untyped_storage().nbytes()
            self.parts[self._now].saved_bytes += size
            self.parts[self._now].split_saved_bytes += size if place in self._split else 0
        return tensor

    def _entering(self, number: int) -> Any:
        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._now = number
            self.entered.append(number)
            self._calls[number] = (args, kwargs)
            entry = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.requires_grad]
            self.parts[number] = Part("block", boundary_bytes=sum(map(_size, entry)))

        return enter

    def _left(self, *_: Any) -> None:
        self._now = _AFTER


class _FusedAttention(TorchFunctionMode):
    """While in this context, torch's attention is one operation that keeps its inputs, its output and a row's sum."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.arange:
            found = arange(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {})) if found is None else found
        if func is not FUSED:
            return func(*args, **(kwargs or {}))
        names = ("query", "key", "value", "attn_mask")
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        return _Attention.apply(self._trace, *(given.get(name) for name in names))


class _Attention(torch.autograd.Function):
    """The shapes of fused attention."""

    @staticmethod
    def forward(ctx: Any, trace: _Trace, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, time, _ = query.shape
        result = query.new_empty(batch, time, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(batch, heads, time, dtype=torch.float32)
        ctx.trace = trace
        ctx.save_for_backward(query, key, value, mask, result, sums)
        trace.attended(query, key, value)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        query, key, value, *_ = ctx.saved_tensors
        ctx.trace.attended(query, key, value)
        return None, torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _unfolded(network: nn.Module, every: list[nn.Module]) -> dict[str, int]:
    """Returns the split dims of all blocks, also of those that are left out of the trace."""
    whole = nn.Module()
    whole.add_module("blocks", nn.ModuleList(every))
    vars(whole)["SPLIT"] = getattr(network, "SPLIT", {})
    return split_dims(whole)


@functools.cache
def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
