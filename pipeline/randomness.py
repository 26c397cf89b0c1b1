"""Random numbers that belong to an image, not to its batch.

A ``torch.Generator`` hands its numbers out in order, so what an image gets depends on which images come before it. Here a number is
a function of (the image's seed, the stream, the position): a verdict stays the same when the batch size changes, when
misclassified images are dropped, after a restart and over several processes. Everything up to the last division is integer
arithmetic, so the bits agree between devices as well.

The function is SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195). Not for secrets.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.shapes import Seeds

# The published constants, as the signed 64-bit integers that torch computes with (products wrap around).
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64
_BITS = 24  # what a float32 in [0,1) holds exactly


def derive_seeds(seeds: Seeds, *keys: int) -> Int64[Tensor, " batch"]:
    """New seeds, one per image, for a purpose named by integers: (run seed, epoch), (attack, restart) ... Order matters."""
    for key in keys:
        seeds = _mix(_mix(seeds + _STEP) + _signed(key))
    return seeds


def random_integers(seeds: Seeds, shape: tuple[int, ...]) -> Int64[Tensor, "batch ..."]:
    """Integers of the given shape per image, uniform in [0, 2**24)."""
    positions = torch.arange(1, math.prod(shape) + 1, device=seeds.device)
    bits = _mix(seeds[:, None] + positions * _STEP)
    return _shift_right(bits, 64 - _BITS).view(len(seeds), *shape)


def uniform(seeds: Seeds, shape: tuple[int, ...], *, dtype: torch.dtype) -> Float[Tensor, "batch ..."]:
    """Numbers of the given shape per image, uniform in [0,1), in steps of 2**-24 whatever the type (float32 or wider)."""
    return random_integers(seeds, shape).to(dtype).mul_(2.0**-_BITS)


def normal(seeds: Seeds, shape: tuple[int, ...], *, dtype: torch.dtype) -> Float[Tensor, "batch ..."]:
    """Standard normal numbers of the given shape per image, by inversion; all finite, no larger than 5.5."""
    centred = uniform(seeds, shape, dtype=dtype).mul_(2).sub_(1)
    return centred.clamp_min_(2.0**-_BITS - 1).erfinv_().mul_(math.sqrt(2))


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift_right(state, 30)) * _MULTIPLIER_1
    state = (state ^ _shift_right(state, 27)) * _MULTIPLIER_2
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, places: int) -> Tensor:
    # torch shifts the sign in; the mask turns that into the unsigned shift.
    return (state >> places) & ((1 << (64 - places)) - 1)


def _signed(key: int) -> int:
    key &= 2**64 - 1
    return key - 2**64 if key >= 2**63 else key
