"""Does the system answer the same image the same, whoever asks, when, how and beside what?

An attack, its verdict and the deployed system ask in different ways: with gradients and without, in batches that shrink, of a copy.
What differs between them is a place to hide. Each way of asking is compared with asking for all images at once, without gradients.
"""

import datetime
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.attacks.acceleration import copy_to_search
from pipeline.attacks.diagnostics.check import Check, judged, skipped
from pipeline.attacks.diagnostics.gradients import FEW
from pipeline.attacks.diagnostics.probing import (
    SEARCHED,
    Connected,
    Images,
    Places,
    floored,
    fresh_copy,
    gradients,
    in_float64,
    logits_of,
    next_of_another_class,
    objective,
    scale_of,
)
from pipeline.attacks.pgd import pgd_in
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import BestPoint, of_as_many_classes
from pipeline.errors import said
from pipeline.system import attacked, deep_copy

_REPEATS = 8
_ROUNDING = 1e-4  # of the scale of the logits
_OTHER_TYPE = 1e-2  # likewise, in float64; what bfloat16 rounds off may be larger than the gap between classes
_HAIR, _NUDGES = 1e-6, 4
_GRADIENT_ROUNDING, _FAINT = 0.1, 0.01
"""Of the gradient's length; a shorter one counts as long as this share of their median, for rounding may be all there is of it."""
_SEARCHED, _LATE = 4 / 255, 16
"""How far and in how many steps a search goes whose last step is looked at."""
_OTHER_SEED = 1_730_947
_DAY = 90_077  # in seconds, and an odd bit more: some count hours


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """A way of asking."""

    name: str
    ask: Callable[[AttackBatch], Tensor]
    """Something for each image of the batch, in its order."""
    tolerance: float = _ROUNDING
    optional: bool = False
    """A module of somebody's own may refuse: to forbid copies or another type is no cheat by itself."""
    other_arithmetic: bool = False
    """Sums are rounded otherwise, and with them what is chosen by a hair."""


def same_answers(batch: AttackBatch, places: Places, *, company: int) -> Iterator[Check]:
    """One check for each kind of circumstance that must not matter: logits by the batch, the call, gradients, copies, and the
    machine; gradients by the batch and by copies. ``places`` gives the ``probe_points`` of the batch, ``company`` is the largest
    batch of the evaluation."""
    points, scale, (few, many) = dict(places()), scale_of(batch), _sizes(company)
    if batch.system.mask_traits.hard_threshold is not None:
        points.pop(SEARCHED, None)  # a search is held up where the gate jumps: there rounding decides
    families: dict[str, tuple[list[_Asking], str]] = {
        "batch invariance": (
            [
                _Asking(name="alone", ask=lambda some: _by_parts(some, 1, logits_of), other_arithmetic=True),
                _Asking(name="in parts", ask=lambda some: _by_parts(some, next(few), logits_of), other_arithmetic=True),
                _Asking(name="in company", ask=lambda some: _in_company(some, next(many), logits_of), other_arithmetic=True),
                _Asking(name="reordered", ask=_reordered, other_arithmetic=True),
                _Asking(name="with other labels", ask=_with_other_labels),
            ],
            "keep statistics, size and labels of the batch out of the answer; make masks and fills functions of the image's seed",
        ),
        "repeated calls": (
            [_Asking(name="again", ask=logits_of)] * _REPEATS
            + [
                _Asking(name="after train() and eval()", ask=_after_training_mode),
                _Asking(name="tomorrow", ask=_tomorrow),
                _Asking(name="by other global seeds", ask=_by_other_seeds),
                _Asking(name="by nobody", ask=_by_nobody, optional=True),
            ],
            "what is random or counts calls hides from a search: fix its draws by the image, or attack the expectation",
        ),
        "gradients on and off": (
            [
                _Asking(name="with gradients", ask=_with_gradients),
                _Asking(name="in inference mode", ask=_in_inference_mode, optional=True),
                _Asking(name="outside an attack", ask=_outside),
            ],
            "the search and its verdict meet two functions: find what looks at gradients or at requires_grad",
        ),
        "copies": (
            [_Asking(name="of a deep copy", ask=lambda some: logits_of(_of_a_copy(some)), optional=True)],
            "attacks search on a copy: what it says otherwise than the system leads them astray",
        ),
        "threads, layout and types": (
            [
                _Asking(name="other threads", ask=_other_threads, other_arithmetic=True),
                _Asking(name="channels last", ask=_channels_last, other_arithmetic=True),
                _Asking(
                    name="in float64",
                    ask=lambda some: logits_of(in_float64(some)),
                    tolerance=_OTHER_TYPE,
                    optional=True,
                    other_arithmetic=True,
                ),
            ],
            "the figure holds for one machine and one arrangement of memory alone",
        ),
    }
    yield from (_compared(name, batch, points, family, advice, scale) for name, (family, advice) in families.items())
    yield _gradient_invariance(batch, points, company)


def _sizes(company: int) -> tuple[Iterator[int], Iterator[int]]:
    """Of small and large batches, odd and even ones, for one kind of points after the other: batches shrink while attacked."""
    return cycle((3, 5, 2, 7)), cycle((company, company * 3 // 8 | 1, company * 3 // 4, company * 5 // 8 | 1))


def _compared(
    name: str, batch: AttackBatch, points: Mapping[str, Images], family: list[_Asking], advice: str, scale: float
) -> Check:
    """The largest change of a logit by each way of asking, over all points."""
    changes: dict[str, float] = {}
    failed: dict[str, None] = {}  # in order, each once
    refused = ""
    for place, some in points.items():
        asked = replace(batch, images=some)
        expected = floored(logits_of(asked).double(), scale)
        for one in family:
            try:
                found = floored(of_as_many_classes([one.ask(asked), expected])[0].double(), scale)
            except Exception as error:
                if not one.optional:
                    raise
                refused = f": {said(error)}"
                continue
            moved = ((found - expected).abs() / scale).nan_to_num(torch.inf, torch.inf).amax(dim=1)
            if one.other_arithmetic and bool((moved > one.tolerance).any()):
                moved[_hangs_on_rounding(asked, expected, scale)] = 0
            change = float(moved.max())
            changes[one.name] = max(changes.get(one.name, 0.0), change)
            if change > one.tolerance:
                failed[f"{one.name} ({place})"] = None
    if not changes:
        return skipped(name, f"the system cannot be asked so{refused}")
    finding = "largest change of a logit, relative: " + ", ".join(f"{what} {change:.1e}" for what, change in changes.items())
    finding += f"; too large: {', '.join(failed)}" if failed else ""
    return judged(name, bool(failed), finding, advice, changes)


def _hangs_on_rounding(batch: AttackBatch, expected: Tensor, scale: float) -> Tensor:
    """Images that get other logits where they are moved by what rounding alone does: something is chosen there by a hair (a route,
    the largest values), and another batch may choose otherwise with nobody looking at it. Asked in the same circumstances as
    the image, so what looks at these says nothing here."""
    hangs = torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)
    for number in range(_NUDGES):
        nudged = (batch.images + _HAIR * (1e4 * (number + 1) * batch.images).sin().sign()).clamp(0, 1)
        hangs |= ((floored(logits_of(batch, nudged).double(), scale) - expected).abs() > _ROUNDING * scale).any(dim=1)
    return hangs


def _gradient_invariance(batch: AttackBatch, points: Mapping[str, Images], company: int) -> Check:
    """What is climbed may not depend on the batch or on the copy either."""
    searched = copy_to_search(batch.system, batch.images, batch.context)
    few, many = _sizes(company)
    asking: dict[str, Callable[[AttackBatch], Tensor]] = {
        "alone": lambda some: _by_parts(some, 1, _own_gradients),
        "in parts": lambda some: _by_parts(some, next(few), _own_gradients),
        "in company": lambda some: _in_company(some, next(many), _own_gradients),
        "again": _own_gradients,
        "of a deep copy": lambda some: _own_gradients(_of_a_copy(some)),
        "of the copy that is searched": lambda some: _own_gradients(replace(some, system=searched)),
        "in a search": _in_a_search,
    }
    figures: dict[str, float] = {}
    for some in points.values():
        asked = replace(batch, images=some)
        expected = _own_gradients(asked)
        for name, ask in asking.items():
            with suppress(Exception) if name == "of a deep copy" else nullcontext():
                figures[name] = max(figures.get(name, 0.0), _moved(ask(asked), expected))
    figures["late in a search"] = _moved(*_late_in_a_search(batch))
    finding = "images whose gradient changes by a tenth: " + ", ".join(f"{name} {part:.1%}" for name, part in figures.items())
    advice = (
        "a search that follows gradients of another batch, copy or call is led astray: find what looks at these or counts steps"
    )
    return judged("gradient invariance", max(figures.values(), default=0.0) > FEW, finding, advice, figures)


def _moved(found: Tensor, expected: Tensor) -> float:
    """Share of the images whose gradient is another one by more than rounding."""
    difference, lengths = (found - expected).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    moved = difference > _GRADIENT_ROUNDING * torch.maximum(lengths, _FAINT * lengths.median())
    return float((moved | ~difference.isfinite()).double().mean())


def _own_gradients(batch: AttackBatch) -> Tensor:
    return gradients(objective(batch), batch.images)


def _in_a_search(batch: AttackBatch) -> Tensor:
    """What the first step of descent follows."""
    return _searched(batch, epsilon=0.0, num_steps=1).slope


def _searched(batch: AttackBatch, *, epsilon: float, num_steps: int) -> Connected:
    climbed = Connected(BestPoint(batch.images).track(objective(batch)))
    with attacked(batch.system):
        pgd_in("linf", climbed, batch.images, epsilon=epsilon, num_steps=num_steps, random_start=False, keep_best=False)
    return climbed


def _late_in_a_search(batch: AttackBatch) -> tuple[Tensor, Tensor]:
    """What the last of many steps follows, and the gradient at that point of a copy from before, which has seen no step."""
    before = replace(batch, system=fresh_copy(batch.system))
    climbed = _searched(batch, epsilon=_SEARCHED, num_steps=_LATE)
    order = torch.arange(len(batch), device=batch.labels.device).flip(0)  # so that it is no further step for what shares its memory
    return climbed.slope, _own_gradients(replace(before.select(order), images=climbed.points[order]))[order]


def _by_parts(batch: AttackBatch, size: int, ask: Callable[[AttackBatch], Tensor]) -> Tensor:
    order = torch.arange(len(batch), device=batch.labels.device)
    return torch.cat(of_as_many_classes([ask(batch.select(rows)) for rows in torch.split(order, size)]))


def _in_company(batch: AttackBatch, size: int, ask: Callable[[AttackBatch], Tensor]) -> Tensor:
    """Once more at the end of a batch that holds all of them several times."""
    order = torch.arange(max(size, len(batch)), device=batch.labels.device) % len(batch)
    asked = ask(batch.select(order))
    last = torch.arange(len(asked) - len(batch), len(asked), device=order.device)
    return asked[last][order[last].argsort()]


def _reordered(batch: AttackBatch) -> Tensor:
    return logits_of(batch.select(torch.arange(len(batch), device=batch.labels.device).flip(0))).flip(0)


def _with_other_labels(batch: AttackBatch) -> Tensor:
    """No system is given the labels; one can read them from the variables of whoever asks."""
    return logits_of(replace(batch, labels=batch.labels[next_of_another_class(batch)]))


def _after_training_mode(batch: AttackBatch) -> Tensor:
    """A system that overrides ``train`` can tell by it that it is looked at; modes are put back one by one, whatever it did."""
    module = batch.system
    if isinstance(module, nn.Module):
        modes = [(part, part.training) for part in module.modules()]
        module.train()
        module.eval()
        for part, mode in modes:
            part.training = mode
    return logits_of(batch)


class _Tomorrow(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "_Tomorrow":
        return super().now(tz) + datetime.timedelta(seconds=_DAY)

    @classmethod
    def utcnow(cls) -> "_Tomorrow":
        return cls.now(datetime.UTC).replace(tzinfo=None)

    today = now


def _tomorrow(batch: AttackBatch) -> Tensor:
    """By the clocks of the modules ``time`` and ``datetime``, also where the system's own code has imported one by its name."""
    clocks: dict[int, object] = {id(datetime.datetime): _Tomorrow}
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime"):
        clock, ticks = getattr(time, name), getattr(time, f"{name}_ns")
        clocks[id(clock)] = lambda *given, clock=clock: clock(*given) + _DAY
        clocks[id(ticks)] = lambda *given, ticks=ticks: ticks(*given) + _DAY * 10**9
    for clock in (time.localtime, time.gmtime, time.ctime):
        clocks[id(clock)] = lambda *given, clock=clock: clock(*given or (time.time(),))
    in_words, in_a_form = time.asctime, time.strftime
    clocks[id(in_words)] = lambda *given: in_words(*given or (time.localtime(),))
    clocks[id(in_a_form)] = lambda form, *given: in_a_form(form, *given or (time.localtime(),))
    owners = {time, datetime, *(sys.modules.get(type(part).__module__, time) for part in batch.system.modules())}
    held = [(owner, name, one) for owner in owners for name, one in vars(owner).items() if id(one) in clocks]
    try:
        for owner, name, one in held:
            setattr(owner, name, clocks[id(one)])
        return logits_of(batch)
    finally:
        for owner, name, one in held:
            setattr(owner, name, one)


def _by_other_seeds(batch: AttackBatch) -> Tensor:
    """What is drawn from a global generator that is put back afterwards is the same at every call until somebody else draws."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(_OTHER_SEED)
            random.seed(_OTHER_SEED)
            np.random.seed(_OTHER_SEED)
            return logits_of(batch)
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _by_nobody(batch: AttackBatch) -> Tensor:
    """In a thread of its own: no caller is there whose name or variables could be looked at."""
    with attacked(batch.system), ThreadPoolExecutor(1) as pool:
        logits: Tensor = pool.submit(batch.system, batch.images, batch.context).result()
    return logits.detach()


def _with_gradients(batch: AttackBatch) -> Tensor:
    with attacked(batch.system), torch.enable_grad():
        logits: Tensor = batch.system(batch.images.detach().requires_grad_(), batch.context)
    return logits.detach()


def _in_inference_mode(batch: AttackBatch) -> Tensor:
    with attacked(batch.system), torch.inference_mode():
        logits: Tensor = batch.system(batch.images, batch.context)
    return logits.clone()


def _outside(batch: AttackBatch) -> Tensor:
    """In eval mode, but with weights that have gradients, as the system is deployed."""
    system = batch.system
    modes = [(part, part.training) for part in system.modules()]
    weights = (one for one in system.parameters() if one.is_floating_point() or one.is_complex())
    needed = [(parameter, parameter.requires_grad) for parameter in weights]
    try:
        system.eval()
        for parameter, _ in needed:
            parameter.requires_grad_(True)
        logits: Tensor = system(batch.images, batch.context)
    finally:
        for parameter, need in needed:
            parameter.requires_grad_(need)
        for part, mode in modes:
            part.training = mode
    return logits.detach()


def _of_a_copy(batch: AttackBatch) -> AttackBatch:
    return replace(batch, system=deep_copy(batch.system))


def _channels_last(batch: AttackBatch) -> Tensor:
    other = torch.channels_last if batch.images.is_contiguous() else torch.contiguous_format
    return logits_of(batch, batch.images.contiguous(memory_format=other))


def _other_threads(batch: AttackBatch) -> Tensor:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        return logits_of(batch)
    finally:
        torch.set_num_threads(before)
