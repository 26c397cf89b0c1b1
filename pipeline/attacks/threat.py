"""Norms and epsilons: what every attack has to say. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Number

Norm = Literal["linf", "l2"]
Epsilon = Annotated[Number, Field(ge=0, le=10_000)]
"""Largest norm of the perturbation of an image in [0,1]. The bound is the Euclidean diagonal of an image of 5,773 pixels a side."""


def check_epsilon(norm: Norm, epsilon: float) -> None:
    """Raises ValueError for an epsilon that is no perturbation of an image in [0,1]."""
    if norm == "linf" and epsilon > 1:
        raise ValueError(f"an epsilon of {epsilon:g} in norm linf is more than an image in [0,1] can change: 8/255, never 8")
