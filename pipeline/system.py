"""Systems: what is attacked and evaluated, as one function of the image.

Attacks, evaluation and diagnostics rely on ``System`` alone. Any module from images to logits is one, without a mask
(``as_system``). ``TwoStage`` joins our two stages; somebody's own model has a mask by having the methods of ``System``, and one
that can be attacked by itself by having those of ``StagedSystem``. What only some systems can do is asked for, never assumed.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import validate
from pipeline.errors import InputError
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.masks.fills import apply_mask, fill_images
from pipeline.masks.gates import soft_gate
from pipeline.masks.sources import given_masks
from pipeline.masks.traits import MaskTraits
from pipeline.shapes import Images, Logits, Masks

if TYPE_CHECKING:
    from pipeline.data.loader import Batch

_CONSTANT_COLORS = {Fill.BLACK: (0.0, 0.0, 0.0), Fill.GREY: (0.5, 0.5, 0.5)}
_NO_CONTEXT = MaskContext()


@runtime_checkable
class System(Protocol):
    """An ``nn.Module`` from images in [0,1] to class logits that says through which mask it sees them.

    Both functions take images and the context of the batch, of which each uses what it needs. They are functions of the
    image: the same in every batch and at every call.
    """

    @property
    def mask_traits(self) -> MaskTraits:
        """What kind of mask it is."""
        ...

    def __call__(self, images: Tensor, context: MaskContext | None = None, /) -> Any:
        """Class logits (B,K) of images (B,3,H,W)."""
        ...

    def masks(self, images: Tensor, context: MaskContext | None = None, /) -> Tensor:
        """The masks (B,1,H,W) in [0,1] that the images are seen through, in the images' type; all ones where there is none."""
        ...

    # What every nn.Module has, as far as an attack needs it.
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def eval(self) -> Any: ...


@runtime_checkable
class StagedSystem(System, Protocol):
    """A system whose two ways from the image to the class, through the pixels and through the mask, can be gone alone:
    ``system(images) == classify(images, gate(mask_logits(images)))`` where the mask follows the image."""

    def mask_logits(self, images: Tensor, /) -> Tensor:
        """What the mask is made from, before the gate: (B,1,H,W), above 0 rather foreground."""
        ...

    def gate(self, mask_logits: Tensor, /) -> Tensor:
        """Mask logits to masks in [0,1]."""
        ...

    def classify(self, images: Tensor, masks: Tensor, context: MaskContext | None = None, /) -> Tensor:
        """Class logits of images seen through given masks."""
        ...


@runtime_checkable
class FreezingSystem(System, Protocol):
    """A system that has to see the clean images before they are attacked."""

    def freeze(self, images: Tensor, context: MaskContext | None = None, /) -> MaskContext:
        """The context with what was taken from the clean images, in the order of the batch."""
        ...


@runtime_checkable
class MadeOfStages(Protocol):
    """A module made of networks that may be replaced by faster ones: attacks then search on a copy (``attacks.acceleration``)."""

    def map_stages(self, change: Callable[[nn.Module], nn.Module], /) -> None:
        """Replace every stage by what ``change`` makes of it: a module from images to the same outputs."""
        ...


def traits_of(system: System) -> MaskTraits:
    """The traits of a system's mask, with what its methods allow."""
    return replace(system.mask_traits, has_logits=isinstance(system, StagedSystem))


def with_attackable_mask(system: System) -> StagedSystem | None:
    """The system, if its mask follows the image and can be attacked by itself; else None."""
    return system if system.mask_traits.follows_image and isinstance(system, StagedSystem) else None


def masks_and_logits(system: System, images: Images, context: MaskContext | None = None) -> tuple[Masks, Logits]:
    """What the system sees the images through and what it says of them; the mask is made once where the system allows it."""
    masks = system.masks(images, context)
    return masks, system.classify(images, masks, context) if isinstance(system, StagedSystem) else system(images, context)


def clean_context(system: System, images: Images, context: MaskContext) -> MaskContext:
    """The context with what the system takes from the clean images, where it takes anything."""
    return system.freeze(images, context) if isinstance(system, FreezingSystem) else context


def context_of(batch: "Batch") -> MaskContext:
    """What a batch of a data set brings along for the masks and fills of a system."""
    return MaskContext(oracle_masks=batch.masks, substitutes=batch.substitutes, sample_seeds=batch.seeds)


def as_system(module: object) -> System:
    """The module itself where it is a ``System``, else the module as a system without a mask.

    Raises TypeError for what is no ``nn.Module``.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"a system is a torch.nn.Module from images to logits, not {type(module).__name__}")
    return module if isinstance(module, System) else Maskless(module)


class Maskless(nn.Module):
    """A module (B,3,H,W) -> (B,K) as a system without a mask: the context plays no part. Built by ``as_system``."""

    mask_traits = MaskTraits()

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Images, context: MaskContext | None = None) -> Logits:
        """The module's logits. Raises ValueError for outputs of another shape."""
        del context
        logits: Tensor = self.module(images)
        if logits.ndim != 2 or len(logits) != len(images):
            raise ValueError(f"a system gives logits (images, classes), not {tuple(logits.shape)} for {len(images)} images")
        return logits

    def masks(self, images: Images, context: MaskContext | None = None) -> Masks:
        """All ones."""
        del context
        return images.new_ones(len(images), 1, *images.shape[2:])

    def map_stages(self, change: Callable[[nn.Module], nn.Module]) -> None:
        """Replace the module."""
        self.module = change(self.module)


class TwoStage(nn.Module):
    """Images to class logits, through a mask. Differentiable in the images through everything; nothing is remembered between calls.

    ``forward(images, context) = classify(images, masks(images, context), context)``: an attack that needs the parts (one path's
    gradient, the mask logits) calls them itself.

    Training trains the classifier only: the segmenter handed over is frozen for good. Its parameters need no gradient and it stays
    in eval mode whatever ``train`` is told, so its batch statistics do not drift.

    Examples:
        >>> segmenter = nn.Conv2d(3, 1, 1)
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> system = TwoStage(classifier, segmenter=segmenter, masks="learned", fill="grey")
        >>> images = torch.rand(4, 3, 8, 8)
        >>> system(images).shape, system.masks(images).shape
        (torch.Size([4, 10]), torch.Size([4, 1, 8, 8]))
    """

    color: Tensor
    image_size: int | None = None
    """Side in pixels of the images that the stages were trained on; None where that is not known."""

    def __init__(
        self,
        classifier: nn.Module,
        *,
        segmenter: nn.Module | None = None,
        masks: MaskConfig | MaskSource | str = MaskSource.LEARNED,
        fill: Fill | str | None = None,
        mean_color: Sequence[float] | Tensor | np.ndarray | None = None,
    ) -> None:
        """Join two stages, classifier (B,3,H,W) -> (B,K) and segmenter (B,3,H,W) -> (B,1,H,W) logits.

        ``masks`` is a configuration or the name of a mask source alone; ``fill``, if given, takes the place of the configuration's.
        ``mean_color`` is the mean of the training images, red, green and blue in [0,1]: what the fill ``mean`` fills with.
        Raises ValueError for an unknown name, and where the mask source needs a segmenter or the fill a mean color and there is
        none.
        """
        super().__init__()
        config = masks if isinstance(masks, MaskConfig) else validate(MaskConfig, {"source": masks})
        if fill is not None:
            config = validate(MaskConfig, {**vars(config), "fill": fill})
        if config.source.is_learned and segmenter is None:
            raise ValueError(f"the mask source {config.source.value!r} needs a segmenter")
        if config.fill == Fill.MEAN and mean_color is None:
            raise ValueError("the fill 'mean' needs the mean color of the training images")
        for name, stage in (("classifier", classifier), ("segmenter", segmenter)):
            if not isinstance(stage, nn.Module) and not (name == "segmenter" and stage is None):
                raise InputError(f"the {name} is a {type(stage).__name__}, expected a torch.nn.Module")
        mean_color = mean_color.tolist() if isinstance(mean_color, Tensor | np.ndarray) else mean_color
        if mean_color is not None and not _is_color(mean_color):
            raise InputError(f"the mean color is {mean_color}, expected red, green and blue in [0,1]")
        self.classifier = classifier
        self.segmenter = segmenter.eval().requires_grad_(False) if segmenter is not None else None
        self.mask_config = config
        self.mask_traits = MaskTraits.of(config)
        color = mean_color if config.fill == Fill.MEAN else _CONSTANT_COLORS.get(config.fill, (0.0, 0.0, 0.0))
        self.register_buffer("color", torch.tensor(color).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "TwoStage":
        """Set the mode of the classifier; the segmenter stays in eval mode."""
        super().train(mode)
        if self.segmenter is not None:
            self.segmenter.eval()
        return self

    def forward(self, images: Images, context: MaskContext | None = None) -> Logits:
        """Class logits. Images are in [0,1]; the context carries what mask source and fill need, else ValueError."""
        if self.mask_config.source == MaskSource.NONE:
            logits: Tensor = self.classifier(images)
            return logits
        return self.classify(images, self.masks(images, context), context)

    def masks(self, images: Images, context: MaskContext | None = None) -> Masks:
        """The masks that the classifier sees the images through, in [0,1]."""
        if self.mask_config.source.is_learned:
            return self.gate(self.mask_logits(images))
        return given_masks(self.mask_config, images, context or _NO_CONTEXT)

    def mask_logits(self, images: Images) -> Masks:
        """What the segmenter says, before the gate, whatever the mask source. Raises ValueError where there is no segmenter, and
        InputError where it answers with anything else than one number a pixel of each image."""
        if self.segmenter is None:
            raise ValueError("this system has no segmenter, so it has no mask logits")
        # Under autocast a segmenter answers in half precision; the mask meets the image in the image's.
        outputs = self.segmenter(images)
        if not isinstance(outputs, Tensor):
            keys = f" ({', '.join(map(str, outputs))})" if isinstance(outputs, Mapping) else ""
            what = f"{type(outputs).__name__}{keys}"
            raise InputError(f"the segmenter returns a {what}: wrap it in a module that returns the mask logits alone")
        if not torch.compiler.is_compiling():  # there a shape may be a symbol
            check_mask_shape(outputs, images)
        return outputs.to(images.dtype)

    def gate(self, mask_logits: Masks) -> Masks:
        """Mask logits to masks: thresholded for ``learned-hard``, else the probability."""
        source = self.mask_config.source
        masks: Tensor = source.function()(self.mask_config, mask_logits) if source.needs_segmenter else soft_gate(mask_logits)
        return masks

    def masked_images(self, images: Images, masks: Masks, context: MaskContext | None = None) -> Images:
        """What the classifier sees: the images where the masks are 1, the fill where they are 0."""
        fills = fill_images(self.mask_config, images, context or _NO_CONTEXT, color=self.color.to(images.dtype))
        return apply_mask(images, masks, fills)

    def classify(self, images: Images, masks: Masks, context: MaskContext | None = None) -> Logits:
        """Class logits of the images seen through given masks: detach one of the two to attack the other's path alone."""
        logits: Tensor = self.classifier(self.masked_images(images, masks, context))
        return logits

    @torch.no_grad()
    def freeze(self, images: Images, context: MaskContext | None = None) -> MaskContext:
        """The context with what has to be taken from the clean images: call it on them once, before training on or attacking them.

        For the source ``frozen`` it adds the segmenter's probability on these images; for all others it changes nothing.
        """
        context = context or _NO_CONTEXT
        if self.mask_config.source.needs != "frozen":
            return context
        return context._replace(frozen_masks=self.gate(self.mask_logits(images)))

    def map_stages(self, change: Callable[[nn.Module], nn.Module]) -> None:
        """Replace classifier and segmenter by what ``change`` makes of them."""
        self.classifier = change(self.classifier)
        if self.segmenter is not None:
            self.segmenter = change(self.segmenter)


def check_mask_shape(masks: Tensor, images: Tensor) -> None:
    """Raises InputError for masks of another shape than (B,1,H,W): many would be spread over the images without a complaint, and
    of as many images as channels (B,H,W) would lay the masks of all on each."""
    expected = (len(images), 1, *images.shape[2:])
    if tuple(masks.shape) != expected:
        remedy = "resize what the segmenter returns to its images, and keep one channel, above 0 for the object"
        raise InputError(
            f"the mask has the shape {tuple(masks.shape)} for images {tuple(images.shape)}, expected {expected}: {remedy}"
        )


def _is_color(color: object) -> bool:
    if not isinstance(color, Sequence) or len(color) != 3:
        return False
    return all(isinstance(share, int | float | np.floating) and 0 <= share <= 1 for share in color)


Module = TypeVar("Module", bound=nn.Module | System)


@torch.no_grad()
def deep_copy(module: Module) -> Module:
    """A copy that shares nothing with the module. With gradients the weights of a scripted copy would depend on its own.

    Raises InputError where ``__deepcopy__`` of somebody's own gives the module itself, or one that holds parts or weights of it:
    what is done to the copy would be done to the module.
    """
    copied = copy.deepcopy(module)
    parts, others = ([*one.modules()] for one in (module, copied))  # held, for a scripted module makes new ones whenever asked
    if not {id(part) for part in parts}.isdisjoint(id(part) for part in others) or not _memory(parts).isdisjoint(_memory(others)):
        raise InputError("a deep copy of the system shares parts or weights with it: let __deepcopy__ copy all, or leave it out")
    return copied


def _memory(parts: Sequence[nn.Module]) -> set[int]:
    """Where weights and buffers lie."""
    held = (tensor for part in parts for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)))
    return {tensor.untyped_storage().data_ptr() for tensor in held if tensor.layout == torch.strided} - {0}


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
