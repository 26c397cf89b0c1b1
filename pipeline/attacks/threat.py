"""What an attacker may change, and what it knows. Nothing here imports torch."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline.config import Number, Whole, configuration

Norm = Literal["linf", "l2", "l1"]
Budget = Literal[Norm, "patch"]
"""What an epsilon limits: a norm of the perturbation, or the share of the image that one square may cover."""
Epsilon = Annotated[Number, Field(ge=0, le=10_000)]
"""Largest norm of the perturbation of an image in [0,1]. The bound is the Euclidean diagonal of an image of 5,773 pixels a
side."""


def check_epsilon(norm: Budget, epsilon: float) -> None:
    """Raises ValueError for an epsilon that is no perturbation of an image in [0,1]."""
    if norm == "patch" and epsilon > 1:
        raise ValueError(f"an epsilon of {epsilon:g} is no share of the image that a patch can cover: 0.05, never 5")
    if norm == "linf" and epsilon > 1:
        raise ValueError(f"an epsilon of {epsilon:g} in norm linf is more than an image in [0,1] can change: 8/255, never 8")


def _one_or_more(epsilons: Any) -> Any:
    one = isinstance(epsilons, int | float | str) and not isinstance(epsilons, bool)
    return (epsilons,) if one or getattr(epsilons, "ndim", None) == 0 else epsilons  # NumPy's and torch's single numbers too


class Region(StrEnum):
    """Pixels that an attack may change."""

    EVERYWHERE = "everywhere"
    FOREGROUND = "foreground"
    """Every pixel that shows any of the object."""
    BACKGROUND = "background"
    """Every pixel that shows nothing of it: through an oracle mask and a constant fill no such pixel is seen."""
    BOUNDARY = "boundary"
    """The band on both sides of the object's outline."""
    OUTSIDE_BOX = "outside-box"
    """Everything but the bounding box that the mask source ``box`` lets through."""


class Knowledge(StrEnum):
    """What the attacker knows of the system."""

    WHITE_BOX = "white-box"
    """Everything: weights, masks, and the seeds of random masks and fills."""
    HIDDEN_SEED = "hidden-seed"
    """Everything but those seeds: gradients are averaged over seeds that the attacker makes up."""


@configuration
class ThreatModel:
    """What an attacker may change, and what it knows.

    Examples:
        >>> ThreatModel(norm="linf", epsilons=["2/255", "8/255"], region="background").epsilons == (2 / 255, 8 / 255)
        True
    """

    norm: Budget = "linf"
    """Norm of the perturbation: linf (largest change of a channel value), l2 (Euclidean, over the whole image) or l1 (sum of all
    changes of channel values). Or patch: any change inside one square."""
    epsilons: Annotated[tuple[Epsilon, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = (8 / 255,)
    """Largest norms of the perturbation of an image in [0,1], rising: [2/255, 4/255, 8/255]. Of a patch: shares of the image that
    the square may cover. What is misclassified at one is so at all after it."""
    region: Region = Region.EVERYWHERE
    """Pixels that may change: everywhere, foreground, background, boundary or outside-box."""
    region_radius: Annotated[Whole, Field(ge=1, le=1024)] = 2
    """Reach of the boundary band in pixels, at least 1."""
    knowledge: Knowledge = Knowledge.WHITE_BOX
    """white-box: everything, also the seeds of random masks and noise fills. hidden-seed: everything but those."""
    num_draws: Annotated[Whole, Field(ge=1, le=10_000)] = 8
    """Seeds that an attacker with hidden-seed averages over at every step, at least 1."""

    @property
    def limits(self) -> str:
        """What an attacker may less than with the whole image and all knowledge, for people; empty where nothing."""
        where = "" if self.region == Region.EVERYWHERE else f" on the {self.region}"
        return where + (", seeds hidden" if self.knowledge == Knowledge.HIDDEN_SEED else "")

    def __post_init__(self) -> None:
        for epsilon in self.epsilons:
            check_epsilon(self.norm, epsilon)
        if any(later <= earlier for earlier, later in zip(self.epsilons, self.epsilons[1:], strict=False)):
            raise ValueError(f"epsilons have to rise: {', '.join(f'{epsilon:.4g}' for epsilon in self.epsilons)}")
