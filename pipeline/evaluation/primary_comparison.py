"""Which of several systems with learned masks an answer is about: a rule that knows no result."""

Rank = tuple[bool, bool, bool, bool, bool, str, str, str]


def primary_rank(*, classifier_objective: str, segmenter_objective: str | None, train_masks: str, test_masks: str) -> Rank:
    """The place of a learned system among those with the same classifier objective: the primary comparison is that of the smallest.

    Stages trained together before stages trained apart; the soft gate before the hard one; a classifier trained with such masks
    before one trained with others; a segmenter trained like the classifier before another; a naturally trained segmenter before the
    rest. Then by name, so that no two systems tie.
    """
    return (
        test_masks != "joint",
        test_masks != "learned",
        train_masks != test_masks,
        segmenter_objective != classifier_objective,
        segmenter_objective != "natural",
        segmenter_objective or "",
        train_masks,
        test_masks,
    )
