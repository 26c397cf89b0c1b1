"""Training on noisy images, for classifiers that are to be smoothed."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.config import Number, configuration
from pipeline.training.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.loader import Batch
    from pipeline.training.tasks import BoundStage


@configuration
class NoiseConfig(Objective):
    """Training on images plus Gaussian noise, for randomized smoothing (Cohen et al. 2019, https://arxiv.org/abs/1902.02918).

    The best epoch is chosen by the score on validation images without noise.
    """

    name: Literal["noise"] = "noise"
    """the stage's loss on images plus Gaussian noise"""
    deviation: Annotated[Number, Field(ge=0, le=10)] = 0.25
    """Standard deviation of the noise, in images of [0,1], which are not clipped: that of the smoothing to come."""

    def points(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        """Images plus noise of their seeds; they leave [0,1] where the noise does."""
        from pipeline.randomness import normal

        del stage
        images = batch.images
        return images + self.deviation * normal(seeds, tuple(images.shape[1:]), dtype=images.dtype)
