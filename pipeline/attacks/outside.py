"""The attacks that ``pyautoattack`` brings: what can be set of them. ``autoattack`` runs them; nothing here imports torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.attacks.specs import AttackSpec, Conditions, Passes
from pipeline.attacks.threat import Budget
from pipeline.config import Count, Whole, configuration

Member = Literal["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
STANDARD: tuple[Member, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The attacks of the published standard version of AutoAttack, in its order."""
_GRADIENTS_OF_MEMBER = {"apgd-ce": 100, "apgd-dlr": 100, "apgd-t": 900, "fab": 100, "fab-t": 900}


@configuration
class SquareAttack(AttackSpec):
    """Random search that asks for logits and no gradient (Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049)."""

    one_start: ClassVar[str] = "pipeline.attacks.autoattack:search_square"
    needs_exact_logits: ClassVar[bool] = True

    kind: Literal["square"] = "square"
    """Random search on the logits, without gradients."""
    num_queries: Count = 5000
    """Forward passes of each start, at least 1."""
    restarts: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """Random starts, at least 1."""

    def passes(self, num_classes: int) -> Passes:
        """Its queries."""
        return Passes(forward=self.num_starts(num_classes) * self.num_queries, backward=0)

    def inapplicable(self, conditions: Conditions) -> str | None:
        """It may ask the system only what the attacker may know, and its tiles have to fit."""
        if conditions.hides_seeds:
            return _ASKS_THE_SYSTEM
        if not square_fits(conditions.threat.norm, *conditions.image_shape):
            return "the tiles of its Euclidean version do not fit the image"
        return None


@configuration
class AutoAttack(AttackSpec):
    """The standard version of AutoAttack, by pyautoattack (Croce and Hein 2020, https://arxiv.org/abs/2003.01690)."""

    one_start: ClassVar[str] = "pipeline.attacks.autoattack:search_autoattack"
    needs_exact_logits: ClassVar[bool] = True

    kind: Literal["autoattack"] = "autoattack"
    """The standard version of AutoAttack, as pyautoattack has it."""
    attacks: Annotated[tuple[Member, ...], Field(min_length=1)] = STANDARD
    """Which of its attacks, in order: apgd-ce, apgd-t, fab-t and square are the standard version."""
    num_queries: Count = 5000
    """Forward passes of its Square, at least 1."""

    def passes(self, num_classes: int) -> Passes:  # noqa: ARG002
        """The iterations of its gradient attacks, for each of 9 targets where they have targets, and the queries of Square."""
        gradients = sum(_GRADIENTS_OF_MEMBER.get(member, 0) for member in self.attacks)
        queries = sum(self.num_queries for member in self.attacks if member not in _GRADIENTS_OF_MEMBER)
        return Passes(forward=gradients + queries, backward=gradients)

    def inapplicable(self, conditions: Conditions) -> str | None:
        """It may ask the system only what the attacker may know, and the tiles of Square have to fit."""
        if conditions.hides_seeds:
            return _ASKS_THE_SYSTEM
        if "square" in self.attacks and not square_fits(conditions.threat.norm, *conditions.image_shape):
            return "the tiles of Square's Euclidean version do not fit the image: leave square out of its attacks"
        return None


_ASKS_THE_SYSTEM = "it would ask the system itself, with the seeds that this attacker does not know"


def square_fits(norm: Budget, height: int, width: int) -> bool:
    """Whether pyautoattack's Square can start: its Euclidean version lays tiles of a fifth of the height, which must fit.

    From 25 pixels on they always do.
    """
    if norm == "linf":
        return True
    tile = height // 5
    if tile == 0:
        return False
    first = (height - 5 * tile) // 2
    return max(first + height // tile * tile - height, first + width // tile * tile - width) <= 0
