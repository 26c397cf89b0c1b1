"""The attack by a square patch: what can be set of it. ``patches`` runs it; nothing here imports torch."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.attacks.specs import AttackSpec, ClassLoss, Conditions, Passes
from pipeline.attacks.threat import Budget
from pipeline.config import Count, Whole, configuration


@configuration
class PatchAttack(AttackSpec):
    """Any change at all inside one square, wherever the region lets it lie, end to end through the segmenter.

    The threat is ``norm: patch``: an epsilon is the largest share of the image that the square may cover. With the region
    ``background`` the square touches no pixel of the object, with ``foreground`` no pixel outside it.
    """

    budgets: ClassVar[tuple[Budget, ...]] = ("patch",)
    one_start: ClassVar[str] = "pipeline.attacks.patches:attack_with_patch"

    kind: Literal["patch"] = "patch"
    """Any change at all inside one square."""
    loss: ClassLoss = ClassLoss.MARGIN
    """Climbed inside the square: cross-entropy, margin or dlr."""
    num_promising: Annotated[Whole, Field(ge=0, le=1000)] = 4
    """Places that are tried first: those where the gradient on the clean image promises most, none overlapping another."""
    num_random: Annotated[Whole, Field(ge=0, le=1000)] = 4
    """Places that are tried after them: drawn at random."""
    num_steps: Count = 50
    """Gradient steps at each place, at least 1."""

    def __post_init__(self) -> None:
        if self.num_promising + self.num_random < 1:
            raise ValueError("num_promising and num_random are both 0: there is no place to try")

    def num_starts(self, num_classes: int) -> int:  # noqa: ARG002
        """One for each place."""
        return self.num_promising + self.num_random

    def passes(self, num_classes: int) -> Passes:
        """One in each direction for every step, and for every promising place."""
        number = self.num_starts(num_classes) * self.num_steps + self.num_promising
        return Passes(forward=number, backward=number)

    def inapplicable(self, conditions: Conditions) -> str | None:
        """The smallest patch has to have a pixel."""
        smallest = min((epsilon for epsilon in conditions.threat.epsilons if epsilon > 0), default=1.0)
        height, width = conditions.image_shape
        if patch_side(smallest, height, width) < 1:
            return f"{smallest:.4g} of an image of {height} x {width} pixels is less than a pixel"
        return None


def patch_side(share: float, height: int, width: int) -> int:
    """Pixels along a side of the largest square whose area is at most ``share`` of the image; 0 where not even one pixel is.

    Raises ValueError for a share outside [0,1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a patch covers a share of the image between 0 and 1, not {share:g}")
    # A share made from a side (side ** 2 / pixels) must give that side back, whatever its last digit was rounded to.
    return min(math.isqrt(math.floor(share * height * width * (1 + 1e-12))), height, width)
