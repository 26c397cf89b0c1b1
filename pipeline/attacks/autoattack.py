"""AutoAttack and Square, as ``pyautoattack`` has them, on a system: a second opinion that nobody here has written.

AutoAttack: Croce and Hein 2020, https://arxiv.org/abs/2003.01690. Square: Andriushchenko et al. 2020,
https://arxiv.org/abs/1912.00049.

Every image is attacked by itself. The library hands subsets of its batch to the model and draws one stream of random numbers for
all of it; alone, an image meets its own masks and its own random numbers whatever the library does, and its verdict does not
depend on its batch. The price of AutoAttack is batches of one; Square, which wants no gradients, asks for all images side by side.

A region is part of the model here: outside it the model is shown the clean image. For the maximum norm that is the attack on the
region; for the Euclidean norm the library spends budget on pixels that do not count, so there it is a weaker attack.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from pipeline.attacks.norms import Ball, ball_of
from pipeline.attacks.objectives import DLR_CLASSES, margin, targeted_margin
from pipeline.attacks.outside import STANDARD, AutoAttack, Member, SquareAttack, square_fits
from pipeline.attacks.side_by_side import Model, side_by_side
from pipeline.attacks.start import AttackStart
from pipeline.attacks.threat import Norm
from pipeline.attacks.tracker import of_batch, refuse_nan
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Labels, Regions, Seeds
from pipeline.system import System, attacked

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_SQUARE_P = 0.8  # share of the image that the first squares cover, as in the standard version of AutoAttack

Watch = Callable[[Tensor, Tensor, Tensor], None]


def autoattack(
    system: System,
    images: Images,
    labels: Labels,
    context: MaskContext | None,
    *,
    norm: Norm,
    epsilon: float,
    seeds: Seeds,
    attacks: tuple[Member, ...] = STANDARD,
    num_queries: int = 5000,
    region: Regions | None = None,
) -> Images:
    """The standard version of AutoAttack: an adversarial image where one was found, else the image itself.

    The number of target classes is 9 (in l1 5 for APGD, which starts 5 times instead), or all others where there are fewer.
    Below 4 classes the difference-of-logits ratio is undefined; the margin is climbed in its place, and a UserWarning says so.
    ``num_queries`` is Square's. Results lie in the ball and in [0,1] exactly, as those of ``pgd_in``. Raises ValueError where
    Square is among the attacks and does not fit, FloatingPointError for a NaN gradient.
    """
    import pyautoattack  # only here: whoever trains need not load it

    if "square" in attacks:
        _check_square(norm, images)

    def attack(model: Model, image: Tensor, label: Tensor, seed: int) -> Tensor:
        runner = pyautoattack.AutoAttack(model, eps=epsilon, norm=_NORMS[norm], seed=seed, version="standard", device=image.device)
        runner.attacks_to_run = list(attacks)
        runner.square.n_queries = num_queries
        num_classes = model(image).shape[1]
        for targeted in (runner.apgd_targeted, runner.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, num_classes - 1)
        if num_classes < DLR_CLASSES:
            _climb_margins(runner, num_classes)
        found: Tensor = runner.run_standard_evaluation(image, label, batch_size=1)[0]
        return found

    return _one_by_one(attack, system, ball_of(norm, images, epsilon, region), labels, context, seeds, region)


def square(
    system: System,
    images: Images,
    labels: Labels,
    context: MaskContext | None,
    *,
    norm: Norm,
    epsilon: float,
    seeds: Seeds,
    num_queries: int = 5000,
    region: Regions | None = None,
    watch: Watch | None = None,
) -> Images:
    """Square: random search on the margin, which asks the system for logits and for no gradient.

    Its schedule is stretched to ``num_queries``, as its authors advise. Result and errors are those of ``autoattack``. ``watch`` is
    shown whatever the system is asked: the row of each point's image, the points, and the logits.
    """
    from pyautoattack.square import SquareAttack as Library

    _check_square(norm, images)
    ball = ball_of(norm, images, epsilon, region)

    def search(row: int, model: Model) -> Tensor:
        settings = {"norm": _NORMS[norm], "eps": epsilon, "n_queries": num_queries, "p_init": _SQUARE_P, "resc_schedule": True}
        one = slice(row, row + 1)
        found: Tensor = Library(model, **settings, seed=int(seeds[row]), device=images.device).perturb(
            _plain(ball.images[one]), labels[one]
        )
        return found

    def answer(rows: Tensor, points: Tensor) -> Tensor:
        with of_batch(rows):
            shown = _shown(ball.images, region, rows, points)
            logits: Tensor = system(shown, context and context.select(rows))
            if watch is not None:
                watch(rows, shown, logits)
        return logits.to(points.dtype)

    with attacked(system), _undisturbed(images.device):
        found = side_by_side([partial(search, row) for row in range(len(images))], answer, device=images.device)
    return ball.project(torch.cat([images[:0], *(one.to(images.dtype) for one in found)]))  # it rounds to nearest, we inwards


def search_autoattack(spec: AutoAttack, start: AttackStart) -> Images:
    """All its attacks, one after the other."""
    return _started(autoattack, start, attacks=spec.attacks, num_queries=spec.num_queries)


def search_square(spec: SquareAttack, start: AttackStart) -> Images:
    """One random search."""
    return _started(square, start, num_queries=spec.num_queries)


def _started(attack: Callable[..., Tensor], start: AttackStart, **settings: object) -> Tensor:
    batch = start.batch
    return attack(
        *(batch.system, batch.images, batch.labels, batch.context),
        norm=start.norm,
        epsilon=start.epsilon,
        seeds=start.seeds,
        region=start.region,
        **settings,
    )


def _check_square(norm: Norm, images: Tensor) -> None:
    height, width = images.shape[2:]
    if not square_fits(norm, height, width):
        raise ValueError(f"Square in the norm {norm!r} cannot start on images of {height} x {width} pixels: its tiles do not fit")


def _one_by_one(
    attack: Callable[[Model, Tensor, Tensor, int], Tensor],
    system: System,
    ball: Ball,
    labels: Tensor,
    context: MaskContext | None,
    seeds: Tensor,
    region: Tensor | None,
) -> Tensor:
    images, found = ball.images, ball.images.clone()

    def logits(row: Tensor, points: Tensor) -> Tensor:
        if points.requires_grad:  # the library's steps along signs would not notice, nor does it tell
            points.register_hook(_refuse_nan)  # type: ignore[no-untyped-call]
        rows = row.expand(len(points))
        answered: Tensor = system(_shown(images, region, rows, points), context and context.select(rows))
        return answered.to(points.dtype)

    with attacked(system), _undisturbed(images.device):
        for row in torch.arange(len(images), device=images.device)[:, None]:
            with of_batch(row):
                one = attack(partial(logits, row), _plain(images[row]), labels[row], int(seeds[row]))
                found[row] = one.detach().to(images.dtype)
    return ball.project(found)  # it rounds to nearest, we inwards


def _plain(image: Tensor) -> Tensor:
    """The library flattens by view, so it gets plain memory order, and it computes in single precision."""
    return image.float().contiguous()


def _shown(images: Images, region: Regions | None, rows: Tensor, points: Tensor) -> Tensor:
    """Perturbed copies of the images of these rows, as the system is shown them."""
    shown = points.to(images.dtype)
    if region is not None:
        shown = torch.where(region[rows], shown, images[rows])
    return shown.contiguous(memory_format=torch.contiguous_format if images.is_contiguous() else torch.channels_last)


def _refuse_nan(gradients: Tensor) -> None:
    """Of copies of one image."""
    refuse_nan(gradients.isnan().any()[None])


def _climb_margins(runner: object, num_classes: int) -> None:
    """Put margins where the library would index a third or fourth class that does not exist."""
    warnings.warn(
        f"the losses of AutoAttack need {DLR_CLASSES} classes and there are {num_classes}: the margin is climbed instead",
        UserWarning,
        stacklevel=2,
    )
    untargeted, targeted = runner.apgd, runner.apgd_targeted  # type: ignore[attr-defined]
    untargeted.dlr_loss = margin
    targeted.dlr_loss_targeted = lambda logits, labels: targeted_margin(logits, labels, targeted.y_target)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Keep to itself what the library does to its process: global seeds, a log, and a trace function that it removes."""
    log, trace = logging.getLogger("auto-attack"), sys.gettrace()
    disabled = log.disabled
    try:
        log.disabled = True
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        log.disabled = disabled
        sys.settrace(trace)
