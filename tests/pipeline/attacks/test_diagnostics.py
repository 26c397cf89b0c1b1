"""The checks pass on an honest system and each catches the cheat that it is there for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from pipeline.attacks.diagnostics import Check, Outcome, differences, gradient_free, gradients, masking, sameness, search
from pipeline.attacks.diagnostics.probing import Budget, climb, misclassified, next_of_another_class, objective, probe_points
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.masks.traits import MaskTraits
from pipeline.system import TwoStage, as_system

SIDE, CLASSES, IMAGES = 12, 4, 24
EPSILON = 0.01


class NoSurrogate(TwoStage):
    """A hard gate that lets no gradient through."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return (mask_logits > 0).to(mask_logits.dtype)


class RandomAtTestTime(TwoStage):
    """Masks that are drawn anew at every call."""

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().masks(images, context) * (torch.rand_like(images[:, :1]) > 0.2)


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.network(images)


@dataclass(frozen=True, kw_only=True)
class Cheat:
    kind: type[TwoStage] = TwoStage
    scale: float = 1.0
    mask_scale: float = 1.0


def attacked_batch(source: MaskSource = MaskSource.LEARNED, cheat: Cheat = Cheat()) -> AttackBatch:
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 1, 3, padding=1))
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Conv2d(8, 8, 3, stride=2), nn.Softplus(), nn.Flatten())
    network = nn.Sequential(body, nn.Linear(8 * 25, CLASSES))
    images = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        segmenter[2].bias -= segmenter(images).mean()
    masks = torch.zeros(IMAGES, 1, SIDE, SIDE)
    masks[:, :, 3:9, 2:10] = 1
    config = MaskConfig(source=source)
    context = MaskContext(oracle_masks=masks, substitutes=masks, sample_seeds=torch.arange(IMAGES))
    honest = TwoStage(network, masks=config, segmenter=segmenter).eval()
    context = honest.freeze(images, context)
    with torch.no_grad():
        network[1].bias -= honest(images, context).mean(dim=0)  # so that all classes occur
        gain = 3 / honest(images, context).abs().mean()  # as sure as a trained network
        network[1].weight *= gain
        network[1].bias *= gain
        labels = honest(images, context).argmax(dim=1)
    system = cheat.kind(Scaled(network, cheat.scale), masks=config, segmenter=Scaled(segmenter, cheat.mask_scale)).eval()
    return AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(IMAGES))


BUDGET = Budget(norm="linf", epsilon=EPSILON)


def every_check(found: AttackBatch) -> dict[str, Check]:
    places = cache(partial(probe_points, found, BUDGET))
    checks = [
        gradients.zero_gradients(found, GradientPath.PIXELS, places),
        gradients.zero_gradients(found, GradientPath.MASK, places),
        differences.gradients_against_differences(found, places),
        masking.mask_saturation(found),
        search.loss_against_steps(found, BUDGET),
        search.epsilon_zero(found, norm="linf"),
        search.epsilon_one(found, norm="linf", region_everywhere=True),
        search.soft_to_hard_transfer(found, BUDGET),
        *sameness.same_answers(found, places),
    ]
    return {check.name: check for check in checks}


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.ORACLE, MaskSource.NONE, MaskSource.RANDOM]
)
def test_an_honest_system_fails_no_check(source: MaskSource) -> None:
    checks = every_check(attacked_batch(source))
    assert {name: check.finding for name, check in checks.items() if check.outcome is Outcome.FAIL} == {}
    assert checks["zero gradients, pixel path"].outcome is Outcome.PASS
    assert (checks["zero gradients, mask path"].outcome is Outcome.PASS) == source.is_learned
    assert (checks["soft-to-hard transfer"].outcome is Outcome.PASS) == (source is MaskSource.LEARNED_HARD)
    for check in checks.values():
        assert check.advice == ""
        assert check.finding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheat", "source", "caught_by"),
    [
        (Cheat(kind=NoSurrogate), MaskSource.LEARNED_HARD, "zero gradients, mask path"),
        (Cheat(kind=RandomAtTestTime), MaskSource.LEARNED, "repeated calls"),
        (Cheat(mask_scale=1e4), MaskSource.LEARNED, "mask saturation"),
    ],
)
def test_a_cheat_fails_a_named_check_that_says_what_to_do(cheat: Cheat, source: MaskSource, caught_by: str) -> None:
    check = every_check(attacked_batch(source, cheat))[caught_by]
    assert check.outcome is Outcome.FAIL
    assert check.advice


class Deaf(nn.Module):
    """Says the first class, with a gradient that points at nothing in particular."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), CLASSES)
        logits[:, 0] = 1
        noise = images.sin().flatten(1).sum(dim=1, keepdim=True)
        return logits + (noise - noise.detach()) * torch.arange(CLASSES)


def test_gradients_that_lead_nowhere_fail_the_steps_and_epsilon_one() -> None:
    found = attacked_batch(MaskSource.NONE)
    system = TwoStage(Deaf(), masks=MaskConfig(source=MaskSource.NONE)).eval()
    deaf = AttackBatch(system=system, images=found.images, labels=torch.zeros_like(found.labels), context=None, seeds=found.seeds)
    assert gradients.zero_gradients(deaf, GradientPath.PIXELS, partial(probe_points, deaf, BUDGET)).outcome is Outcome.PASS
    steps = search.loss_against_steps(deaf, BUDGET)
    assert (steps.outcome, steps.figures["stuck"]) == (Outcome.FAIL, 1.0)
    everything = search.epsilon_one(deaf, norm="linf", region_everywhere=True)
    assert (everything.outcome, everything.figures["robust"]) == (Outcome.FAIL, 1.0)


def test_what_nobody_can_see_is_not_counted_at_epsilon_one() -> None:
    found = attacked_batch(MaskSource.ORACLE)
    assert found.context is not None
    assert found.context.oracle_masks is not None
    masks = found.context.oracle_masks.clone()
    masks[:6] = 0
    context = found.context._replace(oracle_masks=masks)
    with torch.no_grad():
        labels = found.system(found.images, context).argmax(dim=1)
    hidden = AttackBatch(system=found.system, images=found.images, labels=labels, context=context, seeds=found.seeds)
    check = search.epsilon_one(hidden, norm="linf", region_everywhere=True)
    assert (check.outcome, check.figures["invisible"]) == (Outcome.PASS, 0.25)
    assert search.epsilon_one(hidden, norm="linf", region_everywhere=False).outcome is Outcome.SKIP
    nothing = hidden.select(torch.arange(6))
    assert search.epsilon_one(nothing, norm="l2", region_everywhere=True).outcome is Outcome.SKIP


def test_the_figures_of_a_linear_system_are_its_closed_form() -> None:
    # One weight per pixel, all positive: the margin rises by epsilon * sum of |differences|, reached in one step of any descent.
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2, bias=False))
    with torch.no_grad():
        network[1].weight[0], network[1].weight[1] = 1.0, 0.0
    images = torch.full((4, 3, SIDE, SIDE), 0.5)
    images[2:] = 0.001
    system = TwoStage(network, masks=MaskConfig(source=MaskSource.NONE, fill=Fill.GREY)).eval()
    labels = torch.zeros(4, dtype=torch.int64)
    found = AttackBatch(system=system, images=images, labels=labels, context=None, seeds=torch.arange(4))
    check = search.loss_against_steps(found, Budget(norm="linf", epsilon=0.1))
    # the sum of the pixels stays positive unless every one of them reaches 0, and at 0 the tie is not above 0
    assert math.isclose(check.figures["robust_after_40"], 1.0)
    assert check.figures["stuck"] == 0


class Rising(nn.Module):
    """The margin of class 1 over class 0 is the weighted sum of an image, short of 0, with no slope where the weight is 0; for the
    first ``flat`` images, known by their first value, a constant, and for the first ``short`` it rises by a hair and no more."""

    def __init__(self, weight: Tensor, *, flat: int = 0, short: int = 0) -> None:
        super().__init__()
        self.flat, self.short = flat, short
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        number = images[:, 0, 0, 0].detach() * 1000  # no step below takes an image to the next number
        values = (images * self.weight + images.ceil() * (1 - self.weight))[:, :, 1:].sum(dim=(1, 2, 3))
        values = torch.where(number < self.short - 0.5, values.clamp(max=self.weight[:, 1:].sum() / 2 + 1e-6), values)
        values = torch.where(number < self.flat - 0.5, values.detach() * 0, values)
        return torch.stack([torch.zeros_like(values), values - 2 * self.weight.numel()], dim=1)


def numbered(system: nn.Module, count: int) -> AttackBatch:
    """Grey images of class 0 that are told apart by their first value."""
    images = torch.full((count, 3, 5, 4), 0.5)
    images[:, 0, 0, 0] = torch.arange(count) / 1000
    labels = torch.zeros(count, dtype=torch.int64)
    return AttackBatch(system=as_system(system), images=images, labels=labels, context=None, seeds=torch.arange(count))


def unseen(count: int) -> Tensor:
    """Weights of which so many of the 60 are 0, the first row included, whose value is the number."""
    return (torch.arange(60).view(5, 4, 3).permute(2, 0, 1) >= count).float()


class FromContext(nn.Module):
    """The class of an image, or where the mask says so that of the mask."""

    mask_traits = MaskTraits(source="oracle")

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        return images[:, :1] * 0 + 1

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.oracle_masks is not None
        told = context.oracle_masks[:, 0, 0, 0]
        classes = torch.where(told < 2, told, images[:, 0, 0, 0])
        return torch.stack([1 - classes, classes], dim=1)


def decided(by_context: int) -> AttackBatch:
    """Four images of two classes, of which so many are told by their masks."""
    labels = torch.tensor([0, 1, 0, 1])
    images = labels.float().view(4, 1, 1, 1).expand(4, 3, 2, 2)
    masks = torch.where(torch.arange(4) < by_context, labels, 2).float().view(4, 1, 1, 1).expand(4, 1, 2, 2)
    context = MaskContext(oracle_masks=masks, sample_seeds=torch.arange(4))
    return AttackBatch(system=FromContext(), images=images, labels=labels, context=context, seeds=torch.arange(4))


class Saturated(nn.Module):
    """Mask logits of which so many of 16 are beyond all slope."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("logits", (torch.arange(16.0) < count).float().view(1, 1, 4, 4) * 100)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0 * images[:, :1]


def saturated(count: int) -> AttackBatch:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    system = TwoStage(classifier, segmenter=Saturated(count), masks=MaskConfig(source=MaskSource.LEARNED)).eval()
    labels = torch.zeros(2, dtype=torch.int64)
    return AttackBatch(system=system, images=torch.rand(2, 3, 4, 4), labels=labels, context=None, seeds=labels)


def test_a_batch_of_one_class_has_no_image_of_another() -> None:
    found = decided(4)
    assert next_of_another_class(found).tolist() == [1, 2, 3, 0]
    alike = found.select(torch.tensor([0, 2, 0]))
    assert next_of_another_class(alike).tolist() == [0, 1, 2]
    assert masking.pixels_decide(alike).outcome is Outcome.SKIP


SHORT_STEP = Budget(norm="linf", epsilon=8e-4)


def pixels_without_gradient(found: AttackBatch) -> Check:
    return gradients.zero_gradients(found, GradientPath.PIXELS, partial(probe_points, found, None))


@pytest.mark.parametrize(
    ("check", "most"),
    [
        (lambda count: pixels_without_gradient(numbered(Rising(unseen(12), flat=count), 20)), 1),  # of 20 images
        (lambda count: pixels_without_gradient(numbered(Rising(unseen(count)), 4)), 30),  # of 60 values
        (lambda count: differences.gradients_reach(numbered(Rising(unseen(12), short=count), 8), SHORT_STEP), 2),  # of 8 images
        (lambda count: search.loss_against_steps(numbered(Rising(unseen(12), flat=count), 20), SHORT_STEP, num_steps=4), 1),
        (lambda count: masking.mask_saturation(saturated(count)), 8),  # of 16 pixels
        (lambda count: masking.pixels_decide(decided(count)), 3),  # of 4 images
    ],
)
def test_a_share_at_its_limit_passes_and_one_more_fails(check: Callable[[int], Check], most: int) -> None:
    assert [check(count).outcome for count in (most, most + 1)] == [Outcome.PASS, Outcome.FAIL]


class KnowsFiles(nn.Module):
    """Class 1 where the sum of the changes of grey images is 5.5 steps of 1/255 a value; images that no file of 8 bits holds are of
    class 0 whatever happens, the surer the larger they are."""

    def forward(self, images: Tensor) -> Tensor:
        steps = 255 * images
        is_file = (steps - steps.round()).abs().flatten(1).amax(dim=1) < 1e-3
        risen = steps.mean(dim=(1, 2, 3)) - 105.5
        return torch.stack([torch.zeros_like(risen), torch.where(is_file, risen, -1 - steps.mean(dim=(1, 2, 3)))], dim=1)


def test_a_search_in_whole_steps_fells_what_knows_images_that_no_file_holds() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    images = torch.full((2, 3, 5, 4), 100 / 255)
    batch = AttackBatch(system=as_system(KnowsFiles()), images=images, labels=labels, context=None, seeds=torch.arange(2))
    budget = Budget(norm="linf", epsilon=6.5 / 255)
    assert not misclassified(batch, climb(objective(batch), batch, budget).points).any()
    found = search.climb_in_whole_steps(batch, budget)
    assert misclassified(batch, found).all()
    assert torch.equal((255 * (found - images)).round(), torch.full_like(images, 6))
    assert float((found - images).abs().max()) <= budget.epsilon


class ByLevel(nn.Module):
    """What is grey at 0.3 is treated otherwise than what is grey at 0.6, the clean images of ``grey_batch``."""

    def forward(self, images: Tensor) -> Tensor:
        special = images.detach().mean(dim=(1, 2, 3)) < 0.45
        moved = images - torch.where(special, 0.3, 0.6).view(-1, 1, 1, 1)
        values = torch.where(special, self.special(moved), self.usual(moved))
        return torch.stack([torch.zeros_like(values), values], dim=1)


def grey_batch(system: ByLevel, special: int, count: int, side: int = 4) -> AttackBatch:
    levels = torch.where(torch.arange(count) < special, 0.3, 0.6)
    images = levels.view(-1, 1, 1, 1).expand(count, 3, side, side).contiguous()
    labels = torch.zeros(count, dtype=torch.int64)
    return AttackBatch(system=as_system(system), images=images, labels=labels, context=None, seeds=torch.arange(count))


WIDE = Budget(norm="linf", epsilon=0.1)


class Shattered(ByLevel):
    """The mean of all changes, less 1, which inside the ball has a gradient by some of the values alone: those around it, which lie
    outside, lead ``further`` times as far."""

    def __init__(self, further: float) -> None:
        super().__init__()
        self.further = further

    def usual(self, moved: Tensor) -> Tensor:
        return moved.mean(dim=(1, 2, 3)) - 1

    def special(self, moved: Tensor) -> Tensor:
        seen = torch.arange(moved[0].numel()).view_as(moved[0]) * self.further < moved[0].numel()
        inside = moved.detach().abs().amax(dim=(1, 2, 3), keepdim=True) < 0.1001
        return self.usual(torch.where(inside & ~seen, moved.detach(), moved))


@pytest.mark.parametrize(
    ("further", "shattered", "outcome"), [(1.6, 1, Outcome.PASS), (1.6, 2, Outcome.FAIL), (1.35, 4, Outcome.PASS)]
)
def test_smoothed_gradients_may_lead_half_as_far_again_and_further_on_a_quarter_of_the_images(
    further: float, shattered: int, outcome: Outcome
) -> None:
    check, points = search.smoothed_gradients(grey_batch(Shattered(further), shattered, 4, side=32), WIDE)
    assert (check.outcome, check.figures["ahead"]) == (outcome, shattered / 4 if further > 1.5 else 0)
    levels = torch.where(torch.arange(4) < shattered, 0.3, 0.6).view(-1, 1, 1, 1)
    torch.testing.assert_close(points, (levels + 0.1).expand_as(points))  # all the way, where the noise around it leads


class Bump(ByLevel):
    """Rises from -1 to 1 in the ball, by its gradient, and by ``height`` more where the first value is as large as it may be, which
    no gradient says; or from -1 to 0."""

    def __init__(self, height: float, *, tied: bool) -> None:
        super().__init__()
        self.height, self.tied = height, tied

    def special(self, moved: Tensor) -> Tensor:
        return 20 * moved[:, :, 1:].mean(dim=(1, 2, 3)) - 1 + self.height * (moved[:, 0, 0, 0] > 0.0999).to(moved)

    def usual(self, moved: Tensor) -> Tensor:
        risen = 20 * moved[:, :, 1:].mean(dim=(1, 2, 3)) - 1
        return risen.clamp(max=0) if self.tied else risen


@pytest.mark.parametrize(
    ("system", "bumps", "outcome", "ahead", "power"),
    [
        (Bump(0.03, tied=False), 2, Outcome.PASS, 0.1, 1.0),
        (Bump(0.03, tied=False), 3, Outcome.FAIL, 0.15, 1.0),
        (Bump(0.01, tied=False), 20, Outcome.PASS, 0.0, 1.0),  # by less than 2 % of the scale of the logits
        (Bump(0.01, tied=True), 5, Outcome.PASS, 0.0, 1.0),  # a tie is no success of either search
        (Bump(0.01, tied=True), 0, Outcome.SKIP, 0.0, 0.0),
    ],
)
def test_a_search_without_gradients_may_lead_further_on_a_tenth_of_the_images(
    system: Bump, bumps: int, outcome: Outcome, ahead: float, power: float
) -> None:
    batch = grey_batch(system, bumps, 20)
    corner = WIDE.ball(batch.images).project(batch.images + 1)
    check = gradient_free.square_against_white_box(batch, WIDE, corner, num_queries=7)
    assert (check.outcome, check.figures["ahead"], check.figures["power"]) == (outcome, ahead, power)


class Bent(nn.Module):
    """Linear, with a gradient that is multiplied: at the values that lie 0.1 above their grey, and at those 0.2 above, by one
    factor for each image of four."""

    def __init__(self, first: list[float], second: list[float]) -> None:
        super().__init__()
        self.factors = torch.tensor([[1.0] * 4, first, second])

    def forward(self, images: Tensor) -> Tensor:
        tenths = (10 * images.detach().mean(dim=(1, 2, 3)) - 4).round().long()  # no probe moves an image by as much
        factors = self.factors[tenths, torch.arange(len(images)) % 4].view(-1, 1, 1, 1)
        values = (factors * images + (1 - factors) * images.detach()).sum(dim=(1, 2, 3)) - 100
        return torch.stack([torch.zeros_like(values), values], dim=1)


def bent(first: list[float], second: list[float]) -> tuple[AttackBatch, Callable[[], dict[str, Tensor]]]:
    images, labels = torch.full((4, 3, 4, 4), 0.4), torch.zeros(4, dtype=torch.int64)
    batch = AttackBatch(system=as_system(Bent(first, second)), images=images, labels=labels, context=None, seeds=torch.arange(4))
    return batch, lambda: {"clean": images, "first": images + 0.1, "second": images + 0.2}


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1], "0 of 4 images"),
        ([-1, -1, 1, 1], [1, 1, 1, 1], "2 of 4 images (first)"),
        ([1, -1, 1, 1], [1, 1, -1, -1], "3 of 4 images (first, second)"),
        ([0.4, -1, 1, 1], [-1, -1, 1, 1], "2 of 4 images (first, second)"),  # where it is worst, and of the like the first place
    ],
)
def test_what_disagrees_is_told_with_its_place(first: list[float], second: list[float], named: str) -> None:
    check = differences.gradients_against_differences(*bent(first, second))
    assert check.finding == f"they disagree on {named}"
    assert (check.outcome is Outcome.FAIL) == ("(" in named)


@pytest.mark.parametrize(
    ("first", "second", "blind", "named"),
    [
        ([2e-3, 1, 1, 1], [1, 1, 1, 2e-3], 0.0, None),  # more than a thousandth of the clean image's
        ([5e-4, 1, 1, 1], [1, 1, 1, 1], 0.25, "first"),
        ([0, 1, 1, 1], [1, 0, 0, 1], 0.5, "second"),
        ([0, 0, 1, 1], [1, 1, 1, 5e-4], 0.5, "first"),
    ],
)
def test_what_has_no_gradient_is_told_with_the_place_of_most_of_it(
    first: list[float], second: list[float], blind: float, named: str | None
) -> None:
    batch, places = bent(first, second)
    check = gradients.zero_gradients(batch, GradientPath.PIXELS, places)
    assert check.figures["blind_images"] == blind
    assert [place for place in places() if f"({place})" in check.finding] == ([named] if named else [])


class Clamps(nn.Module):
    """Linear in what is left of an image when it is brought back to [0,1]."""

    def forward(self, images: Tensor) -> Tensor:
        values = (images.clamp(0, 1) * torch.linspace(-1, 1, images[0].numel()).view_as(images[0])).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(values), values - 50], dim=1)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_system_that_clamps_its_images_is_no_wrong_gradient_at_either_end_of_the_range(level: float) -> None:
    images, labels = torch.full((4, 3, 4, 4), level), torch.zeros(4, dtype=torch.int64)
    images[:, :, 0] = 0.5
    batch = AttackBatch(system=as_system(Clamps()), images=images, labels=labels, context=None, seeds=torch.arange(4))
    check = differences.gradients_against_differences(batch, lambda: {"clean": images})
    assert (check.outcome, check.figures["largest"]) == (Outcome.PASS, pytest.approx(0, abs=0.01))


class Remembers(nn.Module):
    """Notes every image that it is shown, with its mask; of the first class unless the first value is more than a half."""

    mask_traits = MaskTraits(source="oracle")

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del images
        assert context is not None
        assert context.oracle_masks is not None
        return context.oracle_masks

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        self.shown += list(torch.cat([images.detach(), self.masks(images, context)], dim=1))
        values = 1 - 2 * images[:, 0, 0, 0]
        return torch.stack([values, torch.zeros_like(values)], dim=1)


def remembered(images: Tensor, masks: Tensor) -> tuple[Check, list[Tensor]]:
    system, numbers = Remembers(), torch.arange(len(images))
    context = MaskContext(oracle_masks=masks, sample_seeds=numbers)
    batch = AttackBatch(system=system, images=images, labels=0 * numbers, context=context, seeds=numbers)
    return masking.shifted_images(batch), system.shown


def test_images_are_shifted_lit_otherwise_and_smoothed_as_it_says() -> None:
    """Against numpy and scipy; the mask moves with what moves the object, and the light leaves it alone."""
    both = torch.rand(4, 12, 20, generator=torch.Generator().manual_seed(3)).numpy()
    image, mask = both[:3], both[3:]
    blurred = np.stack([ndimage.convolve(one, np.ones((3, 3)), mode="constant") for one in both])
    blurred /= ndimage.convolve(np.ones((12, 20)), np.ones((3, 3)), mode="constant")  # of the pixels that there are
    inner = both[:, 1:-1, 1:-1]
    rows, columns = (np.clip((np.arange(size) + 0.5) * (size - 2) / size - 0.5, 0, size - 3) for size in (12, 20))
    enlarged = [ndimage.map_coordinates(one, np.meshgrid(rows, columns, indexing="ij"), order=1) for one in inner]
    expected = [np.roll(both, by, axis) for axis in (1, 2) for by in (1, -1)]
    expected += [np.concatenate([lit, mask]) for lit in (0.85 * image, 0.15 + 0.85 * image, 0.1 + 0.8 * image)]
    expected += [(both + blurred) / 2, np.stack(enlarged)]
    _, shown = remembered(torch.from_numpy(image[None]), torch.from_numpy(mask[None]))
    different = [one.numpy() for one in shown if np.abs(one.numpy() - both).max() > 1e-6]

    def covers(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
        return all(min(np.abs(one - other).max() for other in others) < 1e-5 for one in some)

    assert covers(expected, different)
    assert covers(different, expected)


@pytest.mark.parametrize(("lost", "outcome"), [(0, Outcome.PASS), (1, Outcome.SKIP)])
def test_eight_images_that_keep_their_class_say_something_and_seven_do_not(lost: int, outcome: Outcome) -> None:
    """Of two images and four shifts, of which one brings a large value to the first place, or none; the others are fewer."""
    images = torch.zeros(2, 3, 12, 20)
    images[:lost, 0, 0, 1] = 1
    check, _ = remembered(images, torch.ones(2, 1, 12, 20))
    assert check.outcome is outcome
    assert [way for way in ("shifted", "lit", "smoothed") if f"({way})" in check.finding] == ["shifted"] * (1 - lost)


def test_an_image_that_rises_at_the_last_step_alone_is_not_stuck() -> None:
    check = search.loss_against_steps(numbered(Rising(unseen(12)), 8), SHORT_STEP, num_steps=1)
    assert (check.outcome, check.figures["stuck"]) == (Outcome.PASS, 0.0)
