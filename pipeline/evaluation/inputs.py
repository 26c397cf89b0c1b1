"""Images, labels, masks and models of somebody's own: checked before they are used, each mistake with what would be right.

An attack on images in 0..255, or on probabilities in place of logits, runs without a complaint and finds a robustness that is
none. What cannot be is refused with ``InputError``, what is only likely to be wrong is a ``UserWarning``.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from pipeline.attacks.objectives import are_probabilities
from pipeline.attacks.tracker import WRITES_INTO_IMAGES, of_as_many_classes
from pipeline.errors import InputError, kind_and_words, said
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Labels, Logits, Masks
from pipeline.system import Maskless, System, TwoStage, as_system, attacked, check_mask_shape, with_attackable_mask

GREY = "grey images have one channel, say {}.expand(-1, 3, -1, -1)"
_FEW_MASKS = 4  # of fewer one odd picture decides
_ENDS = 0.1  # how near 0 and 1 the least and the largest probability of a mask come


class OwnBatch(NamedTuple):
    """Checked images with their labels."""

    images: Images
    labels: Labels
    masks: Masks | None

    def select(self, rows: Int64[np.ndarray, " some"]) -> "OwnBatch":
        """Some of the images, in the order of ``rows``."""
        chosen = torch.from_numpy(rows)
        return OwnBatch(*(None if values is None else values[chosen.to(values.device)] for values in self))  # type: ignore[arg-type]


def checked_system(system: object) -> System:
    """A module as a system. Raises InputError for what is no module or has no eval mode, and for weights of less than 32 bits."""
    try:
        wrapped = as_system(system)
        if isinstance(system, nn.Module) and (empty := without_values(system)) is not None:
            raise InputError(f"the system's {empty} has no values yet: run it on an image, or load its weights, first")
        with attacked(wrapped):
            return wrapped
    except TypeError as error:
        raise InputError(f"{error}; give an object of a class that derives from torch.nn.Module") from error
    except InputError:
        raise
    except (ValueError, AttributeError, RuntimeError) as error:
        remedy = "give a module in float32 that has an eval mode, not what torch.export or torch.jit.freeze makes of it"
        raise InputError(f"the system cannot be attacked: {said(error)}; {remedy}") from error


def without_values(module: nn.Module) -> str | None:
    """The first parameter or buffer that has no values yet, of a lazy module or on the meta device; else None."""
    return next((name for name, value in module.state_dict().items() if is_lazy(value) or value.is_meta), None)


def device_of(system: System) -> torch.device:
    """Where the system's weights lie; the CPU for one without any."""
    return next((parameter.device for parameter in system.parameters()), torch.device("cpu"))


def checked_images(images: object) -> Images:
    """Images as float32 (B,3,H,W) in [0,1]; float64 stays. Raises InputError with the remedy."""
    tensor = _tensor("images", images)
    if tensor.dtype == torch.uint8:
        raise InputError("images are uint8, 0 to 255: make them floats in [0,1], images.float() / 255")
    if tensor.ndim == 3:
        remedy = "a batch of one is images[None]" if 3 in (len(tensor), tensor.shape[2]) else GREY.format("images[:, None]")
        raise InputError(f"images have the shape {tuple(tensor.shape)}: {remedy}")
    if tensor.ndim != 4 or tensor.shape[1] != 3:
        raise InputError(f"images have the shape {tuple(tensor.shape)}, expected (batch, 3, height, width){_layout(tensor)}")
    if not len(tensor):
        raise InputError("images are an empty batch: there is nothing to attack")
    if not tensor.is_floating_point():
        raise InputError(f"images are {tensor.dtype}, expected floats in [0,1]: say images.float() / 255 if they go up to 255")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise InputError(f"images are {tensor.dtype}: a small perturbation is lost in its rounding; say images.float()")
    low, high = float(tensor.min()), float(tensor.max())
    if not low >= 0 or not high <= 1:  # a NaN is neither
        raise InputError(f"images go from {low:.4g} to {high:.4g}, expected [0,1]{_range(low, high)}")
    if 0 < high <= 1 / 255:
        warnings.warn(f"images go up to {high:.2g}, all but black: they look as if they were divided by 255 twice", stacklevel=3)
    return tensor


def _layout(tensor: Tensor) -> str:
    if tensor.ndim == 4 and tensor.shape[-1] == 3:
        return ": the channels are last, say images.permute(0, 3, 1, 2)"
    if tensor.ndim == 4 and tensor.shape[1] == 1:
        return f": {GREY.format('images')}"
    return ""


def _range(low: float, high: float) -> str:
    if low >= 0 and high <= 255:
        return ": divide them by 255"
    if low > -10 and high < 10:
        return ": they look normalised; give them as they are, and normalise in the first layer of the system"
    return ""


def checked_labels(labels: object, *, count: int, num_classes: int | None = None) -> Int64[Tensor, " batch"]:
    """Labels as int64 (B,) in [0, ``num_classes``). Raises InputError with the remedy."""
    tensor = _tensor("labels", labels)
    if tensor.ndim == 2 and len(tensor) == count and tensor.shape[1] > 1:
        raise InputError(f"labels have the shape {tuple(tensor.shape)}: if they are one-hot, say labels.argmax(1)")
    if tuple(tensor.shape) != (count,):
        raise InputError(f"labels have the shape {tuple(tensor.shape)}, expected ({count},): one class index an image")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        if tensor.is_floating_point() and not (tensor == tensor.long()).all():  # .long() would make other labels of them
            raise InputError(f"labels are {tensor.dtype}, not all of them whole numbers; expected class indices")
        raise InputError(f"labels are {tensor.dtype}, expected class indices: say labels.long()")
    tensor = tensor.long()
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        classes = "" if num_classes is None else f" to {num_classes - 1}: the system has {num_classes} classes"
        raise InputError(f"labels go from {low} to {high}, expected 0{classes or ' or more'}")
    return tensor


def checked_masks(masks: object, images: Tensor) -> Masks:
    """Masks as (B,1,H,W) in [0,1], in the images' type; (B,H,W) and booleans are taken. Raises InputError with the remedy."""
    tensor = _tensor("masks", masks)
    tensor = tensor.unsqueeze(1) if tensor.ndim == 3 else tensor
    expected = (len(images), 1, *images.shape[2:])
    if tuple(tensor.shape) != expected:
        raise InputError(f"masks have the shape {tuple(tensor.shape)}, expected {expected} as the images")
    if tensor.dtype == torch.uint8 and int(tensor.max()) > 1:
        raise InputError("masks are uint8 up to 255: make them foreground shares in [0,1], masks.float() / 255")
    tensor = tensor.to(images.dtype)
    if not float(tensor.min()) >= 0 or not float(tensor.max()) <= 1:
        low, high = float(tensor.min()), float(tensor.max())
        remedy = ": divide them by 255" if low >= 0 and 2 < high <= 255 else ""
        raise InputError(f"masks go from {low:.4g} to {high:.4g}, expected foreground shares in [0,1]{remedy}")
    if (doubt := _doubt_about_masks(tensor)) is not None:
        warnings.warn(doubt, stacklevel=3)
    return tensor


def _doubt_about_masks(masks: Masks) -> str | None:
    """Why most masks of a batch look as if they were none, or of the background."""
    inside = (masks >= 0.5).flatten(1).float()
    if 2 * int((inside.sum(dim=1) == 0).sum()) > len(masks):
        return "most masks have no foreground, that is no share of 0.5 or more: are they empty, or were they divided by 255 twice?"
    border = torch.ones(masks.shape[2:], dtype=torch.bool, device=masks.device)
    border[1:-1, 1:-1] = False
    within = ~border.flatten()
    if len(masks) < _FEW_MASKS or not within.any():
        return None
    at_border, inner = inside[:, ~within].mean(dim=1), inside[:, within].mean(dim=1)
    if 2 * int(((at_border > 0.5) & (inner < at_border)).sum()) > len(masks):
        return "in most masks the border is foreground, and what lies within is less so: is 1 the background? 1 is the object"
    return None


@torch.no_grad()
def checked_logits(system: System, images: Images, context: MaskContext | None, *, batch_size: int = 0) -> Logits:
    """What the system says of clean images, in eval mode; its own mode is restored. ``batch_size`` is the size of the batches that
    it will be asked in, where that is known.

    Raises InputError for outputs that are no logits (B,K) of 2 classes or more, not finite, or of less than 32 bits, for a
    system that takes batches of one size alone, and for one whose classes or earlier answers depend on what else it is asked.
    """
    refused, answers = [], []
    for count in sorted({1, len(images), max(1, batch_size)}) if len(images) > 1 else ():
        last = torch.full((count,), len(images) - 1, device=images.device)
        try:
            answers.append(_outputs(system, images[last], None if context is None else context.select(last)))
        except InputError as error:
            refused.append(error)
    if refused and answers:
        if str(refused[0]) == WRITES_INTO_IMAGES:
            raise refused[0]
        remedy = "a dynamic first dimension where it is traced, batch norms in eval mode, no squeeze()"
        raise InputError(f"the system has to take batches of any size, for attacks leave images out ({remedy}): {refused[0]}")
    before = [answer.clone() for answer in answers]
    logits = _outputs(system, images, context)
    of_as_many_classes([*answers, logits])
    if not images.is_cuda and not all(map(torch.equal, answers, before)):  # CUDA graphs look after their memory themselves
        raise InputError("the system writes its answer over the last one: return a tensor of its own, say logits.clone()")
    return logits


def _outputs(system: System, images: Images, context: MaskContext | None) -> Logits:
    given = images.clone()
    try:
        with attacked(system):
            if not isinstance(system, Maskless | TwoStage):  # ours looks at what its segmenter answers itself
                check_mask_shape(system.masks(given, context), given)
            # A bare module is asked itself: what it returns may be anything, and its own name for it helps.
            logits: Any = system.module(given) if isinstance(system, Maskless) else system(given, context)
    except InputError:
        raise
    except Exception as error:  # of somebody's own code, which may raise anything
        of_type = next((parameter.dtype for parameter in system.parameters() if parameter.is_floating_point()), images.dtype)
        other = f" in {images.dtype} (its weights are {of_type}: make both one)" if of_type != images.dtype else ""
        # What torch and we say stands for itself, a KeyError is but a word.
        words = said(error, 300) if isinstance(error, ValueError | TypeError | RuntimeError | AssertionError) else ""
        raise InputError(
            f"the system does not take images {tuple(images.shape)}{other}: {words or kind_and_words(error)}"
        ) from error
    if not torch.equal(given, images):
        raise InputError(WRITES_INTO_IMAGES)
    check_outputs(logits, len(images))
    assert isinstance(logits, Tensor)
    return logits


def check_outputs(outputs: object, count: int) -> None:
    """Raises InputError where outputs of ``count`` images are no logits (B,K), with the remedy."""
    if isinstance(outputs, Mapping):
        keys = ", ".join(map(str, outputs))
        raise InputError(f"the model returns a dictionary ({keys}): wrap it in a module that returns the logits alone")
    if not isinstance(outputs, Tensor):
        what = f"{type(outputs).__name__} of {len(outputs)}" if isinstance(outputs, tuple | list) else type(outputs).__name__
        raise InputError(f"the model returns a {what}, not a tensor: wrap it in a module that returns the logits alone")
    if outputs.ndim != 2 or len(outputs) != count or outputs.shape[1] < 2:
        shape = f"({count}, classes) with 2 classes or more"
        raise InputError(f"the model returns the shape {tuple(outputs.shape)} for {count} images, expected logits {shape}")
    if not outputs.is_floating_point() or outputs.layout != torch.strided:
        kind = str(outputs.dtype if outputs.layout == torch.strided else outputs.layout)
        raise InputError(f"the model returns {kind}, expected logits: dense floats, neither rounded nor compared with anything")
    if outputs.dtype.itemsize < 4:
        rounding = "its rounding hides what a small perturbation does"
        raise InputError(f"the model returns {outputs.dtype} and {rounding}: compute in float32, without autocast")
    if (outputs.isnan() | outputs.isposinf()).any():  # minus infinity is how some systems rule a class out
        raise InputError("the model returns values that are not finite for clean images: attacks compare them")


@torch.no_grad()
def doubt_about(system: System, images: Images, logits: Logits) -> str | None:
    """Why outputs of a system look like something else than logits, its own or those of its mask, and what to do; else None."""
    doubt, staged = doubt_about_logits(logits), with_attackable_mask(system)
    if doubt is not None or staged is None:
        return doubt
    with attacked(system):
        outputs = staged.mask_logits(images)
    if fill_unit_interval(outputs):
        return (
            "the segmenter's outputs look like probabilities (they fill [0,1]): they are taken for logits, whose sigmoid then lies"
            " between 0.5 and 0.73, and hides nothing; leave the segmenter's own sigmoid out"
        )
    return None


def fill_unit_interval(outputs: Tensor) -> bool:
    """Whether they are what a sigmoid gives: it may be chance, for a cosine of features lies there too."""
    low, high = (float(end) for end in outputs.detach().aminmax())
    return 0 <= low < _ENDS and 1 - _ENDS < high <= 1


def doubt_about_logits(logits: Logits) -> str | None:
    """Why the outputs look like something else than logits, and what to do; None where they do not."""
    if are_probabilities(logits):
        return (
            "the outputs look like probabilities (each row sums to 1): attacks take them for logits, whose gradients then vanish"
            " where the model is sure, and robustness is overestimated; leave the softmax out (of an ensemble"
            " take the logsumexp of its members' log_softmax)"
        )
    return None


def own_batches(data: Any) -> Iterator[OwnBatch]:
    """The batches of a loader, checked but for the number of classes. Raises InputError with the remedy."""
    for doubt in _doubts_about_loader(data):
        warnings.warn(f"the loader {doubt}", stacklevel=3)
    at_hand = isinstance(data, tuple | list) and 2 <= len(data) <= 3 and all(isinstance(one, Tensor | np.ndarray) for one in data)
    one_by_one = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    if isinstance(data, Tensor | np.ndarray | Mapping | nn.Module) or not isinstance(data, Iterable) or at_hand or one_by_one:
        remedy = "say DataLoader(data, batch_size=64)" if one_by_one else "for tensors at hand say [(images, labels)]"
        raise InputError(
            f"data is a {type(data).__name__}, expected batches of (images, labels) or (images, labels, masks), or the path of a"
            f" prepared data set: {remedy}"
        )
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, tuple | list | Mapping) else type(batch).__name__
            remedy = ""
            if isinstance(batch, Mapping):
                remedy = f": say ((batch[IMAGES], batch[LABELS]) for batch in loader), its keys are {', '.join(map(str, batch))}"
            raise InputError(f"a batch of the data is a {what}, expected (images, labels) or (images, labels, masks){remedy}")
        yield checked_batch(*batch)


def _doubts_about_loader(data: Any) -> Iterator[str]:
    if not isinstance(data, DataLoader):
        return
    if getattr(data.batch_sampler, "drop_last", data.drop_last):
        yield "leaves the last images out where they fill no batch; say drop_last=False"
    sampler = getattr(data.batch_sampler, "sampler", data.sampler)  # beside a batch sampler of one's own the other says nothing
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        yield f"gives one of {sampler.num_replicas} shares of the images alone; leave the DistributedSampler out"
    elif isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        if getattr(sampler, "replacement", False):
            yield "draws images again and again, and intervals count each as another one; say shuffle=False"
        else:
            yield (
                "shuffles: images are known by their position, so what two evaluations found cannot be compared image by image; say"
                " shuffle=False"
            )


def checked_batch(images: object, labels: object, masks: object = None) -> OwnBatch:
    """Images, labels and masks, if there are any, checked but for the number of classes."""
    pictures = checked_images(images)
    outlines = None if masks is None else checked_masks(masks, pictures)
    return OwnBatch(pictures, checked_labels(labels, count=len(pictures)), outlines)


_STACK = "of a list of tensors torch.stack(...), of pictures torchvision's to_tensor of each"
_REMEDIES = {"images": _STACK, "masks": _STACK, "labels": "whole numbers, the index of each image's class"}


def _tensor(name: str, values: object) -> Tensor:
    if isinstance(values, Tensor):
        if values.is_meta or values.layout != torch.strided:
            raise InputError(f"{name} are a tensor {'without values' if values.is_meta else values.layout}, expected a dense one")
        return values.detach()
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"{name} are a {type(values).__name__}, expected a tensor"
        raise InputError(f"{what} ({_REMEDIES[name]}): {said(error)}") from error
