"""Which of several systems with learned masks an answer is about: a rule that knows no result."""

from typing import Protocol, runtime_checkable

Rank = tuple[bool, bool, bool, bool, bool, str, str, str]


@runtime_checkable
class Learned(Protocol):
    """What the rule knows of a system."""

    @property
    def classifier_objective(self) -> str: ...
    @property
    def segmenter_objective(self) -> str | None: ...
    @property
    def train_masks(self) -> str: ...
    @property
    def test_masks(self) -> str: ...


def primary_rank(one: Learned) -> Rank:
    """The place of a learned system among those with the same classifier objective: the primary comparison is that of the smallest.

    Stages trained together before stages trained apart; the soft gate before the hard one; a classifier trained with such masks
    before one trained with others; a segmenter trained like the classifier before another; a naturally trained segmenter before the
    rest. Then by name, so that no two systems tie.
    """
    return (
        one.test_masks != "joint",
        one.test_masks != "learned",
        one.train_masks != one.test_masks,
        one.segmenter_objective != one.classifier_objective,
        one.segmenter_objective != "natural",
        one.segmenter_objective or "",
        one.train_masks,
        one.test_masks,
    )
