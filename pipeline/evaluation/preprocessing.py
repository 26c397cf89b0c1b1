"""A system that expects images otherwise than from 0 to 1: a figure near chance that says nothing of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from scipy.stats import binomtest
from torch import Tensor

from classifier.model import IMAGENET_MEAN, IMAGENET_STD
from pipeline.attacks.start import AttackBatch
from pipeline.shapes import Images, Labels
from pipeline.system import attacked

SHOWN = 64
"""How many images a system is shown in other ways."""
_SURE = 1e-3
_WAYS: Mapping[str, Callable[[Images], Images]] = {
    "from 0 to 255": lambda images: 255 * images,
    "from -1 to 1": lambda images: 2 * images - 1,
    "less ImageNet's mean, over its standard deviation": lambda images: (
        (images - images.new_tensor(IMAGENET_MEAN)[:, None, None]) / images.new_tensor(IMAGENET_STD)[:, None, None]
    ),
    "with blue as the first channel": lambda images: images.flip(1),
}


@torch.no_grad()
def doubts_about_preprocessing(batch: AttackBatch) -> Iterator[str]:
    """A sentence where the system is right on clearly more of the images in another range or order of their channels, and on more
    than as many answers of each class are by chance (labels may be numbered otherwise): two tests at 0.1 %, which take ten images
    that are right in the other way alone."""
    right = _answers(batch) == batch.labels
    found = {}
    for way, change in _WAYS.items():
        with suppress(Exception):  # somebody's own code may refuse what it does not expect
            answers = _answers(replace(batch, images=change(batch.images)))
            otherwise = answers == batch.labels
            gained, changed = int((otherwise & ~right).sum()), int((otherwise ^ right).sum())
            by_chance = float((answers[:, None] == batch.labels).double().mean())
            if changed and _exceeds(gained, changed, 0.5) and _exceeds(int(otherwise.sum()), len(batch), by_chance):
                found[way] = int(otherwise.sum())
    if found:
        way, most = max(found.items(), key=lambda one: one[1])
        yield (
            f"the system is right on {int(right.sum())} of {len(batch)} images as they are given, and on {most} given"
            f" {way}: if it was trained so, do that in its first layer (images stay in [0,1], where epsilon is counted)"
        )


def _answers(batch: AttackBatch) -> Labels:
    with attacked(batch.system):
        logits: Tensor = batch.system(batch.images, batch.context)
    return logits.argmax(dim=1)


def _exceeds(count: int, total: int, chance: float) -> bool:
    return bool(binomtest(count, total, chance, alternative="greater").pvalue < _SURE)
