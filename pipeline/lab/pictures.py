"""Tensors as pictures for people."""

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor


def picture(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """An image in [0,1]."""
    return _bytes(image.permute(1, 2, 0))


def grey(mask: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """A mask in [0,1]: white is let through."""
    return _bytes(mask)


def magnified(
    image: Float[Tensor, "3 height width"], clean: Float[Tensor, "3 height width"], largest: float | None
) -> tuple[UInt8[np.ndarray, "height width 3"], float]:
    """The change from the clean image, grey where there is none, and by how much it is magnified.

    ``largest`` is the change of a channel value that is shown as black or white; None: the largest that there is.
    """
    change = image - clean
    limit = float(change.abs().max()) if largest is None else largest
    factor = 0.5 / limit if limit else 1.0
    return _bytes((0.5 + factor * change).permute(1, 2, 0)), factor


def _bytes(values: Tensor) -> np.ndarray:
    return values.mul(255).round().clamp(0, 255).byte().cpu().numpy()
