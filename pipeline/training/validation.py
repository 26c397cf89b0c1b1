"""What is measured on a split between epochs: means over images of the loss and the scores."""

import math
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from pipeline.attacks.config import PgdConfig
from pipeline.data.loader import Batch, Loader
from pipeline.randomness import derive_seeds
from pipeline.system import attacked
from pipeline.training.losses import worst_case_images
from pipeline.training.tasks import BoundStage

_ATTACK_STREAM = 0x7661_6C69  # sets these starting points apart from those of training


def measure(
    stage: BoundStage, loader: Loader, fabric: Fabric, *, batch_size: int, attack: tuple[PgdConfig, int] | None = None
) -> dict[str, float]:
    """Means over the images of a loader's split: ``loss``, every score of the stage and, with an attack, ``robust_<score>``.

    The robust score of an image is the lower one of the clean and the attacked image; it is averaged over so many images as
    ``attack`` names beside the attack, the first in the loader's order of epoch 0. ``batch_size`` is the loader's. All processes
    get the same result. Raises FloatingPointError where a mean is not a finite number, or the attack meets a NaN loss.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    position = fabric.global_rank
    for batch in loader.epoch(0):
        values = _values(stage, batch.to(fabric.device))
        if attack is not None:
            # Rank r holds the elements r, r + world size, ... of each global batch.
            own = range(position, position + len(batch) * fabric.world_size, fabric.world_size)
            chosen = sum(place < attack[1] for place in own)
            values |= _robust_values(stage, batch[:chosen].to(fabric.device), attack[0]) if chosen else {}
        position += batch_size
        for name, value in values.items():
            sums[name] = sums.get(name, torch.zeros((), device=fabric.device)) + value.sum()
            counts[name] = counts.get(name, 0) + len(value)
    names = ["loss", *stage.scores, *([f"robust_{stage.score_name}"] if attack else [])]
    totals = torch.stack([sums.get(name, torch.zeros((), device=fabric.device)) for name in names])
    numbers = totals.new_tensor([counts.get(name, 0) for name in names])
    both: Any = fabric.all_reduce(torch.stack([totals, numbers]), reduce_op="sum")
    means = {name: total / number for name, total, number in zip(names, *both.tolist(), strict=True)}
    for name, mean in means.items():
        if not math.isfinite(mean):
            raise FloatingPointError(f"the {name.replace('_', ' ')} is {mean}")
    return means


def _values(stage: BoundStage, batch: Batch) -> dict[str, Tensor]:
    with attacked(stage.network), torch.no_grad():
        outputs = stage.outputs(batch.images, stage.context(batch))
        targets = stage.targets(batch)
        return {"loss": stage.loss(outputs, targets)} | {name: score(outputs, targets) for name, score in stage.scores.items()}


def _robust_values(stage: BoundStage, batch: Batch, attack: PgdConfig) -> dict[str, Tensor]:
    images = worst_case_images(stage, batch, attack=attack, seeds=derive_seeds(batch.seeds, _ATTACK_STREAM))
    context, targets, score = stage.context(batch), stage.targets(batch), stage.scores[stage.score_name]
    with attacked(stage.network), torch.no_grad():
        lower = torch.minimum(*(score(stage.outputs(points, context), targets) for points in (batch.images, images)))
    return {f"robust_{stage.score_name}": lower}
