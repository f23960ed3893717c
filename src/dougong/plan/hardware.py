"""Accelerators by name: what their makers' data sheets say that they compute, hold and send.

Peaks are of dense products, links count one direction, and bytes are decimal, as printed; what of a peak is reached,
`layout.py` assumes and `time.py` measures. Prices are assumptions. This machine's own figures are never looked up here:
`core/device.py` measures them. Imports no torch; knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dougong.core.config import did_you_mean
from dougong.core.errors import UsageError


@dataclass(frozen=True)
class Hardware:
    """One device, and the node it stands in.

    Attributes:
        name: What it is called in `--devices`.
        memory_bytes: Its memory.
        flops: Peak FLOP/s of dense products by type (`fp32`, `tf32`, `bf16`, `fp16`, `fp8`).
        bandwidth: Bytes/s between it and its memory.
        link: Bytes/s that it sends to other devices of its node (what it receives comes on top).
        network: Bytes/s that it sends to other nodes.
        devices_per_node: How many are linked to one another.
        watts: The most power it takes, without the rest of the node.
        dollars_per_hour: An assumption of the order of what it is rented for; prices differ threefold between sellers.
        source: The data sheets that all but the price are from.
    """

    name: str
    memory_bytes: float
    flops: Mapping[str, float]
    bandwidth: float
    link: float
    network: float
    devices_per_node: int
    watts: float
    dollars_per_hour: float
    source: str

    def peak(self, precision: str) -> float:
        """Returns the FLOP/s of a type; where bf16 has no products, fp16 stands for it.

        Raises:
            UsageError: The device has no products of this type.
        """
        name = "fp16" if precision == "bf16" and "bf16" not in self.flops else precision
        if name not in self.flops:
            raise UsageError(
                f"{self.name} must compute {precision}, but has {', '.join(self.flops)}. Take one of them."
            )
        return self.flops[name]

    def priced(self, dollars_per_hour: float | int) -> Hardware:
        """Returns the same device at another price."""
        return replace(self, dollars_per_hour=dollars_per_hour)


_AMPERE = {"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12}
_HOPPER = {"fp32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12, "fp16": 989.5e12, "fp8": 1979e12}

HARDWARE: dict[str, Hardware] = {
    device.name: device
    for device in (
        Hardware(
            name="v100-32gb",
            memory_bytes=32e9,
            flops={"fp32": 15.7e12, "fp16": 125e12},
            bandwidth=900e9,
            link=150e9,
            network=6.25e9,
            devices_per_node=8,
            watts=300.0,
            dollars_per_hour=0.8,
            source="NVIDIA V100 data sheet (January 2020): SXM2; DGX-1 data sheet: four 100 Gb/s ports for 8 GPUs",
        ),
        Hardware(
            name="a100-40gb",
            memory_bytes=40e9,
            flops=_AMPERE,
            bandwidth=1555e9,
            link=300e9,
            network=25e9,
            devices_per_node=8,
            watts=400.0,
            dollars_per_hour=1.3,
            source="NVIDIA A100 data sheet (2020): SXM4 40 GB; NVIDIA DGX A100 data sheet: eight 200 Gb/s ports",
        ),
        Hardware(
            name="a100-80gb",
            memory_bytes=80e9,
            flops=_AMPERE,
            bandwidth=2039e9,
            link=300e9,
            network=25e9,
            devices_per_node=8,
            watts=400.0,
            dollars_per_hour=1.8,
            source="NVIDIA A100 data sheet (June 2021): SXM4 80 GB; NVIDIA DGX A100 data sheet: eight 200 Gb/s ports",
        ),
        Hardware(
            name="h100",
            memory_bytes=80e9,
            flops=_HOPPER,
            bandwidth=3350e9,
            link=450e9,
            network=50e9,
            devices_per_node=8,
            watts=700.0,
            dollars_per_hour=2.5,
            source="NVIDIA H100 data sheet: SXM, half of the figures with sparsity; DGX H100: eight 400 Gb/s ports",
        ),
        Hardware(
            name="h200",
            memory_bytes=141e9,
            flops=_HOPPER,
            bandwidth=4800e9,
            link=450e9,
            network=50e9,
            devices_per_node=8,
            watts=700.0,
            dollars_per_hour=3.5,
            source="NVIDIA H200 data sheet: SXM, half of the figures with sparsity; DGX H200: eight 400 Gb/s ports",
        ),
        Hardware(
            name="b200",
            memory_bytes=180e9,
            flops={"fp32": 75e12, "tf32": 1125e12, "bf16": 2250e12, "fp16": 2250e12, "fp8": 4500e12},
            bandwidth=8000e9,
            link=900e9,
            network=50e9,
            devices_per_node=8,
            watts=1000.0,
            dollars_per_hour=5.0,
            source="NVIDIA HGX and DGX B200 data sheets: an eighth of the board, half of the figures with sparsity",
        ),
        Hardware(
            name="l4",
            memory_bytes=24e9,
            flops={"fp32": 30.3e12, "tf32": 60e12, "bf16": 121e12, "fp16": 121e12, "fp8": 242.5e12},
            bandwidth=300e9,
            link=32e9,
            network=1.5625e9,
            devices_per_node=8,
            watts=72.0,
            dollars_per_hour=0.7,
            source="NVIDIA L4 data sheet: PCIe Gen4 x16, half of the figures with sparsity; 100 Gb/s for 8, as rented",
        ),
    )
}


def parse_devices(text: str) -> tuple[int, Hardware | None]:
    """Returns how many devices are meant, and which: `1024xa100-80gb`, `a100-80gb` (one), or `8` (of any kind).

    Raises:
        UsageError: It is none of these, or the name is not known; then the nearest is named.
    """
    found = re.fullmatch(r"\s*(?:(\d+)\s*[xX*×]\s*)?(\S+?)\s*", text)
    if found is not None and found[1] is None and found[2].isdigit():
        return _count(found[2], text), None
    if found is None:
        raise UsageError(f"devices must be a count, a name or both (1024xa100-80gb), but are {text!r}.")
    name = found[2].lower().replace("_", "-")
    if name not in HARDWARE:
        raise UsageError(f"devices must be of a known kind, but are of {name!r}.{did_you_mean(name, list(HARDWARE))}")
    return _count(found[1] or "1", text), HARDWARE[name]


def _count(digits: str, text: str) -> int:
    count = int(digits)
    if count < 1:
        raise UsageError(f"devices must be at least 1, but are {text!r}. Try 1x...")
    return count
