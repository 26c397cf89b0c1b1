"""The adapter against pyautoattack called directly, and against a model that reveals which masks it was given."""

import itertools
import logging
import sys
from collections.abc import Callable

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.square import SquareAttack
from torch import Tensor

from pipeline.attacks.autoattack import autoattack, square
from pipeline.attacks.outside import STANDARD, Member, square_fits
from pipeline.attacks.regions import region_masks
from pipeline.attacks.threat import Region
from pipeline.attacks.tracker import verdict
from pipeline.masks.config import MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage, as_system

Make = Callable[..., TwoStage]
MakeBatch = Callable[..., tuple[Tensor, Tensor, MaskContext]]
SEEDS = torch.tensor([11, 5, 2**61 + 7, -3])


def directly(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    label: Tensor,
    seed: int,
    *,
    norm: str,
    epsilon: float,
    attacks: tuple[str, ...],
) -> Tensor:
    """pyautoattack as its own documentation has it, for 5 classes."""
    with torch.random.fork_rng([]):
        runner = AutoAttack(model, eps=epsilon, norm=norm, seed=seed, version="standard", device="cpu")
        runner.attacks_to_run = list(attacks)
        runner.square.n_queries = 30
        runner.apgd_targeted.n_target_classes = runner.fab.n_target_classes = 4
        found: Tensor = runner.run_standard_evaluation(image, label, batch_size=1)[0]
    return found


def _compare(system: TwoStage, make_batch: MakeBatch, norm: str, epsilon: float, attacks: tuple[Member, ...], size: int) -> None:
    images, labels, context = make_batch(system, size)
    found = autoattack(
        system,
        images,
        labels,
        context,
        norm=norm,  # type: ignore[arg-type]
        epsilon=epsilon,
        seeds=SEEDS[:size],
        attacks=attacks,
        num_queries=30,
    )
    for row in range(size):
        one = torch.tensor([row])
        name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
        theirs = directly(
            lambda points, one=one: system(points, context.select(one.expand(len(points)))),  # type: ignore[misc]
            images[one],
            labels[one],
            int(SEEDS[row]),
            norm=name,
            epsilon=epsilon,
            attacks=attacks,
        )
        torch.testing.assert_close(found[one], theirs, rtol=0, atol=1e-6)  # ours is brought into the ball to the last bit
        both = [verdict(system, points, labels[one], context.select(one)).misclassified for points in (found[one], theirs)]
        assert torch.equal(*both)
    deltas = found.double() - images.double()
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    lengths = torch.linalg.vector_norm(deltas.flatten(1), ord=order, dim=1)
    assert (lengths <= epsilon).all()
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.3), ("l1", 4.0)])
@pytest.mark.parametrize("source", [MaskSource.NONE, MaskSource.ORACLE, MaskSource.LEARNED_HARD])
def test_it_finds_what_pyautoattack_called_directly_finds(
    norm: str, epsilon: float, source: MaskSource, make_system: Make, make_batch: MakeBatch
) -> None:
    _compare(make_system(source), make_batch, norm, epsilon, ("apgd-ce", "square"), size=2)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.004), ("l2", 0.05)])
@pytest.mark.parametrize("source", [MaskSource.ORACLE, MaskSource.LEARNED_HARD])
def test_the_whole_standard_version_finds_what_pyautoattack_called_directly_finds(
    norm: str, epsilon: float, source: MaskSource, make_system: Make, make_batch: MakeBatch
) -> None:
    _compare(make_system(source), make_batch, norm, epsilon, STANDARD, size=2)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_is_pyautoattacks(norm: str, make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(MaskSource.ORACLE)
    images, labels, context = make_batch(system, 3)
    epsilon = {"linf": 0.02, "l2": 0.4, "l1": 4.0}[norm]
    found = square(system, images, labels, context, norm=norm, epsilon=epsilon, seeds=SEEDS[:3], num_queries=60)  # type: ignore[arg-type]
    for row in range(3):
        one = torch.tensor([row])
        with torch.random.fork_rng([]):
            search = SquareAttack(
                lambda points, one=one: system(points, context.select(one.expand(len(points)))),  # type: ignore[misc]
                norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[norm],
                n_queries=60,
                eps=epsilon,
                seed=int(SEEDS[row]),
                device="cpu",
            )
            theirs = search.perturb(images[one], labels[one])
        torch.testing.assert_close(found[one], theirs, rtol=0, atol=1e-6)


class Reading(TwoStage):
    """Keeps how large the masks were that came with each row."""

    areas: list[int]

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.oracle_masks is not None
        assert len(context.oracle_masks) == len(images)
        self.areas.extend(context.oracle_masks.flatten(1).sum(1).long().tolist())
        return super().forward(images, context)


def test_every_row_meets_the_masks_of_its_own_image(make_system: Make, make_batch: MakeBatch) -> None:
    plain = make_system(MaskSource.ORACLE)
    system = Reading(plain.classifier, masks=plain.mask_config).eval()
    system.areas = []
    images = make_batch(plain, 1)[0].expand(4, 3, 16, 16)  # four times the same: nothing but the context tells them apart
    masks = torch.zeros(4, 1, 16, 16)
    for row in range(4):
        masks[row, 0, : 3 * row + 2] = 1
    context = MaskContext(oracle_masks=masks)
    labels = plain(images, context).argmax(1)
    shared = {"norm": "linf", "epsilon": 0.001, "seeds": SEEDS, "num_queries": 5}
    areas = [16 * (3 * row + 2) for row in range(4)]
    autoattack(system, images, labels, context, attacks=("square", "apgd-ce"), **shared)  # type: ignore[arg-type]
    assert [area for area, _ in itertools.groupby(system.areas)] == areas
    system.areas.clear()
    square(system, images, labels, context, **shared)  # type: ignore[arg-type]
    assert len(system.areas) > 8
    assert system.areas == areas * (len(system.areas) // 4)  # side by side


@pytest.mark.parametrize("num_classes", [2, 3])
def test_below_four_classes_the_margin_is_climbed_and_it_says_so(
    num_classes: int, make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(MaskSource.NONE, num_classes=num_classes)
    images, labels, _ = make_batch(system, 3)
    attacks: tuple[Member, ...] = ("apgd-dlr", "apgd-t", "fab-t")
    with pytest.warns(UserWarning, match=f"need 4 classes and there are {num_classes}: the margin is climbed"):
        found = autoattack(system, images, labels, None, norm="linf", epsilon=0.05, seeds=SEEDS[:3], attacks=attacks)
    assert verdict(system, found, labels, None).misclassified.all()
    with pytest.warns(UserWarning, match="the margin is climbed"):
        targeted = autoattack(system, images, labels, None, norm="linf", epsilon=0.05, seeds=SEEDS[:3], attacks=("apgd-t",))
    assert verdict(system, targeted, labels, None).misclassified.all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("region", [Region.FOREGROUND, Region.BACKGROUND, Region.BOUNDARY])
def test_nothing_changes_outside_the_region(norm: str, region: Region, make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(MaskSource.NONE)
    images, labels, context = make_batch(system, 2)
    assert context.oracle_masks is not None
    allowed = region_masks(region, context.oracle_masks, radius=2)
    epsilon = {"linf": 0.1, "l2": 2.0, "l1": 30.0}[norm]
    shared = {"norm": norm, "epsilon": epsilon, "seeds": SEEDS[:2], "num_queries": 30, "region": allowed}
    found = [
        square(system, images, labels, context, **shared),  # type: ignore[arg-type]
        autoattack(system, images, labels, context, attacks=("apgd-ce",), **shared),  # type: ignore[arg-type]
    ]
    for points in found:
        assert torch.equal(points * ~allowed, images * ~allowed)
        assert not torch.equal(points, images)
        assert verdict(system, points, labels, context).misclassified.any()


def test_on_the_background_an_oracle_on_a_constant_fill_cannot_be_hurt_by_pyautoattack_either(
    make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(MaskSource.ORACLE)
    images, labels, context = make_batch(system, 2)
    assert context.oracle_masks is not None
    background = region_masks(Region.BACKGROUND, context.oracle_masks, radius=1)
    found = autoattack(
        system,
        images,
        labels,
        context,
        norm="linf",
        epsilon=1.0,
        seeds=SEEDS[:2],
        attacks=("square",),
        num_queries=20,
        region=background,
    )
    assert torch.equal(system(found, context), system(images, context))


def test_the_process_is_left_as_it_was(make_system: Make, make_batch: MakeBatch, caplog: pytest.LogCaptureFixture) -> None:
    system = make_system(MaskSource.LEARNED)
    system.classifier.requires_grad_(True)
    system.classifier.train()
    images, labels, context = make_batch(system, 1)
    before, trace = torch.random.get_rng_state(), sys.gettrace()

    def tracing(*_: object) -> None:
        return None

    sys.settrace(tracing)
    try:
        with caplog.at_level(logging.DEBUG):
            attacks: tuple[Member, ...] = ("apgd-ce", "fab-t", "square")
            autoattack(system, images, labels, context, norm="linf", epsilon=0.001, seeds=SEEDS[:1], attacks=attacks, num_queries=5)
        assert sys.gettrace() is tracing
    finally:
        sys.settrace(trace)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not caplog.records
    assert not logging.getLogger("auto-attack").disabled
    assert all(parameter.grad is None for parameter in system.classifier.parameters())
    assert system.classifier.training


def test_layouts_and_double_precision_change_nothing_that_matters(make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(MaskSource.LEARNED)
    images, labels, context = make_batch(system, 2)
    shared = {"norm": "l2", "epsilon": 0.3, "seeds": SEEDS[:2], "attacks": ("apgd-ce", "fab-t")}
    plain = autoattack(system, images, labels, context, **shared)  # type: ignore[arg-type]
    last = autoattack(system, images.contiguous(memory_format=torch.channels_last), labels, context, **shared)  # type: ignore[arg-type]
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-3)
    double = make_system(MaskSource.LEARNED, dtype=torch.float64)
    images, labels, context = make_batch(double, 1, dtype=torch.float64)
    found = autoattack(double, images, labels, context, norm="linf", epsilon=0.05, seeds=SEEDS[:1], attacks=("apgd-ce",))
    assert found.dtype == torch.float64
    assert verdict(double, found, labels, context).misclassified.all()


@pytest.mark.parametrize(
    ("norm", "classes", "targets"),
    [("linf", 4, (3, 3)), ("l2", 10, (9, 9)), ("linf", 43, (9, 9)), ("l1", 4, (3, 3)), ("l1", 43, (5, 9))],
)
def test_nine_classes_are_targets_or_all_others_and_five_where_the_norm_is_l1(
    norm: str, classes: int, targets: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def evaluation(runner: AutoAttack, image: Tensor, label: Tensor, *, batch_size: int) -> tuple[Tensor, Tensor]:
        del batch_size
        asked.append((runner.apgd_targeted.n_target_classes, runner.fab.n_target_classes))
        return image, label

    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", evaluation)
    system = as_system(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, classes)))
    images, labels = torch.rand(2, 3, 5, 5), torch.zeros(2, dtype=torch.int64)
    found = autoattack(system, images, labels, None, norm=norm, epsilon=0.1, seeds=SEEDS[:2])  # type: ignore[arg-type]
    assert torch.equal(found, images)
    assert asked == [targets, targets]


def test_images_on_which_the_euclidean_square_cannot_start_are_named(make_system: Make) -> None:
    fits = [side for side in range(1, 300) if square_fits("l2", side, side)]
    misfits = {1, 2, 3, 4, 7, 8, 9, 12, 14, 18, 19, 24}
    assert set(range(1, 300)) - set(fits) == misfits
    assert all(square_fits("linf", side, side) for side in range(1, 300))
    system = make_system(MaskSource.NONE)
    with pytest.raises(ValueError, match="cannot start on images of 12 x 12 pixels"):
        square(system, torch.rand(1, 3, 12, 12), torch.zeros(1, dtype=torch.int64), None, norm="l2", epsilon=1.0, seeds=SEEDS[:1])


def test_an_image_of_a_batch_is_attacked_through_its_own_context_as_it_is_alone(make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(MaskSource.ORACLE)
    images, labels, context = make_batch(system, 3)
    options = {"norm": "linf", "epsilon": 0.1, "num_queries": 20}
    together = square(system, images, labels, context, seeds=SEEDS[:3], **options)
    for image in range(3):
        row = torch.tensor([image])
        alone = square(system, images[row], labels[row], context.select(row), seeds=SEEDS[row], **options)
        assert torch.equal(alone, together[row])
