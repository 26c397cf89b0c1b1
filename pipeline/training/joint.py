"""Both stages trained together, end to end: the classification loss of the masked image and the loss of the mask.

What an image comes to is one row, its class logits and behind them its mask logits, and so is what it is compared with: so the
objectives and the loop treat the two stages as they treat one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from classifier import losses as classifier_losses
from classifier import metrics as classifier_metrics
from pipeline.attacks.config import PgdConfig
from pipeline.data.loader import Batch
from pipeline.masks.config import MaskConfig
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Scores, Seeds
from pipeline.system import TwoStage
from pipeline.training.objectives import Objective
from pipeline.training.tasks import BoundStage
from segmenter import losses as segmenter_losses
from segmenter import metrics as segmenter_metrics


class JointStages(nn.Module):
    """A segmenter and a classifier, both in training: images to class logits and mask logits, (B, K + H*W).

    The mask follows the image through the segmenter, so a gradient of the class logits reaches it.
    """

    def __init__(
        self, segmenter: nn.Module, classifier: nn.Module, *, masks: MaskConfig, mean_color: tuple[float, float, float]
    ) -> None:
        """Join two stages. Raises ValueError for a mask source that does not follow the image."""
        if not masks.source.is_learned:
            raise ValueError(f"masks of the source {masks.source.value!r} do not follow the image: there is nothing to train")
        super().__init__()
        trained = [parameter for parameter in segmenter.parameters() if parameter.requires_grad]
        self.system = TwoStage(classifier, segmenter=segmenter, masks=masks, mean_color=mean_color)
        for parameter in trained:  # the system has frozen them
            parameter.requires_grad_(True)

    @property
    def segmenter(self) -> nn.Module:
        """The first stage."""
        assert self.system.segmenter is not None
        return self.system.segmenter

    @property
    def classifier(self) -> nn.Module:
        """The second stage."""
        return self.system.classifier

    def train(self, mode: bool = True) -> "JointStages":
        """Set the mode of both stages."""
        super().train(mode)
        self.segmenter.train(mode)
        return self

    def forward(self, images: Images, context: MaskContext | None = None) -> Float[Tensor, "batch outputs"]:
        """Class logits, then mask logits row by row."""
        mask_logits = self.system.mask_logits(images)
        logits = self.system.classify(images, self.system.gate(mask_logits), context)
        return torch.cat([logits, mask_logits.flatten(1)], dim=1)

    def map_stages(self, change: Callable[[nn.Module], nn.Module]) -> None:
        """Replace both stages by what ``change`` makes of them."""
        self.system.map_stages(change)


def bind_joint(stages: nn.Module, *, num_classes: int, mask_weight: float, label_smoothing: float = 0.0) -> BoundStage:
    """``JointStages``: cross-entropy against the labels + ``mask_weight`` * (BCE + Dice) against the masks, selected by accuracy.

    The divergence of TRADES is that of the classes + ``mask_weight`` * that of the masks. The attack of the validation climbs the
    cross-entropy alone, for it is accuracy that is measured.
    """

    def target(batch: Batch) -> Tensor:
        return torch.cat([batch.labels[:, None].to(batch.masks.dtype), batch.masks.flatten(1)], dim=1)

    def context(batch: Batch) -> MaskContext:
        return MaskContext(sample_seeds=batch.seeds)

    classes, masks = _ClassPart(num_classes, label_smoothing), _MaskPart(num_classes)
    return BoundStage(
        module=stages,
        network=stages,
        targets=target,
        context=context,
        loss=lambda outputs, targets: classes.loss(outputs, targets) + mask_weight * masks.loss(outputs, targets),
        divergence=lambda outputs, others: classes.divergence(outputs, others) + mask_weight * masks.divergence(outputs, others),
        scores={"accuracy": classes.accuracy, "iou": masks.iou},
        validation_loss=classes.loss,
        boosted_loss=lambda outputs, targets: classes.boosted(outputs, targets) + mask_weight * masks.loss(outputs, targets),
        confidence=classes.confidence,
    )


@dataclass(frozen=True)
class SeparatelyAttacked(Objective):
    """An objective for the classes + ``mask_weight`` * the same for the masks, each at the points of an attack on its own loss."""

    objective: Objective
    num_classes: int
    mask_weight: float
    label_smoothing: float = 0.0

    def losses(self, stage: BoundStage, batch: Batch, seeds: Seeds) -> Scores:
        """Of a stage that ``bind_joint`` made."""
        classes, masks = _ClassPart(self.num_classes, self.label_smoothing), _MaskPart(self.num_classes)
        of_classes = replace(stage, loss=classes.loss, divergence=classes.divergence)
        of_masks = replace(stage, loss=masks.loss, divergence=masks.divergence)
        found = [self.objective.losses(one, batch, seeds) for one in (of_classes, of_masks)]
        return found[0] + self.mask_weight * found[1]

    def validation_attack(self) -> tuple[PgdConfig, int] | None:
        return self.objective.validation_attack()

    def collapsed(self, scores: Sequence[float]) -> bool:
        return self.objective.collapsed(scores)


class _ClassPart(NamedTuple):
    """What is said of the classes in a row of outputs, by the names of ``BoundStage``."""

    num_classes: int
    label_smoothing: float

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits, labels = outputs[:, : self.num_classes], targets[:, 0].long()
        return classifier_losses.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def divergence(self, outputs: Tensor, others: Tensor) -> Tensor:
        return classifier_losses.kl_divergence(outputs[:, : self.num_classes], others[:, : self.num_classes])

    def boosted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return classifier_losses.boosted_cross_entropy(outputs[:, : self.num_classes], targets[:, 0].long())

    def confidence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return classifier_losses.confidence(outputs[:, : self.num_classes], targets[:, 0].long())

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return classifier_metrics.correct(outputs[:, : self.num_classes], targets[:, 0].long()).float()


class _MaskPart(NamedTuple):
    """The same of the masks."""

    num_classes: int

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return segmenter_losses.bce_dice(_square(outputs[:, self.num_classes :]), _square(targets[:, 1:]))

    def divergence(self, outputs: Tensor, others: Tensor) -> Tensor:
        return segmenter_losses.mask_divergence(_square(outputs[:, self.num_classes :]), _square(others[:, self.num_classes :]))

    def iou(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return segmenter_metrics.intersection_over_union(_square(outputs[:, self.num_classes :]).sigmoid(), _square(targets[:, 1:]))


def _square(pixels: Tensor) -> Tensor:
    """Rows of pixels (B,H*H) as images (B,1,H,H)."""
    side = math.isqrt(pixels.shape[1])
    return pixels.view(len(pixels), 1, side, side)
