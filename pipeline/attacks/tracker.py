"""Success, apart from search: what an attack climbs is one thing, whether an image has fallen is another.

An attack may climb anything (cross-entropy, a mask, one gradient path); an image has fallen when the system misclassifies it. So
objectives of a system give a verdict beside the score, from the same forward pass, and a ``Witness`` keeps the visited point
with the best verdict, whatever the search itself returns.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.attacks.objectives import Objective, margin
from pipeline.masks.context import MaskContext
from pipeline.system import System, attacked


@runtime_checkable
class Judged(Objective, Protocol):
    """An objective that also says how near each image is to being misclassified."""

    def scores_and_verdicts(
        self, images: Float[Tensor, "batch 3 height width"], /
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """What is climbed, and the margin of the attacked system's own logits (above 0: misclassified), without a gradient."""
        ...

    def select(self, indices: Int64[Tensor, " kept"], /) -> "Judged": ...


class Witness:
    """Remembers, per image of one batch, the visited point with the best verdict, over one search or several.

    A search is given ``watch(objective)`` in place of the objective and goes on as published; ``best`` is asked afterwards.
    """

    def __init__(self, images: Float[Tensor, "batch 3 height width"]) -> None:
        self._points = images.detach()
        self._verdicts = images.new_full((len(images),), -torch.inf)
        self._undefined = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def watch(self, objective: Judged) -> Objective:
        """The objective, with every point that it is asked about remembered here."""
        return _Watched(objective=objective, witness=self)

    def record(self, points: Float[Tensor, "batch 3 height width"], verdicts: Float[Tensor, " batch"]) -> None:
        """Take note of a visited point of every image. NaN is never the best."""
        better = verdicts > self._verdicts
        self._points = torch.where(better.view(-1, 1, 1, 1), points, self._points)
        self._verdicts = torch.where(better, verdicts, self._verdicts)
        self._undefined |= verdicts.isnan()

    @property
    def best(self) -> Float[Tensor, "batch 3 height width"]:
        """The visited point with the best verdict; where none was visited, the image.

        Raises FloatingPointError where a verdict was no number: calling such an image robust would be a false claim.
        """
        if self._undefined.any():
            where = ", ".join(map(str, self._undefined.nonzero().flatten().tolist()))
            raise FloatingPointError(f"the system's logits were no numbers for these images of the batch: {where}")
        return self._points


@dataclass(frozen=True, kw_only=True)
class _Watched:
    objective: Judged
    witness: Witness

    def __call__(self, images: Tensor) -> Tensor:
        scores, verdicts = self.objective.scores_and_verdicts(images)
        self.witness.record(images.detach(), verdicts.detach())
        return scores

    def select(self, indices: Tensor) -> Objective:
        # The witness knows its batch by position: a search over some images needs a witness of its own.
        del indices
        raise ValueError("a watched objective belongs to its whole batch: select first, then watch")


class Verdict(NamedTuple):
    """What a system says of stored images."""

    predictions: Int64[Tensor, " batch"]
    margins: Float[Tensor, " batch"]
    """Largest other logit minus the label's."""
    fallen: Bool[Tensor, " batch"]
    """The prediction is not the label."""


@torch.no_grad()
def verdict(
    system: System,
    images: Float[Tensor, "batch 3 height width"],
    labels: Int64[Tensor, " batch"],
    context: MaskContext | None,
) -> Verdict:
    """Score stored images afresh, in eval mode and without autocast: the only thing that a success is counted by.

    Raises FloatingPointError for logits that are no numbers.
    """
    with attacked(system):
        logits = system(images, context)
    if logits.isnan().any():
        raise FloatingPointError("the system's logits are no numbers: no verdict is possible")
    predictions = logits.argmax(dim=1)
    return Verdict(predictions=predictions, margins=margin(logits, labels), fallen=predictions != labels)


def fallen(
    system: System,
    images: Float[Tensor, "batch 3 height width"],
    labels: Int64[Tensor, " batch"],
    context: MaskContext | None,
) -> Bool[Tensor, " batch"]:
    """The system misclassifies the stored image."""
    return verdict(system, images, labels, context).fallen
