"""What is likely to be wrong with somebody's own system and images, though nothing forbids it: a sentence with the remedy."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.evaluation.inputs import doubt_about, fill_unit_interval
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Logits
from pipeline.system import System, TwoStage, attacked

_ANSWERS = 1e-2
"""Share of the largest logit by which answers may differ: rounding in bfloat16 is less than half of it."""
_REPEATED = 0.05


@torch.no_grad()
def doubts_about(system: System, images: Images, context: MaskContext | None, logits: Logits) -> Iterator[str]:
    """What is doubtful about a system that gave these logits for some clean images."""
    if (doubt := doubt_about(system, images, logits)) is not None:
        yield doubt
    elif fill_unit_interval(logits):
        yield (
            "the outputs fill [0,1], as probabilities of a sigmoid do: attacks take them for logits, whose gradient vanishes where"
            " it is sure, so that robustness is overestimated; leave it out, if there is one"
        )
    with attacked(system):
        again = system(images, context)
        alone = torch.cat([system(images[row : row + 1], _row(context, row)) for row in range(len(images))])
    remedy = "what is found is chance in part; give a system whose answer is a function of the image"
    if not _alike(logits, again):
        yield f"the system says something else of the same images at every call (dropout or noise in eval mode?): {remedy}"
    elif not _alike(logits, alone):
        yield (
            "the system's answer to an image depends on the other images of the batch (batch norm without running statistics, or in"
            f" train mode?): {remedy}"
        )
    side = system.image_size if isinstance(system, TwoStage) else None
    if side is not None and tuple(images.shape[2:]) != (side, side):
        given = " x ".join(map(str, images.shape[2:]))
        yield f"the system was trained on images of {side} x {side} pixels, and these have {given}: resize them"


def _row(context: MaskContext | None, row: int) -> MaskContext | None:
    return None if context is None else MaskContext(*(None if value is None else value[row : row + 1] for value in context))


def _alike(one: Tensor, other: Tensor) -> bool:
    finite = one[one.isfinite()].abs()
    return torch.allclose(one, other, rtol=0, atol=_ANSWERS * float(finite.detach().max() if len(finite) else 1))


class Repeats:
    """Counts images that were there before, to the byte."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._num_images = 0

    def add(self, images: Images) -> None:
        self._num_images += len(images)
        self._seen |= {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.cpu().numpy()}

    def doubt(self) -> str | None:
        """A sentence where more than a few were."""
        repeated = self._num_images - len(self._seen)
        if repeated <= _REPEATED * self._num_images:
            return None
        return (
            f"{repeated} of the {self._num_images} images of the data are copies of others of them (an IterableDataset gives each"
            " worker all images unless it shares them out): intervals count every one as another image"
        )
