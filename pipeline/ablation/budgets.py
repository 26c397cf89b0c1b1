"""How long a Euclidean perturbation of the foreground is that an attacker with an L-infinity budget could make."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import polars as pl


def equal_l2(epsilons: Sequence[float], *, side: int, foreground: float) -> tuple[float, ...]:
    """For each L-infinity epsilon, the L2 length of a perturbation that changes every value of a foreground of that share by it.

    The same for every image, however large its object: to four digits, which is what a table shows.
    """
    return tuple(float(f"{epsilon * math.sqrt(3 * side**2 * foreground):.4g}") for epsilon in epsilons)


@cache
def mean_foreground(prepared: Path, fingerprint: str) -> float:
    """The mean foreground share over all images of a prepared data set that have a split: the same in every fold."""
    del fingerprint  # of the data set, which may be made anew in its place
    samples = pl.read_parquet(prepared / "samples.parquet", columns=["split", "foreground_share"])
    return float(samples.filter(pl.col("split").is_in(["train", "val", "test"]))["foreground_share"].to_numpy().mean())
