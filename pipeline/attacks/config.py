"""What can be chosen of projected gradient descent."""

from typing import Annotated

from pydantic import Field

from pipeline.attacks.threat import Epsilon, Norm, check_epsilon
from pipeline.config import Count, Number, Whole, configuration


@configuration
class PgdConfig:
    """Projected gradient descent with a fixed step."""

    norm: Norm = "linf"
    """Norm of the perturbation: linf (largest change of a channel value), l2 (Euclidean, over the whole image) or l1 (sum of all
    changes of channel values)."""
    epsilon: Epsilon = 8 / 255
    """Largest norm of the perturbation of an image in [0,1], 0 or more: 8/255, never 8."""
    step_size: Annotated[Number, Field(gt=0, le=10_000)] | None = None
    """Length of a step in the same norm, above 0; null is 2.5 * epsilon / num_steps."""
    num_steps: Count = 10
    """Gradient steps of each start, at least 1."""
    restarts: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """Starts, of which each image keeps the best, at least 1; more than 1 needs random_start."""
    random_start: bool = True
    """Start at a random point of the ball and not at the image."""

    def __post_init__(self) -> None:
        check_epsilon(self.norm, self.epsilon)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts is {self.restarts} and random_start is off: every restart would repeat the first")
