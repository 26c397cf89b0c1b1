"""Losses of training on attacked images, one per image.

Attacks run on the bare network in eval mode with its parameters frozen (``system.attacked``), in float32 or on a copy of it in
bfloat16, so they leave no trace in parameter gradients and batch statistics. Their random starts depend on the images' seeds alone,
so neither the batch an image is in nor an interruption changes them.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.attacks.config import PgdConfig
from pipeline.attacks.objectives import ModelObjective, Score
from pipeline.attacks.pgd import pgd
from pipeline.data.loader import Batch
from pipeline.masks.context import MaskContext
from pipeline.randomness import derive_seeds, normal
from pipeline.system import attacked
from pipeline.training.tasks import BoundStage

TRADES_START_DEVIATION = 1e-3
"""Standard deviation of the noise from which the attack of TRADES starts, as in the authors' code: at the clean image itself the
divergence is at its minimum and has no gradient."""


def adversarial(stage: BoundStage, batch: Batch, *, attack: PgdConfig, seeds: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The stage's loss at the last point of an attack that climbs it: Madry et al. 2018, https://arxiv.org/abs/1706.06083.

    Of the mask sources, ``learned`` and ``learned-hard`` follow the attacked image; all others stay as the clean image has them.
    """
    context, targets = stage.context(batch), stage.targets(batch)
    images = _attacked_images(stage, batch, context, attack, seeds=seeds, score=stage.loss, targets=targets, start=None)
    return stage.loss(stage.training_outputs(images, context), targets)


def trades(
    stage: BoundStage, batch: Batch, *, attack: PgdConfig, beta: float, seeds: Int64[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Clean loss + beta * divergence between attacked and clean outputs: Zhang et al. 2019, https://arxiv.org/abs/1901.08573.

    The attack climbs the divergence from the clean outputs (of the network in eval mode), starting at the image plus Gaussian
    noise of deviation 0.001. Gradients flow through both arguments of the divergence in the loss. As in the authors' code, but
    that the clean outputs are computed once and not twice.
    """
    context = stage.context(batch)
    with attacked(stage.network), torch.no_grad():
        reference = stage.outputs(batch.images, context)
    noise = normal(seeds, tuple(batch.images.shape[1:]), dtype=batch.images.dtype)
    start = torch.add(batch.images, noise, alpha=TRADES_START_DEVIATION)
    images = _attacked_images(stage, batch, context, attack, seeds=seeds, score=stage.divergence, targets=reference, start=start)
    clean = stage.training_outputs(batch.images, context)
    divergence = stage.divergence(stage.training_outputs(images, context), clean)
    return stage.loss(clean, stage.targets(batch)) + beta * divergence


def worst_case_images(
    stage: BoundStage, batch: Batch, *, attack: PgdConfig, seeds: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch 3 height width"]:
    """The best point of the ball around each image that an attack on the stage's validation loss visits."""
    objective = ModelObjective(
        model=stage.network,
        score=stage.validation_loss or stage.loss,
        targets=(stage.targets(batch),),
        context=stage.context(batch),
    )
    with attacked(stage.network):
        return pgd(attack, objective, batch.images, seeds=derive_seeds(seeds, 0))


def _attacked_images(
    stage: BoundStage,
    batch: Batch,
    context: MaskContext | None,
    attack: PgdConfig,
    *,
    seeds: Tensor,
    score: Score,
    targets: Tensor,
    start: Tensor | None,
) -> Tensor:
    network = stage.network if stage.copies is None else stage.copies.latest(batch.images)
    objective = ModelObjective(model=network, score=score, targets=(targets,), context=context)
    with attacked(network):
        return pgd(attack, objective, batch.images, seeds=seeds, start=start, keep_best=False)
