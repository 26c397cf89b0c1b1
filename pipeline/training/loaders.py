"""The batches of a training: the images of a split that this process reads, and whether a stage can train on so many at a time."""

from copy import deepcopy

import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.data.loader import Loader
from pipeline.data.splits import Split
from pipeline.errors import ConfigError
from pipeline.training.tasks import Training


def split_loader(training: Training, fabric: Fabric, split: Split) -> Loader:
    """The share of this process: training images in full batches, varied; others as they are."""
    trains, config = split == "train", training.trainer
    return Loader(
        training.dataset,
        split,
        batch_size=config.batch_size if trains else config.eval_batch_size,
        seed=config.seed,
        augment=training.augment if trains else None,
        shuffle=True,  # also for measuring: the first images are then a fair choice
        drop_last=trains,
        num_workers=config.num_workers if trains else 0,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )


def check_batches(training: Training, fabric: Fabric, train_loader: Loader) -> None:
    """Raise ConfigError for batches that cannot be shared, or that batch normalization has no variance of."""
    batch_size, num_processes = training.trainer.batch_size, fabric.world_size
    num_images = min(batch_size, train_loader.num_samples)
    if num_processes > 1 and num_images < batch_size:
        raise ConfigError(f"trainer.batch_size: larger than the train split ({num_images} images)")
    share = num_images // (num_processes if fabric.device.type == "cpu" else 1)
    _check_normalization(training.module, share, training.dataset.image_size)


def _check_normalization(module: nn.Module, num_images: int, image_size: int) -> None:
    """Batch normalization needs two values a channel. Nothing is computed, and the module is not touched."""
    shape = deepcopy(module).to("meta").train()
    try:
        with torch.no_grad():
            shape(torch.empty(num_images, 3, image_size, image_size, device="meta"))
    except (ValueError, RuntimeError) as error:  # RuntimeError: a layer that cannot do without numbers
        if "more than 1 value per channel" in str(error):
            images = f"{num_images} image{'s' * (num_images > 1)} of {image_size} px"
            raise ConfigError(
                f"trainer.batch_size: batch normalization cannot train on {images} at a time, where one value a channel is left of"
                " them; raise it, prepare more or larger training images, or choose a network that halves them less often"
            ) from error
