"""Success, apart from search: what an attack climbs is one thing, whether an image is misclassified is another.

An attack may climb anything (cross-entropy, a mask, one gradient path); it has succeeded where the system misclassifies the image.
So objectives of a system give a margin beside the score, from the same forward pass, and a ``BestPoint`` keeps the visited point
with the largest one, whatever the search itself returns.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from pipeline.attacks.objectives import Objective, margin
from pipeline.errors import InputError
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Indices, Labels, Masks, Scores
from pipeline.system import System, attacked, masks_and_logits

WRITES_INTO_IMAGES = "the system writes into the images that it is given: say images - mean, not images.sub_(mean)"


@runtime_checkable
class MarginObjective(Objective, Protocol):
    """An objective that also says how near each image is to being misclassified."""

    def scores_and_margins(self, images: Images, /) -> tuple[Scores, Scores]:
        """What is climbed, and the margin of the attacked system's own logits (above 0: misclassified), without a gradient."""
        ...

    def select(self, indices: Indices, /) -> "MarginObjective": ...


Observer = Callable[[Float[Tensor, "some 3 height width"], Float[Tensor, " some"]], None]
"""Told of every point of a batch that a search asks about, in order, and of the margins that the search saw. It changes neither;
what it raises ends the search."""


class BestPoint:
    """Per image of one batch the point with the largest value so far: a score in a search, a margin over one search or several.

    A NaN is never the best. It is remembered until ``points`` is asked for, or ``check``: the search was blind there, and to call
    such an image robust would be a false claim.
    """

    def __init__(self, images: Images, observer: Observer | None = None) -> None:
        """``observer`` is told of what a tracked objective is asked about."""
        self.observer = observer
        self.unchecked = images.detach().clone()
        """The best points, whether or not a value was NaN: for a search that goes on from there."""
        self.values = images.new_full((len(images),), -torch.inf)
        """The largest value of each image; minus infinity where there is none."""
        self._nan = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def update(
        self,
        points: Float[Tensor, "some 3 height width"],
        values: Float[Tensor, " some"],
        rows: Int64[Tensor, " some"] | None = None,
    ) -> Bool[Tensor, " some"]:
        """Take note of a point of every image, or of those at ``rows``. True where it is the best so far.

        Without rows there is no branch on values: on a GPU a search must not wait for them.
        """
        values = values.to(self.values)
        if rows is None:
            better = values > self.values
            self.unchecked = torch.where(better.view(-1, 1, 1, 1), points, self.unchecked)
            self.values = torch.where(better, values, self.values)
            self._nan = self._nan | values.isnan()
            return better
        better = values > self.values[rows]
        self.unchecked[rows[better]] = points[better]
        self.values[rows[better]] = values[better]
        self._nan[rows] |= values.isnan()
        return better

    def merge(self, other: "BestPoint") -> None:
        """Take note of all that another search on the same batch has seen."""
        self.update(other.unchecked, other.values)
        self._nan = self._nan | other._nan

    def track(self, objective: MarginObjective, rows: Int64[Tensor, " some"] | None = None) -> "Tracked":
        """The objective of the batch, or of its images at ``rows``, with every point that it is asked about kept here.

        A search takes it in place of the objective and goes on as published.
        """
        return Tracked(objective, self, rows)

    def check(self) -> None:
        """Raises FloatingPointError where a value was NaN."""
        refuse_nan(self._nan)

    @property
    def points(self) -> Images:
        """The best point of each image; where there is none, the image. Raises FloatingPointError where a value was NaN."""
        self.check()
        return self.unchecked


class Tracked:
    """An objective whose points are remembered: see ``BestPoint.track``."""

    def __init__(self, objective: MarginObjective, best: BestPoint, rows: Tensor | None) -> None:
        self._objective, self._best, self._rows = objective, best, rows
        self.margins = best.values[:0]
        """Of the points asked about last."""

    def __call__(self, images: Images) -> Scores:
        scores, margins = self._objective.scores_and_margins(images)
        self.margins = torch.where(scores.detach().isnan(), torch.nan, margins.detach())
        self._best.update(images.detach(), self.margins, self._rows)
        if self._best.observer is not None:
            self._best.observer(images.detach(), self.margins)
        return scores

    def select(self, indices: Tensor) -> Objective:
        """Raises ValueError: a batch is known by position, so a search over some of its images has ``rows`` of its own."""
        del indices
        raise ValueError("a tracked objective belongs to its whole batch: select first, then track")


class NotANumber(FloatingPointError):  # noqa: N818
    """A NaN score, or the score of a NaN gradient: the search was blind there."""

    def __init__(self, rows: Sequence[int]) -> None:
        """``rows`` are the images, by their position in the batch."""
        super().__init__(f"a NaN score or gradient for these images of the batch: {', '.join(map(str, rows))}")
        self.rows = tuple(rows)


@contextmanager
def of_batch(rows: Int64[Tensor, " some"]) -> Iterator[None]:
    """A NaN score within is told by its position in the whole batch, of which ``rows`` are looked at."""
    try:
        yield
    except NotANumber as error:
        raise NotANumber([int(rows[row]) for row in error.rows]) from error


def refuse_nan(nan: Bool[Tensor, " batch"]) -> None:
    """Raises FloatingPointError that names the images with a NaN score."""
    if nan.any():
        raise NotANumber(nan.nonzero().flatten().tolist())


class Verdict(NamedTuple):
    """What a system says of stored images."""

    predictions: Labels
    margins: Scores
    """Largest other logit minus the label's."""
    misclassified: Bool[Tensor, " batch"]
    """The prediction is not the label."""
    masks: Masks | None = None
    """What the system saw the images through, where that was asked for."""
    confidences: Float64[Tensor, " batch"] | None = None
    """Softmax of the predicted class, in double precision, where masks were asked for."""


def of_as_many_classes(answers: list[Tensor]) -> list[Tensor]:
    """A system's answers in several batches. Raises InputError where they are not of as many classes."""
    numbers = dict.fromkeys(str(answer.shape[1]) for answer in answers)
    if len(numbers) > 1:
        raise InputError(f"the system has {' and '.join(numbers)} classes, by the batch: give one logit a class in every batch")
    return answers


@torch.no_grad()
def verdict(system: System, images: Images, labels: Labels, context: MaskContext | None, *, with_masks: bool = False) -> Verdict:
    """Score stored images afresh, in eval mode and without autocast: the only thing that a success is counted by. ``with_masks``
    also says what the images were seen through, and how sure the system is.

    Raises FloatingPointError for logits that are NaN or infinite (minus infinity is how some systems rule a class out), and
    InputError for a system that writes into the images: others than those that are recorded would be judged.
    """
    writings = None if images.is_inference() else images._version
    with attacked(system):
        masks, logits = masks_and_logits(system, images, context) if with_masks else (None, system(images, context))
    if writings is not None and images._version != writings:
        raise InputError(WRITES_INTO_IMAGES)
    logits = logits.as_subclass(Tensor)  # one of somebody else's could give one largest value and name another
    refuse_nan((logits.isnan() | logits.isposinf()).any(dim=1))
    predictions = logits.argmax(dim=1)
    return Verdict(
        predictions=predictions,
        margins=margin(logits, labels),
        misclassified=predictions != labels,
        masks=masks,
        confidences=logits.double().softmax(dim=1).amax(dim=1) if with_masks else None,
    )
