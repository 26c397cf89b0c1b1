"""Objectives of a two-stage system against finite differences, closed forms and brute force."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.attacks.apgd import apgd
from pipeline.attacks.objectives import cross_entropy, margin, scores_and_gradients, targeted_margin
from pipeline.attacks.pgd import pgd_linf
from pipeline.attacks.specs import GradientPath, MaskGoal
from pipeline.attacks.tracker import BestPoint, MarginObjective
from pipeline.attacks.two_stage import GuideMasks, SystemObjective, guided, mask_likeness, mask_targets, soft_masks, stolen_masks
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage

Make = Callable[..., TwoStage]
MakeBatch = Callable[..., tuple[Tensor, Tensor, MaskContext]]


def finite_differences(function: Callable[[Tensor], Tensor], images: Tensor, entries: list[tuple[int, ...]]) -> Tensor:
    """Central differences of each image's own value, at some entries of it."""
    slopes = []
    for entry in entries:
        step = torch.zeros_like(images)
        step[(slice(None), *entry)] = 1e-6
        slopes.append((function(images + step) - function(images - step)) / 2e-6)
    return torch.stack(slopes, dim=1)


@pytest.mark.parametrize("fill", [Fill.GREY, Fill.BLUR])
@pytest.mark.parametrize("path", [GradientPath.BOTH, GradientPath.PIXELS, GradientPath.MASK])
def test_the_gradient_of_a_path_is_the_slope_along_it_alone(
    path: GradientPath, fill: Fill, make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(MaskSource.LEARNED, fill, dtype=torch.float64)
    images, labels, context = make_batch(system, 3, dtype=torch.float64)
    objective = SystemObjective(system=system, labels=labels, context=context, path=path)
    masks = system.masks(images, context)

    def moved(points: Tensor) -> Tensor:
        pixels = images if path is GradientPath.MASK else points
        seen = masks if path is GradientPath.PIXELS else system.masks(points, context)
        return cross_entropy(system.classify(pixels, seen, context), labels)

    entries = [(channel, row, column) for channel in range(3) for row in (0, 5, 15) for column in (1, 8, 14)]
    scores, gradients = scores_and_gradients(objective, images)
    picked = torch.stack([gradients[(slice(None), *entry)] for entry in entries], dim=1)
    torch.testing.assert_close(picked, finite_differences(moved, images, entries), rtol=1e-5, atol=1e-8)
    assert torch.equal(scores, cross_entropy(system(images, context), labels))


@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD])
def test_balanced_paths_add_up_two_gradients_of_length_one(source: MaskSource, make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(source, dtype=torch.float64)
    images, labels, context = make_batch(system, 3, dtype=torch.float64)

    def gradients(path: GradientPath) -> Tensor:
        objective = SystemObjective(system=system, labels=labels, context=context, class_score=margin, path=path)
        scores, slopes = scores_and_gradients(objective, images)
        assert torch.equal(scores, margin(system(images, context), labels)), "the value is the real score whatever the path"
        return slopes

    pixels, mask = gradients(GradientPath.PIXELS), gradients(GradientPath.MASK)
    expected = pixels / pixels.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + mask / mask.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(gradients(GradientPath.BALANCED), expected)
    torch.testing.assert_close(gradients(GradientPath.BOTH), pixels + mask)


def test_a_dead_path_leaves_the_other_balanced_and_a_faint_one_counts_in_full(make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(dtype=torch.float32)
    images, labels, context = make_batch(system, 2)
    balanced = SystemObjective(system=system, labels=labels, context=context, path=GradientPath.BALANCED)
    last = system.segmenter[2]  # type: ignore[index]
    faint = [1e-25, 0.0]
    lengths = []
    for factor in faint:
        last.weight.mul_(factor)  # the mask hardly follows the image, then not at all
        _, gradients = scores_and_gradients(balanced, images)
        pixels = scores_and_gradients(
            SystemObjective(system=system, labels=labels, context=context, path=GradientPath.PIXELS), images
        )[1]
        rest = gradients - pixels / pixels.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        lengths.append(rest.flatten(1).norm(dim=1))
    torch.testing.assert_close(lengths[0], torch.ones(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lengths[1], torch.zeros(2), rtol=0, atol=1e-5)


masks_of_any_kind = st.sampled_from(["zeros", "ones", "random"])


@given(kind=masks_of_any_kind, size=st.integers(1, 3), side=st.integers(1, 6), seed=st.integers(0, 2**31), scale=st.floats(0.1, 80))
@settings(deadline=None, max_examples=50)
def test_mask_likeness_is_minus_the_cross_entropy_of_its_pixels_and_climbs_where_the_mask_is_wrong(
    kind: str, size: int, side: int, seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, 1, side, side)
    logits = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = {"zeros": torch.zeros(shape), "ones": torch.ones(shape), "random": torch.rand(shape, generator=generator).round()}[
        kind
    ]
    targets = targets.double()
    likeness = mask_likeness(logits, targets)
    # log p = -log(1 + exp(-logit)), log (1 - p) = -log(1 + exp(logit))
    by_hand = -(
        targets * torch.logaddexp(torch.zeros(()).double(), -logits)
        + (1 - targets) * torch.logaddexp(torch.zeros(()).double(), logits)
    )
    torch.testing.assert_close(likeness, by_hand.flatten(1).mean(1))
    gradients = torch.autograd.grad(likeness.sum(), logits)[0]
    torch.testing.assert_close(gradients, (targets - logits.detach().sigmoid()) / side**2)


class Brightness(nn.Module):
    """Mask logits 20 * (mean of the colors - 0.5): what the image is where, and a closed form of every attack on it."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * (images.mean(dim=1, keepdim=True) - 0.5)


class Means(nn.Module):
    """Two classes: how bright the image is through its mask, against a constant."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([mean, torch.full_like(mean, 0.3)], dim=1)


def bright_system(source: MaskSource = MaskSource.LEARNED, fill: Fill = Fill.BLACK) -> TwoStage:
    return TwoStage(Means(), segmenter=Brightness(), masks=MaskConfig(source=source, fill=fill)).eval()


@pytest.mark.parametrize(("goal", "sign"), [(MaskGoal.COLLAPSE, -1), (MaskGoal.FLOOD, 1)])
@pytest.mark.parametrize("search", ["pgd", "apgd"])
def test_collapse_and_flood_drive_the_mask_to_the_closed_form(goal: MaskGoal, sign: int, search: str) -> None:
    system = bright_system()
    images = torch.linspace(0, 1, 2 * 3 * 6 * 6).view(2, 3, 6, 6)
    labels = torch.zeros(2, dtype=torch.int64)
    objective = SystemObjective(
        system=system, labels=labels, context=None, class_score=None, mask_targets=mask_targets(goal, system, images, labels, None)
    )
    epsilon = 0.1
    if search == "pgd":
        found = pgd_linf(objective, images, epsilon=epsilon, num_steps=10, seeds=torch.arange(2))
    else:
        found = apgd(objective, images, norm="linf", epsilon=epsilon, num_steps=10, seeds=torch.arange(2))
    # Every pixel's logit rises with the pixel: the best is epsilon one way, as far as [0,1] allows.
    torch.testing.assert_close(found, (images + sign * epsilon).clamp(0, 1))
    torch.testing.assert_close(system.masks(found), Brightness()((images + sign * epsilon).clamp(0, 1)).sigmoid())


def test_the_goals_are_the_masks_that_they_are_named_after(make_system: Make, make_batch: MakeBatch) -> None:
    for source in (MaskSource.LEARNED, MaskSource.LEARNED_HARD):
        system = make_system(source)
        images, labels, context = make_batch(system)
        clean = system.masks(images, context)
        assert context.oracle_masks is not None
        expected = {
            MaskGoal.COLLAPSE: torch.zeros_like(clean),
            MaskGoal.FLOOD: torch.ones_like(clean),
            MaskGoal.INVERT_ORACLE: 1 - context.oracle_masks,
            MaskGoal.INVERT_CLEAN: 1 - clean,
        }
        for goal, target in expected.items():
            assert torch.equal(mask_targets(goal, system, images, labels, context), target)
        with pytest.raises(ValueError, match="needs oracle masks"):
            mask_targets(MaskGoal.INVERT_ORACLE, system, images, labels, None)
        with pytest.raises(ValueError, match="needs a pool"):
            mask_targets(MaskGoal.STEAL, system, images, labels, context)


def soft_iou(left: Tensor, right: Tensor) -> float:
    shared = sum(a * b for a, b in zip(left.flatten().tolist(), right.flatten().tolist(), strict=True))
    united = float(left.sum() + right.sum()) - shared
    return shared / united if united else 0.0


@given(size=st.integers(1, 4), pool=st.integers(2, 7), seed=st.integers(0, 2**31), empty=st.booleans(), full=st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_stolen_mask_is_the_most_alike_of_the_likeliest_other_class(
    size: int, pool: int, seed: int, empty: bool, full: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, 9, (size, 1, 3, 3), generator=generator).double() / 8
    guides = torch.randint(0, 2, (pool, 1, 3, 3), generator=generator).double()
    guides[0] = 0 if empty else guides[0]
    guides[-1] = 1 if full else guides[-1]
    guide_labels = torch.randint(0, 4, (pool,), generator=generator)
    guide_labels[0], guide_labels[-1] = 0, 1  # every image has another class in the pool
    logits = torch.randn(size, 4, generator=generator).double()
    labels = torch.randint(0, 4, (size,), generator=generator)
    stolen = stolen_masks(clean, logits, labels, GuideMasks(guides, guide_labels))
    for row in range(size):
        classes = set(guide_labels.tolist()) - {int(labels[row])}
        wanted = max(classes, key=lambda name: float(logits[row, name]))
        candidates = [index for index in range(pool) if int(guide_labels[index]) == wanted]
        best = max(candidates, key=lambda index: (soft_iou(clean[row], guides[index]), -index))
        assert torch.equal(stolen[row], guides[best])
    alone = stolen_masks(clean[:1], logits[:1], labels[:1], GuideMasks(guides, guide_labels))
    assert torch.equal(alone, stolen[:1])


def test_a_pool_of_the_image_s_own_class_has_nothing_to_steal() -> None:
    guides = GuideMasks(torch.ones(2, 1, 2, 2), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="no class other than the label"):
        stolen_masks(torch.ones(1, 1, 2, 2), torch.zeros(1, 3), torch.tensor([1]), guides)


class Spy:
    """Passes everything on, and keeps what it was asked and what it answered."""

    def __init__(self, objective: MarginObjective) -> None:
        self.objective = objective
        self.points: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.margins: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, margins = self.objective.scores_and_margins(images)
        self.points.append(images.detach().clone())
        self.scores.append(scores.detach())
        self.margins.append(margins.detach())
        return scores, margins

    def select(self, indices: Tensor) -> "Spy":
        return Spy(self.objective.select(indices))


@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.5)])
def test_the_second_phase_begins_where_the_first_ended_and_the_best_judged_point_of_both_is_returned(
    source: MaskSource, norm: str, epsilon: float, make_system: Make, make_batch: MakeBatch
) -> None:
    system = make_system(source)
    images, labels, context = make_batch(system)
    targets = mask_targets(MaskGoal.COLLAPSE, system, images, labels, context)
    first = Spy(SystemObjective(system=system, labels=labels, context=context, class_score=None, mask_targets=targets))
    second = Spy(SystemObjective(system=system, labels=labels, context=context, class_score=margin))
    seeds = torch.arange(len(images))
    found = guided(first, second, images, norm=norm, epsilon=epsilon, mask_steps=7, class_steps=9, seeds=seeds)  # type: ignore[arg-type]

    scores = torch.stack(first.scores)
    end = torch.stack(first.points)[scores.argmax(0), torch.arange(len(images))]  # the best collapsed point of each image
    assert not torch.equal(end, images), "the first phase has to have moved"
    assert torch.equal(second.points[0], images), "the image itself is a candidate"
    assert torch.equal(second.points[1], end)
    assert len(second.points) == 1 + 9 + 1

    margins, points = (
        torch.cat([torch.stack(first.margins), torch.stack(second.margins)]),
        torch.stack(first.points + second.points),
    )
    expected = points[margins.argmax(0), torch.arange(len(images))]
    assert torch.equal(margin(system(found, context), labels), margin(system(expected, context), labels))


def test_a_search_of_the_mask_returns_what_fools_the_classifier_and_not_the_emptiest_mask() -> None:
    # Seen through its own mask on black, the image is class 0 when bright. Flooding makes it brighter, so the mask's goal and the
    # margin are opposed: the best point of the search is its darkest, not the one with the fullest mask.
    system = bright_system()
    images = torch.full((1, 3, 4, 4), 0.6)
    labels = torch.zeros(1, dtype=torch.int64)
    objective = SystemObjective(system=system, labels=labels, context=None, class_score=None, mask_targets=torch.ones(1, 1, 4, 4))
    best, spy = BestPoint(images), Spy(objective)
    fullest = pgd_linf(best.track(spy), images, epsilon=0.2, num_steps=4, seeds=torch.arange(1))
    torch.testing.assert_close(fullest, torch.full_like(images, 0.8))
    darkest = torch.stack(spy.points)[torch.stack(spy.margins).argmax()]
    assert torch.equal(best.points, darkest)
    assert margin(system(best.points), labels) > margin(system(fullest), labels)


def test_the_soft_twin_is_climbed_and_the_hard_system_is_judged(make_system: Make, make_batch: MakeBatch) -> None:
    hard = make_system(MaskSource.LEARNED_HARD)
    soft = TwoStage(hard.classifier, segmenter=hard.segmenter, masks=MaskConfig(source=MaskSource.LEARNED))
    images, labels, context = make_batch(hard)
    scores, margins = SystemObjective(system=hard, labels=labels, context=context, soft=True).scores_and_margins(images)
    torch.testing.assert_close(scores, cross_entropy(soft(images, context), labels))
    torch.testing.assert_close(margins, margin(hard(images, context), labels))
    shifted = TwoStage(hard.classifier, segmenter=hard.segmenter, masks=MaskConfig(source=MaskSource.LEARNED_HARD, threshold=0.8))
    at_half = soft_masks(shifted, torch.full((1, 1, 1, 1), 4.0).log())  # probability 0.8
    torch.testing.assert_close(at_half, torch.full((1, 1, 1, 1), 0.5))


@pytest.mark.parametrize("source", list(MaskSource))
def test_selecting_images_selects_their_scores(source: MaskSource, make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system(source)
    images, labels, context = make_batch(system)
    switches: dict[str, object] = {}
    if source.is_learned:
        targets = mask_targets(MaskGoal.INVERT_ORACLE, system, images, labels, context)
        switches = {"mask_targets": targets, "mask_weight": 0.5, "path": GradientPath.BALANCED}
    objective = SystemObjective(
        system=system,
        labels=labels,
        context=context,
        class_score=targeted_margin,
        target_labels=(labels + 1) % 5,
        **switches,  # type: ignore[arg-type]
    )
    scores, margins = objective.scores_and_margins(images)
    indices = torch.tensor([3, 1])
    some_scores, some_margins = objective.select(indices).scores_and_margins(images[indices])
    torch.testing.assert_close(some_scores, scores[indices])
    torch.testing.assert_close(some_margins, margins[indices])
    torch.testing.assert_close(margins, margin(system(images, context), labels))
    assert isinstance(objective, MarginObjective)


def test_the_joint_score_is_the_sum_of_its_parts(make_system: Make, make_batch: MakeBatch) -> None:
    system = make_system()
    images, labels, context = make_batch(system)
    targets = mask_targets(MaskGoal.INVERT_ORACLE, system, images, labels, context)
    joint = SystemObjective(
        system=system, labels=labels, context=context, class_score=margin, mask_targets=targets, mask_weight=3.0
    )
    expected = margin(system(images, context), labels) + 3 * mask_likeness(system.mask_logits(images), targets)
    torch.testing.assert_close(joint(images), expected)


def test_what_a_system_does_not_have_cannot_be_asked_for(make_system: Make, make_batch: MakeBatch) -> None:
    oracle = make_system(MaskSource.ORACLE)
    _, labels, context = make_batch(oracle)
    for switches in ({"path": GradientPath.MASK}, {"soft": True}, {"mask_targets": torch.zeros(4, 1, 16, 16)}):
        with pytest.raises(ValueError, match="no attacker can move the mask of the source 'oracle'"):
            SystemObjective(system=oracle, labels=labels, context=context, **switches)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to climb"):
        SystemObjective(system=make_system(), labels=labels, context=context, class_score=None)
