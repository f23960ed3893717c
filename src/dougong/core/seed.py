"""Randomness as a function: every draw is decided by the run's seed, a purpose and a place (law 1).

Knows no generator state and saves none. `draw_bits` gives the same bits on every device, eager or compiled.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def key(seed: int, purpose: str, *place: int | str) -> int:
    """Returns 63 bits that depend on the seed, the purpose and the place, and on nothing else."""
    text = "\x1f".join([str(seed), purpose, *map(str, place)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *place: int | str) -> torch.Generator:
    """Returns a fresh generator on the CPU, seeded by `key`: draw from it, then forget it."""
    return torch.Generator().manual_seed(key(seed, purpose, *place))


def sample_keys(samples: Tensor, seed: int, purpose: str, *place: int | str) -> Tensor:
    """Returns one int32 key per sample, a function of the sample's global number and of `key`.

    Args:
        samples: int64 [batch], global sample numbers.

    Returns:
        int32 [batch], on the device of `samples`.
    """
    base = key(seed, purpose, *place)
    low = (samples & 0x7FFFFFFF).to(torch.int32)
    high = (samples >> 31).to(torch.int32)
    return _mix(_mix(low ^ _signed(base)) ^ _mix(high ^ _signed(base >> 32)))


def fold(keys: Tensor, place: int) -> Tensor:
    """Returns one new int32 key per key: its own stream for one place, such as a layer."""
    return _mix(keys ^ _signed(0x9E3779B9 * (place + 1)))


def draw_bits(keys: Tensor, shape: tuple[int, ...], place: int) -> Tensor:
    """Returns uniform 24-bit integers: element `i` of a sample is a hash of (key, place, i).

    A counter-based draw (as in Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), with a 32-bit
    multiply-xorshift hash. Costs about ten passes over the output when not compiled.

    Args:
        keys: int32 [batch], one key per sample.
        shape: The shape of one sample's draw; at most 2**31 elements.
        place: Tells apart the layers that draw from the same key.

    Returns:
        int32 [batch, *shape], each in [0, 2**24).
    """
    count = 1
    for size in shape:
        count *= size
    index = torch.arange(count, dtype=torch.int32, device=keys.device)
    bits = _mix(_mix(index)[None, :] ^ fold(keys, place)[:, None])
    return (bits & 0xFFFFFF).reshape(len(keys), *shape)


def _mix(bits: Tensor) -> Tensor:
    """A bijection of 32 bits whose every output bit depends on every input bit."""
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * _signed(0x846CA68B)
    return bits ^ ((bits >> 16) & 0xFFFF)


def _signed(number: int) -> int:
    """Returns the low 32 bits as a signed integer, which is what an int32 tensor can hold."""
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number
