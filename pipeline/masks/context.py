"""What a batch brings along for its masks and fills."""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.shapes import Indices


class MaskContext(NamedTuple):
    """What travels with a batch besides its images: everything per sample, in the order of the batch.

    A named tuple, because Lightning Fabric refuses frozen dataclasses among the arguments of a wrapped module.
    """

    oracle_masks: Tensor | None = None
    """(B,1,H,W), foreground share in [0,1]."""
    frozen_masks: Tensor | None = None
    """(B,1,H,W) in [0,1], predicted on the clean images: ``TwoStage.freeze`` fills it in."""
    substitutes: Tensor | None = None
    """(B,1,H,W) in [0,1]: masks in place of the oracle's, other images' or random ones, as the data set gives them."""
    sample_seeds: Tensor | None = None
    """(B,), int64: decides random masks and noise fills."""

    def select(self, indices: Indices) -> "MaskContext":
        """The context of some images of the batch, in the order of ``indices``."""
        return MaskContext(*(None if value is None else value[indices] for value in self))

    def to(self, device: torch.device) -> "MaskContext":
        """The same on another device."""
        return MaskContext(*(None if value is None else value.to(device, non_blocking=True) for value in self))


def required(value: Tensor | None, needed_by: str, what: str) -> Tensor:
    """The value. Raises ValueError where the context has none; ``needed_by`` and ``what`` go into its one line."""
    if value is None:
        remedy = ": give (images, labels, masks), or masks=..." if what == "oracle masks" else ""
        raise ValueError(f"{needed_by} needs {what}, and the context has none{remedy}")
    return value
