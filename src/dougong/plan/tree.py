"""A model as the tree of its blocks, each with its parameters and the operations of its forward pass; repeats folded.

Knows modules by name and class; knows no family.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Block:
    """A part of a model.

    Attributes:
        name: Its attribute's in the part around it; of repeats `0 to 11`.
        kind: Its class.
        times: How many of its like stand here one after the other.
        parameters: Of all of them together, what is shared counted where it comes first.
        forward_flops: Of all of them together, over one example.
        blocks: What one of them is made of.
    """

    name: str
    kind: str
    times: int
    parameters: int
    forward_flops: int
    blocks: tuple[Block, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


def tree(network: nn.Module, flops_by_block: Mapping[str, int]) -> Block:
    """Returns a model as a tree.

    Args:
        network: On any device.
        flops_by_block: Operations by the path of the innermost module, as `Trace.flops_by_block` gives them.
    """
    return _block("", network, flops_by_block, set())


def _block(path: str, module: nn.Module, flops: Mapping[str, int], seen: set[int]) -> Block:
    own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
    seen.update(map(id, own))
    children = [
        _block(f"{path}.{name}" if path else name, child, flops, seen)
        for name, child in module.named_children()
        if not isinstance(child, nn.Identity)
    ]
    inside = tuple(itertools.chain.from_iterable(map(_folded, _alike(children))))
    return Block(
        path.rpartition(".")[2],
        type(module).__name__,
        1,
        sum(p.numel() for p in own) + sum(child.parameters for child in children),
        flops.get(path, 0) + sum(child.forward_flops for child in children),
        inside,
    )


def _alike(blocks: list[Block]) -> list[list[Block]]:
    """Returns blocks in groups: numbered neighbours that are alike, and each other one by itself."""
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and _mark(groups[-1][0]) == _mark(block) and block.name.isdigit():
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _mark(block: Block) -> Block:
    """Returns what two blocks have in common to be shown as one."""
    return replace(block, name="")


def _folded(group: list[Block]) -> list[Block]:
    if len(group) == 1:
        return group
    first, last = group[0], group[-1]
    return [
        replace(
            first,
            name=f"{first.name} to {last.name}",
            times=len(group),
            parameters=sum(block.parameters for block in group),
            forward_flops=sum(block.forward_flops for block in group),
        )
    ]


def numbered(marks: list[Any]) -> tuple[int, ...]:
    """Returns a number for each mark, the same for equal ones, in the order in which they are met."""
    kinds: dict[Any, int] = {}
    return tuple(kinds.setdefault(mark, len(kinds)) for mark in marks)
