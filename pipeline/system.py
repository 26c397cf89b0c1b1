"""The joint module: segmenter, gate, fill and classifier as one function of the image, and its state while it is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline import masks as masking
from pipeline.masks import Fill, MaskConfig, MaskContext, MaskSource

_CONSTANT_COLOURS = {Fill.BLACK: (0.0, 0.0, 0.0), Fill.GREY: (0.5, 0.5, 0.5)}
_NO_CONTEXT = MaskContext()
Module = TypeVar("Module", bound=nn.Module)


class TwoStage(nn.Module):
    """Images to class logits, through a mask. Differentiable in the images through everything; nothing is remembered between calls.

    ``forward(images, context) = classify(images, masks(images, context), context)``: an attack that needs the parts (one path's
    gradient, the mask logits) calls them itself.

    Training trains the classifier only: the segmenter handed over is frozen for good. Its parameters need no gradient and it stays
    in eval mode whatever ``train`` is told, so its batch statistics do not drift.
    """

    colour: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        *,
        masking: MaskConfig,
        segmenter: nn.Module | None = None,
        mean_colour: tuple[float, float, float] | None = None,
    ) -> None:
        """Join two stages, classifier (B,3,H,W) -> (B,K) and segmenter (B,3,H,W) -> (B,1,H,W) logits.

        ``mean_colour`` is the mean of the training images, red, green and blue in [0,1]: what the fill ``mean`` fills with.
        Raises ValueError where the mask source needs a segmenter or the fill a mean colour and there is none.
        """
        super().__init__()
        if masking.source.is_learned and segmenter is None:
            raise ValueError(f"the mask source {masking.source.value!r} needs a segmenter")
        if masking.fill is Fill.MEAN and mean_colour is None:
            raise ValueError("the fill 'mean' needs the mean colour of the training images")
        self.classifier = classifier
        self.segmenter = segmenter.eval().requires_grad_(False) if segmenter is not None else None
        self.masking = masking
        colour = mean_colour if masking.fill is Fill.MEAN else _CONSTANT_COLOURS.get(masking.fill, (0.0, 0.0, 0.0))
        self.register_buffer("colour", torch.tensor(colour).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "TwoStage":
        """Set the mode of the classifier; the segmenter stays in eval mode."""
        super().train(mode)
        if self.segmenter is not None:
            self.segmenter.eval()
        return self

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], context: MaskContext | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Class logits. Images are in [0,1]; the context carries what mask source and fill need, else ValueError."""
        if self.masking.source is MaskSource.NONE:
            logits: Tensor = self.classifier(images)
            return logits
        return self.classify(images, self.masks(images, context), context)

    def masks(
        self, images: Float[Tensor, "batch 3 height width"], context: MaskContext | None = None
    ) -> Float[Tensor, "batch 1 height width"]:
        """The masks that the classifier sees the images through, in [0,1]."""
        if self.masking.source.is_learned:
            return self.gate(self.mask_logits(images))
        return masking.given_masks(self.masking, images, context or _NO_CONTEXT)

    def mask_logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """What the segmenter says, before the gate, whatever the mask source. Raises ValueError where there is no segmenter."""
        if self.segmenter is None:
            raise ValueError("this system has no segmenter, so it has no mask logits")
        # Under autocast a segmenter answers in half precision; the mask meets the image in the image's.
        logits: Tensor = self.segmenter(images).to(images.dtype)
        return logits

    def gate(self, mask_logits: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """Mask logits to masks: thresholded for ``learned-hard``, else the probability."""
        if self.masking.source is MaskSource.LEARNED_HARD:
            return masking.hard_gate(mask_logits, threshold=self.masking.threshold, surrogate=self.masking.surrogate)
        return masking.soft_gate(mask_logits)

    def masked_images(
        self,
        images: Float[Tensor, "batch 3 height width"],
        masks: Float[Tensor, "batch 1 height width"],
        context: MaskContext | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """What the classifier sees: the images where the masks are 1, the fill where they are 0."""
        fills = masking.fill_images(self.masking, images, context or _NO_CONTEXT, colour=self.colour.to(images.dtype))
        return masking.apply_mask(images, masks, fills)

    def classify(
        self,
        images: Float[Tensor, "batch 3 height width"],
        masks: Float[Tensor, "batch 1 height width"],
        context: MaskContext | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Class logits of the images seen through given masks: detach one of the two to attack the other's path alone."""
        logits: Tensor = self.classifier(self.masked_images(images, masks, context))
        return logits

    @torch.no_grad()
    def freeze(self, images: Float[Tensor, "batch 3 height width"], context: MaskContext | None = None) -> MaskContext:
        """The context with what has to be taken from the clean images: call it on them once, before training on or attacking them.

        For the source ``frozen`` it adds the segmenter's probability on these images; for all others it changes nothing.
        """
        context = context or _NO_CONTEXT
        if self.masking.source is not MaskSource.FROZEN:
            return context
        return context._replace(frozen_masks=masking.soft_gate(self.mask_logits(images)))


@contextmanager
def attacked(module: Module) -> Iterator[Module]:
    """A module as it has to be while it is attacked: eval mode, no parameter with a gradient, no autocast.

    Afterwards, also after an exception, every submodule has its own mode back and every parameter its own ``requires_grad``. Pass
    the inner module, not the wrapper of Fabric or DDP. Raises ValueError for weights of less than 32 bits: their rounding hides
    what a small perturbation does.
    """
    parameters = list(module.parameters())
    half = next((p.dtype for p in parameters if p.is_floating_point() and p.dtype.itemsize < 4), None)
    if half is not None:
        raise ValueError(f"attacks need weights in float32 or wider, these are {half}")
    modes = [(part, part.training) for part in module.modules()]
    needing_gradient = [parameter for parameter in parameters if parameter.requires_grad]
    device = parameters[0].device.type if parameters else "cpu"
    try:
        module.eval()
        for parameter in needing_gradient:
            parameter.requires_grad_(False)
        with torch.autocast(device, enabled=False):
            yield module
    finally:
        for parameter in needing_gradient:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode
