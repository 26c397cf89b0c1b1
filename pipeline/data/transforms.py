"""Augmentation of an image and its mask together, with every draw a function of (seed, epoch, sample)."""

import os
import random
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pipeline.data.config import AugmentConfig

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask a server for news

import albumentations
import cv2


class Augmentation:
    """An albumentations pipeline whose randomness is set for every sample anew.

    ``__call__(image (S,S,3) uint8, mask (S,S) uint8, seed)`` returns the varied pair; pixels that move in from outside repeat the
    border of both, so that an object which the border cuts stays one. Not to be shared between threads.
    """

    def __init__(self, config: AugmentConfig) -> None:
        steps: list[Any] = []
        if config.horizontal_flip:
            steps.append(albumentations.HorizontalFlip(p=0.5))
        if config.shift or config.scale or config.rotation:
            steps.append(
                albumentations.Affine(
                    translate_percent=(-config.shift, config.shift),
                    scale=(1 - config.scale, 1 + config.scale),
                    rotate=(-config.rotation, config.rotation),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_LINEAR,
                    border_mode=cv2.BORDER_REPLICATE,
                    p=1.0,
                )
            )
        if config.brightness or config.contrast:
            limits = {"brightness_limit": config.brightness, "contrast_limit": config.contrast}
            steps.append(albumentations.RandomBrightnessContrast(**limits, p=1.0))
        if config.noise:
            steps.append(albumentations.GaussNoise(std_range=(0.0, config.noise), per_channel=True, p=1.0))
        self._pipeline = albumentations.Compose(steps)

    def __call__(
        self, image: UInt8[np.ndarray, "side side 3"], mask: UInt8[np.ndarray, "side side"], *, seed: int
    ) -> tuple[UInt8[np.ndarray, "side side 3"], UInt8[np.ndarray, "side side"]]:
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        varied = self._pipeline(image=image, mask=mask)
        return varied["image"], varied["mask"]
