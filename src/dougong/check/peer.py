"""One of two processes that share a batch: `python -m dougong.check.peer FOLDER RANK`.

Reads what `processes.py` left in the folder (plain data and safetensors), and leaves its part of the sums there. Knows
the recipe's model and task by their names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dougong.check.subject import frozen
from dougong.core import files
from dougong.core.config import find_part, validate
from dougong.core.contracts import Batch, Task
from dougong.train.adapter import Adapted, LoraConfig

RECIPE, WEIGHTS = "parts.json", "weights.safetensors"


@dataclass(frozen=True)
class Sums:
    """What a process contributes: the sum of losses, their weight, and the gradient of the sum by parameter."""

    loss: float
    weight: float
    gradients: dict[str, Tensor]


def sums_of(model: nn.Module, task: Task, batch: Batch) -> Sums:
    """Returns the sums over a batch; the model keeps no gradients."""
    model.zero_grad(set_to_none=True)
    loss = task.loss(model, batch)
    loss.sum.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return Sums(float(loss.sum.detach()), float(loss.weight), gradients)


def leave_work(folder: Path, sections: Mapping[str, Any], model: nn.Module, shares: list[Batch]) -> None:
    """Writes what the processes need: the parts by name, the weights, and each one's share of the batch."""
    files.write_json(folder / RECIPE, sections)
    _write(folder / WEIGHTS, dict((*model.named_parameters(), *model.named_buffers())))
    for rank, share in enumerate(shares):
        tensors = {f"field {name}": tensor for name, tensor in share.fields.items()}
        tensors |= {"samples": share.samples} | ({} if share.noise is None else {"noise": share.noise})
        _write(folder / f"batch-{rank}.safetensors", tensors)


def read_sums(folder: Path, rank: int) -> Sums:
    """Returns what a process left."""
    numbers = files.read_json(folder / f"sums-{rank}.json")
    return Sums(numbers["loss"], numbers["weight"], files.read_tensors(folder / f"gradients-{rank}.safetensors"))


def work(folder: Path, rank: int) -> None:
    """Does one process's share."""
    sections = files.read_json(folder / RECIPE)
    config = validate(find_part("models", sections["model"]["name"]).PART, sections["model"])
    task = validate(find_part("tasks", sections["task"]["name"]).PART, sections["task"]).build(config)
    if sections.get("adapter") is not None:
        config = Adapted(config, validate(LoraConfig, sections["adapter"]), sections["init_new"])
    model = config.build().double().train()
    frozen(model)
    with torch.no_grad(), files.open_tensors(folder / WEIGHTS) as weights:
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.copy_(weights.get_tensor(name))
    sums = sums_of(model, task, _read_batch(folder / f"batch-{rank}.safetensors"))
    del model, tensor  # a large one leaves no room for what is written
    _write(folder / f"gradients-{rank}.safetensors", sums.gradients)
    files.write_json(folder / f"sums-{rank}.json", {"loss": sums.loss, "weight": sums.weight})


def _read_batch(path: Path) -> Batch:
    tensors = files.read_tensors(path)
    fields = {name.removeprefix("field "): t for name, t in tensors.items() if name.startswith("field ")}
    return Batch(fields, tensors["samples"], tensors.get("noise"))


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    files.write_whole(path, save({name: _alone(tensor.detach().contiguous()) for name, tensor in tensors.items()}))


def _alone(tensor: Tensor) -> Tensor:
    """Returns a tensor that is no part of another, as the format wants it."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]), int(sys.argv[2]))
