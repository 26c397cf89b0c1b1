"""Misclassification-aware adversarial training."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.config import Number, configuration
from pipeline.training.objectives import RobustObjective, StepPasses

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.loader import Batch
    from pipeline.training.tasks import BoundStage


@configuration
class MartConfig(RobustObjective):
    """Training on attacked images, with more weight on those that the classifier is unsure of without attack.

    Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS. For classifiers, and for both stages together: its boosted
    cross-entropy is of classes, whose labels are not smoothed. Other than in the authors' code, the attack starts where ``attack``
    says (there at Gaussian noise of deviation 0.001), and nothing is added to the probabilities in logarithms (there 1e-12).
    """

    name: Literal["mart"] = "mart"
    """boosted cross-entropy of attacked images + weight * divergence from clean outputs * (1 - clean probability of the label)"""
    weight: Annotated[Number, Field(ge=0, le=1e6)] = 5.0
    """Weight of the divergence, 0 or more (the paper's lambda)."""

    @property
    def for_segmenters(self) -> bool:
        """Its losses are of classes."""
        return False

    @property
    def smooths_labels(self) -> bool:
        """Its formula has no place for it."""
        return False

    @property
    def step_passes(self) -> StepPasses:
        """Clean and attacked images are trained on."""
        return super().step_passes._replace(trained=2)

    def losses_at(self, stage: "BoundStage", batch: "Batch", points: "Tensor") -> "Tensor":
        """Gradients flow through both outputs and through the weight of an image, as in the authors' code."""
        assert stage.boosted_loss is not None
        assert stage.confidence is not None
        context, targets = stage.context(batch), stage.targets(batch)
        clean = stage.training_outputs(batch.images, context)
        outputs = stage.training_outputs(points, context)
        doubt = 1 - stage.confidence(clean, targets)
        return stage.boosted_loss(outputs, targets) + self.weight * doubt * stage.divergence(outputs, clean)
