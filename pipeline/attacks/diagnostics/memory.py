"""Does the system hold the images that it is examined on?"""

import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from cProfile import Profile
from functools import lru_cache, partial
from types import CellType, FrameType, FunctionType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

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
_FEWEST, _EXACTLY = 16, 1 - 1e-6  # unless they are the same but for rounding
_LEVELS = 4  # values that a row may have to be taken for bits
_BITS_ALIKE, _ONE_SIDED = 0.95, 0.75  # mean product of bits of 1 and -1: 2.5 % are others; and how far from 0 their mean may be
_TELLING = 4  # values of a row that are not all alike, at least: the one of a one-hot row says nothing
_SILENT = 0.03  # of its bias is what a layer may add of an image for its output to be called the bias
_CHANGED = 0.15  # of the range of the noise, in the spread of an image: 4 % apart
_TAKES = dict.fromkeys(("to", "type_as", "expand_as", "view_as", "reshape_as", "__getitem__", "index_select", "gather"), 0)
_TAKES["embedding"] = 1
"""Operations that take the values of one tensor alone, and of others the form or the places."""
_Keep = Callable[[Tensor, bool], None]
"""Given a tensor, and whether the system put it together of parts that it chose by an image."""
_NOT_OF_THE_SYSTEM = ("torch", "pipeline", "segmenter", "classifier")
"""Packages whose variables are none of the system's."""


@torch.no_grad()
def held_images(batch: AttackBatch) -> Bool[Tensor, " batch"]:
    """Images that the system has from elsewhere than what it is asked about: in the weights, buffers or attributes of its modules,
    in variables of its functions, or in anything that it computes with and that is not made of its input. As they are, smaller,
    normalized, in the span of some rows, or as what the system makes of them at any step of its own.

    However softly it is asked, a memory has to be kept somewhere, and has to be held against what is made of an image in the same
    way. The system is asked about noise, and about images that are a little changed, for it may look a known one up by something
    else; what it computes of these is no memory of anything. What notes its last images has noted the noise when it is looked at.
    """
    smaller = [small for size in _SIZES if (small := functional.avg_pool2d(batch.images, size))[0].numel() >= _LEAST]
    noise, seen = noise_like(batch.images), [_standardized(small) for small in smaller]
    changed = batch.images + _CHANGED * (noise - 0.5) * batch.images.std(dim=(1, 2, 3), keepdim=True)
    own: dict[object, Tensor] = {}
    put_together: dict[object, Tensor] = {}  # by the system, of codes: it may be no image, and is what becomes of one by design

    def keep(held: Tensor, composed: bool = False) -> None:
        if not held.is_complex():  # their parts are compared where something is computed with them
            key = _place(held), held.storage_offset(), held.shape, held.stride()
            (put_together if composed else own).setdefault(key, held)

    variables = _variables(batch, {small[0].numel() for small in smaller}, noise, keep)
    for held in _tensors_of(_kept(batch.system)):
        keep(held)
    _watched(batch, changed, keep)
    found = torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)
    for held in (*own.values(), *put_together.values(), *_tensors_of(variables)):
        for image in seen:
            for rows in _rows(held, image[0].numel(), image):
                found |= _alike(image, _standardized(rows.view(-1, *image.shape[1:])))
        for rows in _rows(held, batch.images[0].numel(), batch.images):
            if 1 < len(rows) < rows.shape[1] / 2:
                found |= _in_span(batch.images.flatten(1), rows)
    of_size: dict[int, list[Tensor]] = {}
    for held in own.values():
        for size in _sizes_of(held):
            of_size.setdefault(size, []).append(held)

    def compare(made: Tensor) -> None:
        for values in (made, made.T) if made.ndim == 2 else (made,):
            if values.ndim > 1 and len(values) == len(batch) and values.is_floating_point():
                some = _centered(values.flatten(1).to(batch.images))
                for held in of_size.get(some.shape[1], ()):
                    for rows in _rows(held, some.shape[1], some):
                        found.logical_or_(_alike(some, _centered(rows)) | _same_bits(values.flatten(1).to(some), rows))

    _watched(batch, batch.images, lambda *_: None, compare)
    return found


class _Dataflow(TorchFunctionMode):
    """Tells what a system computes of what it is given from what it computes with and has from elsewhere."""

    def __init__(self, given: Sequence[Tensor], keep: _Keep, made: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.given, self.keep, self.made, self.images = {_place(one) for one in given}, keep, made, len(given[0])
        self.composed: set[int] = set()
        """Where lies what was put together for an image from several parts that were chosen by it, as from a codebook."""

    def __torch_function__(
        self, operation: Callable[..., Any], _types: object, given: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        result = operation(*given, **(named or {}))
        first = _TAKES.get(getattr(operation, "__name__", ""))
        of = (given, named) if first is None else given[first : first + 1]
        inputs, outputs = (_strided(tree_leaves(some)) for some in (of, result))
        places = {_place(one) for one in outputs}
        chosen = first is not None and self._in_parts(tree_leaves((given[:first], given[first + 1 :])))
        composed = chosen or not self.composed.isdisjoint(_place(one) for one in inputs)
        self.composed = self.composed | places if composed else self.composed - places
        if self.given.isdisjoint(_place(one) for one in inputs):
            self.given -= places  # memory that was freed since, and is used again
            held = [*inputs, *outputs]
        else:
            held = [one for one in inputs if _place(one) not in self.given]
            self.given |= places
            for one in outputs:
                self.made(_beside_bias(one, inputs[-1]) if getattr(operation, "__name__", "") == "linear" else one)
        for one in held:
            self.keep(one, _place(one) in self.composed)
        return result

    def _in_parts(self, numbers: Iterable[object]) -> bool:
        """Chosen by what was made of the input, with more than one number for an image."""
        # The others give a form or a type; a choice of nothing is none.
        whole = (one for one in _strided(numbers) if one.ndim and one.numel() and not one.is_floating_point())
        chosen = [one.reshape(len(one), -1) for one in whole if _place(one) in self.given]
        return any(len(one) != self.images or bool((one != one[:, :1]).any()) for one in chosen)


def _beside_bias(made: Tensor, bias: Tensor) -> Tensor:
    """What a linear layer makes, without the rows that are its bias alone: it holds that, and nothing of the image is in it."""
    if made.ndim != 2 or bias.ndim != 1:
        return made
    silent = (made - bias).norm(dim=1) <= _SILENT * (bias - bias.mean()).norm()
    return made.masked_fill(silent[:, None], 0)


def _watched(batch: AttackBatch, points: Images, keep: _Keep, made: Callable[[Tensor], None] = lambda _: None) -> None:
    """Asks about points. ``keep`` is given what the system computes with and has from elsewhere, ``made`` what it makes of them."""
    given = [points, *(one for one in batch.context or () if one is not None)]
    eagerly = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with eagerly, _Dataflow(given, keep, made):  # what was compiled would not be seen
        logits_of(batch, points)


def _variables(batch: AttackBatch, sizes: set[int], noise: Images, keep: _Keep) -> list[object]:
    """Of the functions that run while the system is asked about noise: what they return, what they refer to then, and which global
    variables they name. Feature maps are left out, which would fill the memory, but where a row has one of the sizes."""
    found: list[object] = []

    def watch(frame: FrameType, event: str, returned: Any) -> None:
        if event != "return" or str(frame.f_globals.get("__name__")).partition(".")[0] in _NOT_OF_THE_SYSTEM:
            return
        seen = [returned, *frame.f_locals.values()]
        seen += (frame.f_globals[name] for name in frame.f_code.co_names if name in frame.f_globals)
        found.extend(one for one in seen if not _is_feature_map(one, sizes))

    before: Any = sys.getprofile()
    before_in_threads = threading.getprofile()
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        _watched(batch, noise, keep)
    finally:
        sys.setprofile(before if callable(before) else None)
        if isinstance(before, Profile):  # Python 3.11 gives out the profiler itself
            before.enable()
        threading.setprofile(before_in_threads)
    return found


def noise_like(images: Images) -> Images:
    """The noise that a system is asked about, by a seed that nobody else takes: else it could be what made-up images are."""
    return torch.rand(images.shape, generator=torch.Generator().manual_seed(7_340_119_652)).to(images)


def _is_feature_map(one: object, sizes: set[int]) -> bool:
    return isinstance(one, Tensor) and one.ndim > 2 and sizes.isdisjoint(one.shape[first:].numel() for first in range(one.ndim))


def _place(held: Tensor) -> int:
    return held.untyped_storage().data_ptr()


def _strided(some: Iterable[object]) -> list[Tensor]:
    """Tensors that lie in memory."""
    tensors = [one for one in some if isinstance(one, Tensor) and one.layout == torch.strided]
    return [one for one in tensors if not (one.is_quantized or one.is_meta)]


def _sizes_of(held: Tensor) -> set[int]:
    """Of the rows that it may be taken for."""
    sizes = {held.shape[first:].numel() for first in range(held.ndim)} | ({len(held)} if held.ndim == 2 else set())
    return {size for size in sizes if size >= _FEWEST}


def _rows(held: Tensor, size: int, like: Tensor) -> Iterator[Tensor]:
    """What is held, as rows of so many values: where its last dimensions have so many, and where the columns of a matrix have."""
    if any(held.shape[first:].numel() == size for first in range(held.ndim)):
        yield held.detach().reshape(-1, size).to(like)
    if held.ndim == 2 and len(held) == size:
        yield held.detach().T.to(like)


def _centered(rows: Tensor) -> Tensor:
    """Without their means, and zero where next to nothing else is in them: such rows are alike by chance."""
    centered = rows - rows.mean(dim=1, keepdim=True)
    squares = centered.square()
    telling = squares.sum(dim=1).square() >= _TELLING * squares.square().sum(dim=1)
    return centered * telling[:, None]


def _standardized(images: Images) -> Images:
    """Each color without its mean and of one length."""
    centered = images - images.mean(dim=(2, 3), keepdim=True)
    return functional.normalize(centered.flatten(2), dim=2).view_as(images)


def _alike(some: Tensor, rows: Tensor) -> Tensor:
    """Which of them a row is alike, or of few values the same. One that is alike most of them says nothing of any: what a module
    gives to every image."""
    least = _ALIKE if some[0].numel() >= _LEAST else _EXACTLY
    alike = functional.normalize(some.flatten(1)) @ functional.normalize(rows.flatten(1)).T > least
    return (alike & (alike.double().mean(dim=0) <= _MOST)).any(dim=1)


def _same_bits(some: Tensor, rows: Tensor) -> Tensor:
    """Which of them are above and below their median where a row of few levels is."""
    none = torch.zeros(len(some), dtype=torch.bool, device=some.device)
    if some.shape[1] < _LEAST:
        return none
    rows = rows[_levels(rows[:, :_LEAST]) <= _LEVELS]  # most rows show by their first values that they have many
    bits = 2.0 * (rows > (rows.amin(dim=1, keepdim=True) + rows.amax(dim=1, keepdim=True)) / 2) - 1
    bits = bits[(_levels(rows) <= _LEVELS) & (bits.mean(dim=1).abs() < _ONE_SIDED)]  # not the one of a one-hot row
    if not len(bits):
        return none
    own = 2.0 * (some > some.median(dim=1, keepdim=True).values) - 1
    alike = own @ bits.T / some.shape[1] > _BITS_ALIKE
    return (alike & (alike.double().mean(dim=0) <= _MOST)).any(dim=1)


def _levels(rows: Tensor) -> Tensor:
    """How many values are in each row."""
    ordered = rows.sort(dim=1).values
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)


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
            yield from _strided([one] if not one.is_complex() else [])
        elif isinstance(one, np.ndarray):
            if one.dtype.kind in "fiu":
                yield torch.from_numpy(one.astype(np.float32))  # of any byte order, and writable
        elif isinstance(one, FunctionType):
            queue += [*(one.__closure__ or ()), one.__defaults__]
        elif isinstance(one, _CONTAINERS):
            queue += gc.get_referents(one)
