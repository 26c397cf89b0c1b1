"""Does the system hold the images that it is examined on?"""

import gc
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import CellType, FunctionType

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.diagnostics.probing import Images, logits_of
from pipeline.attacks.start import AttackBatch
from pipeline.system import System

_ALIKE = 0.9998
"""Cosine of what is held and what it is taken for: 2 % apart. Rows of a classifier that are the mean of a class are further from
any image of it."""
_MOST = 0.5
_OUTSIDE = 1e-3  # of an image, that may lie outside of the span of some rows: rounding to 8 bits alone leaves more of an unseen one
_SIZES = (1, 2, 4)
_CONTAINERS = (dict, list, tuple, set, frozenset, deque, partial, CellType)
_LEAST = 48  # values: what has fewer may be alike by chance


@torch.no_grad()
def held_images(batch: AttackBatch, others: AttackBatch) -> Bool[Tensor, " batch"]:
    """Images that lie in the weights, buffers or attributes of the system's modules: as they are, smaller, normalized, in the span
    of some rows, or as what one of its modules makes of them.

    However softly it is asked, a memory has to be kept somewhere; one that is kept elsewhere (a file, a global variable) is not
    found. ``others`` are shown to the system before it is looked at: what notes its last images has noted these then.
    """
    made = _outputs(batch, {held.shape[first:].numel() for held in _tensors_of(batch.system) for first in range(held.ndim)})
    logits_of(others)
    found = torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)
    seen = [_standardized(small) for size in _SIZES if (small := functional.avg_pool2d(batch.images, size))[0].numel() >= _LEAST]
    for held in _tensors_of(batch.system):
        for image in seen:
            if (rows := _rows(held, image[0].numel(), image)) is not None:
                found |= _alike(image, _standardized(rows.view(-1, *image.shape[1:])))
        for one in made:
            if (rows := _rows(held, one.shape[1], one)) is not None:
                found |= _alike(one, rows)
        if (rows := _rows(held, batch.images[0].numel(), batch.images)) is not None and 1 < len(rows) < rows.shape[1] / 2:
            found |= _in_span(batch.images.flatten(1), rows)
    return found


def _outputs(batch: AttackBatch, sizes: set[int]) -> list[Tensor]:
    """What the system's modules make of the images, flat, where it has one of the sizes and is no larger than an image."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, made: object) -> None:
        if isinstance(made, Tensor) and made.is_floating_point() and made.ndim > 1 and len(made) == len(batch):
            size = made[0].numel()
            if size in sizes and _LEAST <= size <= batch.images[0].numel():
                found.append(made.flatten(1).to(batch.images))

    hooks = [part.register_forward_hook(keep) for part in batch.system.modules() if not isinstance(part, torch.jit.ScriptModule)]
    try:
        logits_of(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rows(held: Tensor, size: int, like: Tensor) -> Tensor | None:
    """What is held, as rows of so many values, where its last dimensions have so many."""
    for first in range(held.ndim):
        if held.shape[first:].numel() == size:
            return held.detach().reshape(-1, size).to(like)
    return None


def _standardized(images: Images) -> Images:
    """Each color without its mean and of one length."""
    centered = images - images.mean(dim=(2, 3), keepdim=True)
    return functional.normalize(centered.flatten(2), dim=2).view_as(images)


def _alike(some: Tensor, rows: Tensor) -> Tensor:
    """Which of them a row is alike. One that is alike most of them says nothing of any: what a module gives to every image."""
    alike = functional.normalize(some.flatten(1)) @ functional.normalize(rows.flatten(1)).T > _ALIKE
    return (alike & (alike.double().mean(dim=0) <= _MOST)).any(dim=1)


def _in_span(images: Tensor, rows: Tensor) -> Tensor:
    """Next to nothing of the images, or of what they differ by from their mean, lies outside of the span of the rows."""
    basis = torch.linalg.qr(rows.double().T).Q
    found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for some in (images.double(), (images - images.mean(dim=0)).double()):
        found |= (some - some @ basis @ basis.T).norm(dim=1) < _OUTSIDE * some.norm(dim=1)
    return found


def _tensors_of(system: System) -> Iterator[Tensor]:
    """In the attributes of its modules, and in containers, functions and closures there; global variables are not looked at."""
    queue: list[object] = [list(system.parameters()), *(vars(part) for part in system.modules())]
    seen: set[int] = set()
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            if one.layout == torch.strided and not (one.is_complex() or one.is_quantized or one.is_meta):
                yield one
        elif isinstance(one, np.ndarray):
            if one.dtype.kind in "fiu":
                yield torch.from_numpy(one)
        elif isinstance(one, FunctionType):
            queue += [*(one.__closure__ or ()), one.__defaults__]
        elif isinstance(one, _CONTAINERS):
            queue += gc.get_referents(one)
