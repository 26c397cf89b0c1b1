"""What an attack climbs: functions from images to one score per image.

An objective is a model, a score of its outputs, and what the score compares them with. Any stage or system is a model, and any loss
that gives one value per image is a score: those below, and those of ``classifier.losses`` and ``segmenter.losses``. So the
same attack works on a classifier, a segmenter or both, in an evaluation or inside adversarial training.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from classifier.losses import cross_entropy
from pipeline.attacks.specs import ClassLoss
from pipeline.errors import InputError
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Indices, Labels, Logits, Scores

Score = Callable[..., Tensor]
"""(outputs, *targets) -> one score per image (B,), higher is better for the attacker; every argument has the batch first."""

DLR_CLASSES = 4
"""Fewest classes with which the difference-of-logits ratio is used."""
_SUM = 1e-3  # how far from 1 the sum of probabilities may be


def are_probabilities(outputs: Logits) -> bool:
    """Each row is of shares that sum to 1: what a softmax gives, and no logits."""
    one = torch.ones((), dtype=outputs.dtype, device=outputs.device)
    return bool((outputs >= 0).all()) and torch.allclose(outputs.sum(dim=1), one, atol=_SUM)


@runtime_checkable
class Objective(Protocol):
    """Images (B,3,H,W) in [0,1] to scores (B,), to be maximised. An image's score does not depend on the rest of its batch."""

    def __call__(self, images: Images, /) -> Scores: ...

    def select(self, indices: Indices, /) -> "Objective":
        """The objective of some images of the batch, in the order of ``indices``: so an attack can drop images."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelObjective:
    """``score(model(images), *targets)``, or ``model(images, context)`` where there is a context.

    Cross-entropy on a system: ``ModelObjective(model=system, score=cross_entropy, targets=(labels,), context=context)``.
    A segmenter: ``ModelObjective(model=segmenter, score=bce_dice, targets=(masks,))``.
    The divergence of TRADES: ``ModelObjective(model=stage, score=kl_divergence, targets=(clean_logits,))``.
    """

    model: Callable[..., Tensor]
    """A module or function: images, and the context if there is one, to outputs. In the state of ``system.attacked``."""
    score: Score
    """The outputs and the targets to one value per image."""
    targets: tuple[Tensor, ...]
    """What the score compares the outputs with, each with the batch first: labels, masks, clean outputs."""
    context: MaskContext | None = None
    """What a system needs besides the images."""

    def __call__(self, images: Images) -> Scores:
        outputs = self.model(images) if self.context is None else self.model(images, self.context)
        return self.score(outputs, *self.targets)

    def select(self, indices: Indices) -> "ModelObjective":
        """The same objective for some images of the batch, in the order of ``indices``."""
        context = None if self.context is None else self.context.select(indices)
        return replace(self, targets=tuple(target[indices] for target in self.targets), context=context)


def margin(logits: Logits, labels: Labels) -> Scores:
    """Largest other logit minus the label's: above 0 the image is misclassified.

    Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644. Needs two classes or more. Its gradient does not vanish with the
    classifier's confidence.
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own


def dlr(logits: Logits, labels: Labels) -> Scores:
    """Difference-of-logits ratio: the margin over the distance from the largest to the third largest logit.

    Unchanged when the logits are shifted or scaled; above 0 the image is misclassified. Croce and Hein 2020,
    https://arxiv.org/abs/2003.01690, equation 6. Needs 3 classes, though with 3 it is flat at 1 where the label comes last.
    """
    largest = logits.topk(3, dim=1).values
    return margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_cross_entropy(logits: Logits, labels: Labels, target_labels: Labels) -> Scores:
    """Log probability of the target. The label plays no part; all targeted scores take the same arguments."""
    del labels
    return -cross_entropy(logits, target_labels)


def targeted_margin(logits: Logits, labels: Labels, target_labels: Labels) -> Scores:
    """The target's logit minus the label's: above 0 the image is misclassified, though perhaps as a third class."""
    pair = logits.gather(1, torch.stack([target_labels, labels], dim=1))
    return pair[:, 0] - pair[:, 1]


def targeted_dlr(logits: Logits, labels: Labels, target_labels: Labels) -> Scores:
    """Targeted difference-of-logits ratio, Croce and Hein 2020, https://arxiv.org/abs/2003.01690, equation 7. Needs 4 classes."""
    largest = logits.topk(4, dim=1).values
    scale = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return targeted_margin(logits, labels, target_labels) / (scale + 1e-12)


def class_score(loss: ClassLoss, *, num_classes: int, targeted: bool = False) -> Score:
    """The score of that name: (logits, labels) -> (B,), targeted (logits, labels, target_labels) -> (B,).

    Below 4 classes the difference-of-logits ratio is undefined for targets and partly flat without: then the margin is returned,
    and a UserWarning says so.
    """
    if loss == ClassLoss.DLR and num_classes < DLR_CLASSES:
        warnings.warn(
            f"dlr needs {DLR_CLASSES} classes and there are {num_classes}: the margin is climbed instead", UserWarning, stacklevel=2
        )
        loss = ClassLoss.MARGIN
    match loss:
        case ClassLoss.CROSS_ENTROPY:
            return targeted_cross_entropy if targeted else cross_entropy
        case ClassLoss.MARGIN:
            return targeted_margin if targeted else margin
        case ClassLoss.DLR:
            return targeted_dlr if targeted else dlr


def scores_and_gradients(objective: Objective, points: Images) -> tuple[Scores, Images]:
    """An attack's step: the scores of the points and their gradients in the points, both detached.

    The score is NaN where a value of the gradient is: a search is blind there, and one along signs (that of NaN is 0) would stay
    where it is and pass for robustness. Nothing is added to any parameter's gradient. Raises InputError where no gradient reaches
    the images (a cut graph would pass for it too), ValueError where the scores are not one per image.
    """
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        scores = _one_per_image(objective(leaf), leaf)
        gradients = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    if gradients is None:
        raise InputError(
            "no gradient reaches the images from this objective: there is nothing to climb; the system cuts it (no_grad, detach,"
            " numpy, integers): mend it, or attack it without gradients (attack=decision)"
        )
    return scores.detach().masked_fill(gradients.isnan().flatten(1).any(dim=1), torch.nan), gradients


@torch.no_grad()
def scores_without_gradients(objective: Objective, points: Images) -> Scores:
    """The scores of the points alone. Raises ValueError where they are not one per image."""
    return _one_per_image(objective(points), points)


def _one_per_image(scores: Tensor, points: Tensor) -> Tensor:
    if scores.shape != points.shape[:1]:
        raise ValueError(f"the objective gave scores of shape {tuple(scores.shape)} for {len(points)} images: one each is needed")
    return scores
