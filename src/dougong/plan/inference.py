"""What using a model takes: its weights, the keys and values of each token, and what one generated token costs.

Counted on the meta device and on fake tensors: nothing is computed. Knows models and tasks through their contracts;
knows no machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from dougong.core.config import Config
from dougong.core.contracts import Task
from dougong.infer.engine import next_logits
from dougong.nn.cache import KVCache
from dougong.plan.count import build_on_meta
from dougong.plan.memory import Ledger, computing
from dougong.plan.trace import Recorder


@dataclass(frozen=True)
class Generation:
    """What one more token takes, once the model has read as many as its context holds but one.

    Attributes:
        context: How many tokens are read by then, the new one included.
        cache_bytes_per_token: What is kept of each token that was read, per row.
        flops: Operations for the new token.
        bytes: What they read: the weights once, and what is kept of the earlier tokens.
    """

    context: int
    cache_bytes_per_token: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class Inference:
    """What using a model takes.

    Attributes:
        dtype: The type of the weights.
        weight_bytes: Parameters and buffers.
        forward_flops: Operations of one example (of a language model: of a whole context).
        workspace_bytes: The most that one example takes on top of the weights.
        generation: What a generated token takes; None for what generates nothing.
    """

    dtype: str
    weight_bytes: int
    forward_flops: int
    workspace_bytes: int
    generation: Generation | None

    @property
    def bytes(self) -> int:
        """What the memory holds while one example is answered: for a language model, with its context full."""
        kept = self.generation.context * self.generation.cache_bytes_per_token if self.generation else 0
        return self.weight_bytes + max(self.workspace_bytes, kept)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {**asdict(self), "bytes": self.bytes}


def inference(model: Config, task: Task, dtype: torch.dtype = torch.float32) -> Inference:
    """Returns what using a model takes.

    Args:
        model: The model's config, with all that the data decides.
        task: Gives an example, and how the model is called.
        dtype: The type of the weights and of products.
    """
    network = build_on_meta(model).to(dtype).eval()
    weights = sum(_bytes(tensor) for tensor in (*network.parameters(), *network.buffers()))
    flops, workspace = _one_example(model, task, dtype)
    named = str(dtype).removeprefix("torch.")
    return Inference(named, weights, flops, workspace, _generation(network) if hasattr(network, "new_cache") else None)


def _one_example(model: Config, task: Task, dtype: torch.dtype) -> tuple[int, int]:
    """Returns the operations of answering one example, and the most that is held on top of the weights."""
    ledger, recorder = Ledger(), Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True), ledger, torch.device("cpu"), torch.no_grad():
        with _default(dtype):  # fake tensors cannot be converted in place
            network = model.build().eval()  # type: ignore[attr-defined]
        ledger.tag("weights", [*network.parameters(), *network.buffers()])
        batch = task.example_batch(1, "cpu")
        ledger.begin()
        with recorder, computing(batch, dtype):
            task.loss(network, batch)
    held = ledger.at_peak()
    return recorder.trace().flops(), sum(held.values()) - held["weights"]


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Within this context tensors are made in a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _generation(network: Any) -> Generation | None:
    """Returns what a token takes; None where the context's length is not known."""
    context = network.config.max_seq_len
    if context is None or context < 2:
        return None
    recorder = Recorder()
    with torch.device("meta"), torch.no_grad():
        cache = network.new_cache(1, context)
        kept = _cache_bytes(cache) - _cache_bytes(network.new_cache(1, context - 1))
        cache.advance(context - 1)
        with recorder:
            next_logits(network, torch.zeros(1, 1, dtype=torch.int64), cache)
    read = sum(operation.read_bytes for operation in recorder.trace().operations if operation.flops)
    return Generation(context, kept, recorder.trace().flops(), read)


def _cache_bytes(cache: KVCache) -> int:
    return sum(_bytes(leaf) for leaf in tree_leaves([cache.keys, cache.values]))


def _bytes(tensor: Tensor | nn.Parameter) -> int:
    return tensor.numel() * tensor.element_size()
