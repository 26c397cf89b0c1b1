"""Gates: from a segmenter's logits to masks."""

import math
from typing import Literal

from pipeline.masks.config import MaskConfig
from pipeline.shapes import Masks


def soft_gate(mask_logits: Masks) -> Masks:
    """Foreground probability: the sigmoid. In float32 it is exactly 1, without a gradient, above logits of about 17."""
    return mask_logits.sigmoid()


def hard_gate(mask_logits: Masks, *, threshold: float, surrogate: Literal["identity", "sigmoid"]) -> Masks:
    """Exactly 0 or 1 forwards (probability above ``threshold``), a straight-through gradient backwards.

    Backwards the gate is the identity on the logits (Bengio et al. 2013, https://arxiv.org/abs/1308.3432), which never vanishes, or
    the sigmoid, which weighs pixels by their doubt. The surrogate sits here, in the system, so that every attack has it (the idea
    of BPDA: Athalye et al. 2018, https://arxiv.org/abs/1802.00420). The logits are finite.
    """
    hard = (mask_logits > math.log(threshold / (1 - threshold))).to(mask_logits.dtype)
    smooth = mask_logits if surrogate == "identity" else mask_logits.sigmoid()
    return hard + (smooth - smooth.detach())  # the bracket is exactly 0, so the sum is exactly hard


def soft(_config: MaskConfig, mask_logits: Masks) -> Masks:
    """The gate of the sources ``learned`` and ``frozen``."""
    return soft_gate(mask_logits)


def hard(config: MaskConfig, mask_logits: Masks) -> Masks:
    """The gate of the source ``learned-hard``."""
    return hard_gate(mask_logits, threshold=config.threshold, surrogate=config.surrogate)
