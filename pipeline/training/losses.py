"""The attacked images of training and of its validation.

Attacks run on the bare network in eval mode with its parameters frozen (``system.attacked``), in float32 or on a copy of it in
bfloat16, so they leave no trace in parameter gradients and batch statistics. Their random starts depend on the images' seeds alone,
so neither the batch an image is in nor an interruption changes them.
"""

import torch
from torch import Tensor

from pipeline.attacks.config import PgdConfig
from pipeline.attacks.objectives import ModelObjective, Score
from pipeline.attacks.pgd import pgd
from pipeline.data.loader import Batch
from pipeline.randomness import derive_seeds, normal
from pipeline.shapes import Images, Seeds
from pipeline.system import attacked
from pipeline.training.tasks import BoundStage

TRADES_START_DEVIATION = 1e-3
"""Standard deviation of the noise from which the attack of TRADES starts, as in the authors' code: at the clean image itself the
divergence is at its minimum and has no gradient."""


def attacked_images(stage: BoundStage, batch: Batch, attack: PgdConfig, *, seeds: Seeds) -> Images:
    """The last point of an attack that climbs the stage's loss: Madry et al. 2018, https://arxiv.org/abs/1706.06083.

    Of the mask sources, those that follow the image follow the attacked one; all others stay as the clean image has them.
    """
    return _climbed(stage, batch, attack, seeds=seeds, score=stage.loss, targets=stage.targets(batch), start=None)


def diverging_images(stage: BoundStage, batch: Batch, attack: PgdConfig, *, seeds: Seeds) -> Images:
    """The last point of an attack that climbs the divergence from the clean outputs (of the network in eval mode), starting at the
    image plus Gaussian noise of deviation 0.001: that of TRADES, Zhang et al. 2019, https://arxiv.org/abs/1901.08573."""
    with attacked(stage.network), torch.no_grad():
        reference = stage.outputs(batch.images, stage.context(batch))
    noise = normal(seeds, tuple(batch.images.shape[1:]), dtype=batch.images.dtype)
    start = torch.add(batch.images, noise, alpha=TRADES_START_DEVIATION)
    return _climbed(stage, batch, attack, seeds=seeds, score=stage.divergence, targets=reference, start=start)


def worst_case_images(stage: BoundStage, batch: Batch, *, attack: PgdConfig, seeds: Seeds) -> Images:
    """The best point of the ball around each image that an attack on the stage's validation loss visits."""
    objective = ModelObjective(
        model=stage.network,
        score=stage.validation_loss or stage.loss,
        targets=(stage.targets(batch),),
        context=stage.context(batch),
    )
    with attacked(stage.network):
        return pgd(attack, objective, batch.images, seeds=derive_seeds(seeds, 0))


def _climbed(
    stage: BoundStage, batch: Batch, attack: PgdConfig, *, seeds: Tensor, score: Score, targets: Tensor, start: Tensor | None
) -> Tensor:
    network = stage.attacked_network(batch.images)
    objective = ModelObjective(model=network, score=score, targets=(targets,), context=stage.context(batch))
    with attacked(network):
        return pgd(attack, objective, batch.images, seeds=seeds, start=start, keep_best=False)
