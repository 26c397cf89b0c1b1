"""Does the system hold the images that it is examined on?"""

import gc
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from types import CellType, FrameType, FunctionType
from typing import Any

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
_CONTAINERS = (dict, list, tuple, set, frozenset, deque, partial, CellType, type(lru_cache(repr)))
_LEAST = 48  # values: what has fewer may be alike by chance
_NOT_OF_THE_SYSTEM = ("torch", "pipeline", "segmenter", "classifier")
"""Packages whose variables are none of the system's."""


@torch.no_grad()
def held_images(batch: AttackBatch) -> Bool[Tensor, " batch"]:
    """Images that lie in the weights, buffers or attributes of the system's modules, or in variables of its functions while it is
    asked about noise: as they are, smaller, normalized or in the span of some rows; in its modules also as what one of these makes
    of them (what it makes of noise, a variable too, may be much like it).

    However softly it is asked, a memory has to be kept somewhere; one of a file or of a global variable is in the variables of
    whoever asks it. What notes its last images has noted the noise when it is looked at.
    """
    smaller = [small for size in _SIZES if (small := functional.avg_pool2d(batch.images, size))[0].numel() >= _LEAST]
    system = batch.system
    made = _outputs(batch, {held.shape[first:].numel() for held in _tensors_of(_kept(system)) for first in range(held.ndim)})
    variables = _variables(batch, {small[0].numel() for small in smaller})
    found = torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)
    seen = [_standardized(small) for small in smaller]
    kept = [(held, made) for held in _tensors_of(_kept(system))]
    for held, made_alike in kept + [(held, []) for held in _tensors_of(variables)]:
        for image in seen:
            if (rows := _rows(held, image[0].numel(), image)) is not None:
                found |= _alike(image, _standardized(rows.view(-1, *image.shape[1:])))
        for one in made_alike:
            if (rows := _rows(held, one.shape[1], one)) is not None:
                found |= _alike(one, rows)
        if (rows := _rows(held, batch.images[0].numel(), batch.images)) is not None and 1 < len(rows) < rows.shape[1] / 2:
            found |= _in_span(batch.images.flatten(1), rows)
    return found


def _variables(batch: AttackBatch, sizes: set[int]) -> list[object]:
    """Of the functions that run while the system is asked about noise: what they return, what they refer to then, and which global
    variables they name. Feature maps are left out, which would fill the memory, but where a row has one of the sizes."""
    found: list[object] = []

    def watch(frame: FrameType, event: str, returned: Any) -> None:
        if event != "return":
            return
        seen = [returned]
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _NOT_OF_THE_SYSTEM:
            seen += frame.f_locals.values()
            seen += (frame.f_globals[name] for name in frame.f_code.co_names if name in frame.f_globals)
        found.extend(one for one in seen if not _is_feature_map(one, sizes))

    noise, before = noise_like(batch.images), sys.getprofile()
    sys.setprofile(watch)
    try:
        logits_of(batch, noise)
    finally:
        sys.setprofile(before)
    return found


def noise_like(images: Images) -> Images:
    """The noise that a system is asked about, by a seed that nobody else takes: else it could be what made-up images are."""
    return torch.rand(images.shape, generator=torch.Generator().manual_seed(7_340_119_652)).to(images)


def _is_feature_map(one: object, sizes: set[int]) -> bool:
    return isinstance(one, Tensor) and one.ndim > 2 and sizes.isdisjoint(one.shape[first:].numel() for first in range(one.ndim))


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


def _kept(system: System) -> list[object]:
    return [list(system.parameters()), *(vars(part) for part in system.modules())]


def _tensors_of(variables: Iterable[object]) -> Iterator[Tensor]:
    """In some variables, and in containers, functions and closures there."""
    queue = list(variables)
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
                yield torch.from_numpy(one.astype(np.float32))  # of any byte order, and writable
        elif isinstance(one, FunctionType):
            queue += [*(one.__closure__ or ()), one.__defaults__]
        elif isinstance(one, _CONTAINERS):
            queue += gc.get_referents(one)
