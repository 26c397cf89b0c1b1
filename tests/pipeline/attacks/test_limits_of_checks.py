"""Every check at its limit: what just passes, what just fails, and what each says of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor, nn

from pipeline.attacks.diagnostics import (
    Check,
    Outcome,
    differences,
    from_boundary,
    gradient_free,
    gradients,
    masking,
    sameness,
    search,
)
from pipeline.attacks.diagnostics.check import share
from pipeline.attacks.diagnostics.memory import noise_like
from pipeline.attacks.diagnostics.probing import Budget, next_of_another_class, probe_points
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.masks.traits import MaskTraits
from pipeline.system import TwoStage, as_system


class Rising(nn.Module):
    """The margin of class 1 over class 0 is the weighted sum of an image, short of 0, with no slope where the weight is 0; for the
    first ``flat`` images, known by their first value, a constant, and for the first ``short`` it rises by a hair and no more."""

    def __init__(self, weight: Tensor, *, flat: int = 0, short: int = 0) -> None:
        super().__init__()
        self.flat, self.short = flat, short
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        number = images[:, 0, 0, 0].detach() * 1000  # no step below takes an image to the next number
        values = (images * self.weight + images.detach() * (1 - self.weight))[:, :, 1:].sum(dim=(1, 2, 3))
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
        classes = torch.where(told < 1.5, told, images[:, 0, 0, 0])
        return torch.stack([1 - classes, classes], dim=1)


def decided(by_context: int) -> AttackBatch:
    """Four images of two classes, of which so many are told by their masks."""
    labels = torch.tensor([0, 1, 0, 1])
    images = labels.float().view(4, 1, 1, 1).expand(4, 3, 2, 2)
    masks = torch.where(torch.arange(4) < by_context, labels, 2).float().view(4, 1, 1, 1).expand(4, 1, 2, 2)
    context = MaskContext(oracle_masks=masks, sample_seeds=torch.arange(4))
    return AttackBatch(system=FromContext(), images=images, labels=labels, context=context, seeds=torch.arange(4))


class NamedBySeed(FromContext):
    """The class of an image, or where its seed is one that of the seed."""

    mask_traits = MaskTraits(source="oracle", uses_seeds=True)

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        assert context is not None
        assert context.sample_seeds is not None
        told = context.sample_seeds.float().view(-1, 1, 1, 1)
        return super().forward(images, context._replace(oracle_masks=told))


def told_by_seed(count: int) -> AttackBatch:
    """Six images of two classes, of which so many take that of another one with its seed."""
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    context = MaskContext(sample_seeds=torch.where(torch.arange(6) < count, labels, 2))
    images = labels.float().view(6, 1, 1, 1).expand(6, 3, 2, 2)
    return AttackBatch(system=NamedBySeed(), images=images, labels=labels, context=context, seeds=torch.arange(6))


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


def test_the_share_of_nothing_is_0() -> None:
    assert share(torch.zeros(0, dtype=torch.bool)) == 0
    assert share(torch.tensor([True, False, False, True, True])) == 0.6


def test_a_batch_of_one_class_has_no_image_of_another() -> None:
    found = decided(4)
    assert next_of_another_class(found).tolist() == [1, 2, 3, 0]
    alike = found.select(torch.tensor([0, 2, 0]))
    assert next_of_another_class(alike).tolist() == [0, 1, 2]
    assert masking.pixels_decide(alike, same(alike)).outcome is Outcome.SKIP


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
        (lambda count: masking.pixels_decide(decided(count), same(decided(count))), 3),  # of 4 images
        (lambda count: masking.pixels_decide(told_by_seed(count), same(told_by_seed(count))), 2),  # of 6 images
    ],
)
def test_a_share_at_its_limit_passes_and_one_more_fails(check: Callable[[int], Check], most: int) -> None:
    assert [check(count).outcome for count in (most, most + 1)] == [Outcome.PASS, Outcome.FAIL]


class Lighter(nn.Module):
    """Of class 1 the more the lighter an image is, or the darker."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, images: Tensor) -> Tensor:
        values = self.sign * images.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(values), values - 2], dim=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gradient_of_one_sign_everywhere_is_there(sign: int) -> None:
    check = pixels_without_gradient(numbered(Lighter(sign), 4))
    assert check.outcome is Outcome.PASS
    assert check.figures == {"blind_images": 0, "zero_values": 0, "blind_to_cross_entropy": 0}


class Chosen(nn.Module):
    """Linear in an image, with an offset that is chosen by whether its mean is above its own grey."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean(dim=(1, 2, 3))
        values = means + 0.5 * (means > means.detach().round(decimals=1) + 1e-6)
        return torch.stack([torch.ones_like(values), values], dim=1)


def test_a_choice_that_has_no_gradient_is_told_from_a_false_one() -> None:
    found = grey_batch(Chosen(), 2, 4)
    check = gradients_of(found)
    assert (check.outcome, check.figures["sudden"]) == (Outcome.FAIL, 4)
    assert "on 4 of them the margin jumps" in check.finding
    assert "a limit of these attacks, not a defence" in check.advice
    false = gradients_of(bent([-1.0, -1, 1, 1])[0])
    assert (false.outcome, false.figures["sudden"], "jumps" in false.finding) == (Outcome.FAIL, 0, False)
    assert "the gradients are not those of the function" in false.advice


def gradients_of(batch: AttackBatch) -> Check:
    return differences.gradients_against_differences(batch, same(batch))


class ByLevel(nn.Module):
    """What is grey at 0.3 is treated otherwise than what is grey at 0.6, the clean images of ``grey_batch``."""

    def forward(self, images: Tensor) -> Tensor:
        special = images.detach().mean(dim=(1, 2, 3)) < 0.45
        moved = images - torch.where(special, 0.3, 0.6).view(-1, 1, 1, 1)
        values = torch.where(special, self.special(moved), self.usual(moved))
        return torch.stack([torch.zeros_like(values), values], dim=1)


def grey_batch(system: nn.Module, special: int, count: int, side: int = 4) -> AttackBatch:
    levels = torch.where(torch.arange(count) < special, 0.3, 0.6)
    images = levels.view(-1, 1, 1, 1).expand(count, 3, side, side).contiguous()
    labels = torch.zeros(count, dtype=torch.int64)
    return AttackBatch(system=as_system(system), images=images, labels=labels, context=None, seeds=torch.arange(count))


def same(batch: AttackBatch) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"clean": batch.images}


WIDE = Budget(norm="linf", epsilon=0.1)


class MeanByLevel(ByLevel):
    """The mean of all changes, less 1; what is grey at 0.3 has it altered by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def usual(self, moved: Tensor) -> Tensor:
        return moved.mean(dim=(1, 2, 3)) - 1


class Shattered(MeanByLevel):
    """Inside the ball there is a gradient by some of the values alone: those around it, which lie outside, lead ``factor`` times as
    far."""

    def special(self, moved: Tensor) -> Tensor:
        seen = torch.arange(moved[0].numel()).view_as(moved[0]) * self.factor < moved[0].numel()
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
    """Linear, with a gradient that is multiplied by one factor for each of four images: at their grey, 0.1 and 0.2 above it."""

    def __init__(self, *factors: list[float]) -> None:
        super().__init__()
        self.factors = torch.tensor(factors)

    def forward(self, images: Tensor) -> Tensor:
        tenths = (10 * images.detach().mean(dim=(1, 2, 3)) - 4).round().long()  # no probe moves an image by as much
        factors = self.factors[tenths, torch.arange(len(images)) % 4].view(-1, 1, 1, 1)
        values = (factors * images + (1 - factors) * images.detach()).sum(dim=(1, 2, 3)) - 100
        return torch.stack([torch.zeros_like(values), values], dim=1)


def bent(*factors: list[float]) -> tuple[AttackBatch, Callable[[], dict[str, Tensor]]]:
    images, labels = torch.full((4, 3, 4, 4), 0.4), torch.zeros(4, dtype=torch.int64)
    batch = AttackBatch(system=as_system(Bent(*factors)), images=images, labels=labels, context=None, seeds=torch.arange(4))
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
    check = differences.gradients_against_differences(*bent([1, 1, 1, 1], first, second))
    assert check.finding == f"they disagree on {named}"
    assert (check.outcome is Outcome.FAIL) == ("(" in named)


class Kinked(nn.Module):
    """Rises with every value, and falls by a little more from a hair above grey on; its gradient is true."""

    def __init__(self, hair: float) -> None:
        super().__init__()
        self.register_buffer("kink", torch.tensor(0.4 + hair))

    def forward(self, images: Tensor) -> Tensor:
        values = (images - 2.1 * (images - self.kink).relu()).sum(dim=(1, 2, 3)) - 20.2
        return torch.stack([torch.zeros_like(values), values], dim=1)


@pytest.mark.parametrize(("hair", "outcome"), [(1e-4, Outcome.PASS), (1e-5, Outcome.FAIL)])
def test_a_gradient_that_disagrees_less_by_the_smaller_step_is_asked_by_one_that_is_smaller_still(
    hair: float, outcome: Outcome
) -> None:
    images, labels = torch.full((4, 3, 4, 4), 0.4), torch.zeros(4, dtype=torch.int64)
    batch = AttackBatch(system=as_system(Kinked(hair)), images=images, labels=labels, context=None, seeds=torch.arange(4))
    assert differences.gradients_against_differences(batch, lambda: {"clean": images}).outcome is outcome


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
    batch, places = bent([1, 1, 1, 1], first, second)
    check = gradients.zero_gradients(batch, GradientPath.PIXELS, places)
    assert check.figures["blind_images"] == blind
    assert [place for place in places() if f"({place})" in check.finding] == ([named] if named else [])


class Loud(ByLevel):
    """Logits of some images lie so far apart that cross-entropy has no gradient in float32; the margin has one for all."""

    def usual(self, moved: Tensor) -> Tensor:
        return moved.mean(dim=(1, 2, 3)) - 1

    def special(self, moved: Tensor) -> Tensor:
        return self.usual(moved) - 1000


def test_where_cross_entropy_alone_is_blind_is_said_of_the_pixels_and_is_no_failure() -> None:
    batch = grey_batch(Loud(), 3, 4)
    pixels = gradients.zero_gradients(batch, GradientPath.PIXELS, same(batch))
    assert pixels.figures == {"blind_images": 0, "zero_values": 0, "blind_to_cross_entropy": 0.75}
    assert pixels.outcome is Outcome.PASS
    assert "cross-entropy is blind on 75.0%" in pixels.finding


@pytest.mark.parametrize(
    ("path", "figures", "advice"),
    [
        (GradientPath.PIXELS, {"blind_images", "zero_values", "blind_to_cross_entropy"}, "trust attacks without gradients alone"),
        (GradientPath.MASK, {"blind_images"}, "give the gate a surrogate gradient"),
    ],
)
def test_what_to_do_about_a_missing_gradient_depends_on_its_path(path: GradientPath, figures: set[str], advice: str) -> None:
    system = TwoStage(Flat(), segmenter=Faint(1.0), masks=MaskConfig(source=MaskSource.LEARNED)).eval()
    images, labels = torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    batch = AttackBatch(system=system, images=images, labels=labels, context=None, seeds=labels)
    check = gradients.zero_gradients(batch, path, same(batch))
    assert (check.outcome, check.figures["blind_images"], set(check.figures)) == (Outcome.FAIL, 1, figures)
    assert advice in check.advice
    assert ("a thousandth of the clean image's" in check.finding) == (path is GradientPath.PIXELS)


class Flat(nn.Module):
    """The first class, whatever it is shown."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + 0 * images[:, 0, 0, :1]


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


class Seen(Rising):
    """Notes what it is asked about."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = [*getattr(self, "seen", []), images.detach()]
        return super().forward(images)


def test_differences_are_taken_up_and_down_by_one_size_in_every_value() -> None:
    system = Seen(torch.ones(3, 5, 4))
    batch = replace(numbered(system, 1), images=torch.full((1, 3, 5, 4), 0.5))
    assert differences.gradients_against_differences(batch, same(batch)).outcome is Outcome.PASS
    moves = [(points - batch.images).flatten() for points in system.seen if points.shape == batch.images.shape]
    random = [move for move in moves if move.min() < 0 < move.max()]
    assert len(random) >= 4
    assert all(move.abs().amin() == pytest.approx(float(move.abs().amax()), rel=1e-3) for move in random)


class Remembers(nn.Module):
    """Notes every image that it is shown, with its mask; of the first class unless the first value is more than a half."""

    mask_traits = MaskTraits(source="oracle")

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.note = note

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del images
        assert context is not None
        assert context.oracle_masks is not None
        return context.oracle_masks

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        self.note(torch.cat([images.detach(), self.masks(images, context)], dim=1))
        values = 1 - 2 * images[:, 0, 0, 0]
        return torch.stack([values, torch.zeros_like(values)], dim=1)


def remembered(images: Tensor, masks: Tensor) -> tuple[Check, list[Tensor]]:
    shown: list[Tensor] = []
    system, numbers = Remembers(shown.extend), torch.arange(len(images))
    context = MaskContext(oracle_masks=masks, sample_seeds=numbers)
    batch = AttackBatch(system=system, images=images, labels=0 * numbers, context=context, seeds=numbers)
    return masking.shifted_images(batch), shown


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
    noise = noise_like(torch.from_numpy(image[None]))[0].numpy()  # what it keeps is looked for by that, and by a change of 4 %
    expected += [np.concatenate([one, mask]) for one in (noise, image + 0.15 * (noise - 0.5) * image.std(ddof=1))]
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
    assert ("only 17 of 18" if lost else "smoothed 18 keep") in check.finding


def test_an_image_that_rises_at_the_last_step_alone_is_not_stuck() -> None:
    check = search.loss_against_steps(numbered(Rising(unseen(12)), 8), SHORT_STEP, num_steps=1)
    assert (check.outcome, check.figures["stuck"]) == (Outcome.PASS, 0.0)


class Tells(nn.Module):
    """The margin is the mean of an image, less 1.5, and a little more where it can tell by something who asks."""

    def __init__(self, tells: Callable[[Tensor], bool], more: float = 0.0, *, constant: float = 0.0) -> None:
        super().__init__()
        self.tells, self.more, self.constant = tells, more, constant

    def forward(self, images: Tensor) -> Tensor:
        values = images.mean(dim=(1, 2, 3)) - 1.5 + self.more * self.tells(images)
        return torch.stack([torch.zeros_like(values), values], dim=1) + self.constant


def test_batches_of_every_size_are_asked_odd_and_even_ones_up_to_the_largest_of_the_evaluation() -> None:
    sizes: list[int] = []
    batch = grey_batch(Tells(lambda images: bool(sizes.append(len(images)))), 0, 11)
    places = dict.fromkeys(("first", "second", "third", "fourth"), batch.images)
    check = next(sameness.same_answers(batch, lambda: places, company=48))
    assert (check.name, check.outcome) == ("batch invariance", Outcome.PASS)
    assert [size for size in sizes if size not in (1, 11)] == [3, 3, 3, 2, 48, 5, 5, 19, 2, 2, 2, 2, 2, 36, 7, 4, 31]


def test_what_is_cut_to_whole_steps_of_8_bits_is_cut_towards_the_image() -> None:
    clean = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    steps = torch.arange(-30, 30).double().view(1, 3, 4, 5)
    for more, kept in ((0, steps), (0.9 * steps.sign(), steps), (-0.1 * steps.sign(), steps - steps.sign())):
        torch.testing.assert_close(
            search.in_whole_steps(clean + (steps + more) / 255, clean), clean + kept / 255, rtol=0, atol=1e-12
        )


class Alone(MeanByLevel):
    """Of some images the gradient is multiplied where nothing is beside them."""

    def special(self, moved: Tensor) -> Tensor:
        factor = self.factor if len(moved) == 1 else 1
        return self.usual(factor * moved + (1 - factor) * moved.detach())


class Falling(TwoStage):
    """A soft gate that falls where the mask is sure."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return torch.where(mask_logits > 50, 1.5 - mask_logits / 200, mask_logits.sigmoid())


class Faint(nn.Module):
    """One mask logit everywhere."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, images: Tensor) -> Tensor:
        return self.logit + 0 * images[:, :1]


class ShowsItsMaskAlone(nn.Module):
    """A hard mask that opens where the image gets lighter, with the slope of 1; of what is grey at 0.3 with another slope,
    and at another level."""

    mask_traits = MaskTraits(source="learned-hard", follows_image=True, hard_threshold=0.5)

    def __init__(self, slope: float, level: float) -> None:
        super().__init__()
        self.slope, self.level = slope, level

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        grey = images.mean(dim=1, keepdim=True)
        special = grey.detach() < 0.45
        slope, level = torch.where(special, self.slope, 1), torch.where(special, self.level, 0.6)
        return (grey > level).to(images) + slope * (grey - grey.detach())

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return (images * self.masks(images, context)).mean(dim=(2, 3))


class KnowsOne(nn.Module):
    """One image by its values, with a margin of 1 and the slope 1; all others with less, or steeper."""

    def __init__(self, image: Tensor, margin: float, slope: float) -> None:
        super().__init__()
        self.image, self.margin, self.slope = image, margin, slope

    def forward(self, images: Tensor) -> Tensor:
        known = (images.detach() - self.image).abs().amax(dim=(1, 2, 3)) < 1e-6
        moved = (images - images.detach()).sum(dim=(1, 2, 3))
        values = torch.where(known, 1 + moved, self.margin + self.slope * moved)
        return torch.stack([values, torch.zeros_like(values)], dim=1)


class FollowsABit(nn.Module):
    """A mask that is said to be fixed and follows the image by a little."""

    mask_traits = MaskTraits(source="oracle")

    def __init__(self, little: float) -> None:
        super().__init__()
        self.little = little

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        return 0.5 + self.little * images[:, :1]

    def forward(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        del context
        return torch.stack([1 - images[:, 0, 0, 0], images[:, 0, 0, 0]], dim=1)


def known(margin: float, slope: float) -> AttackBatch:
    images, labels = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))[:1].expand(2, -1, -1, -1), torch.zeros(2)
    system = as_system(KnowsOne(images[0], margin, slope))
    return AttackBatch(system=system, images=images, labels=labels.long(), context=None, seeds=torch.arange(2))


def masked(kind: type[TwoStage], segmenter: nn.Module) -> AttackBatch:
    system = kind(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), segmenter=segmenter, masks=MaskConfig(source=MaskSource.LEARNED))
    labels = torch.zeros(2, dtype=torch.int64)
    return AttackBatch(system=system.eval(), images=torch.rand(2, 3, 4, 4), labels=labels, context=None, seeds=labels)


def grey(system: nn.Module) -> AttackBatch:
    images, labels = torch.full((4, 3, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    return AttackBatch(system=as_system(system), images=images, labels=labels, context=None, seeds=torch.arange(4))


def finite(batch: AttackBatch) -> Check:
    return gradients.finite_numbers(batch, same(batch), "abcd")


def of_same_answers(name: str, batch: AttackBatch) -> Check:
    return next(check for check in sameness.same_answers(batch, same(batch), company=64) if check.name == name)


def followed(little: float) -> Check:
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    labels, context = torch.tensor([0, 1]), MaskContext(oracle_masks=images[:, :1])
    batch = AttackBatch(system=FollowsABit(little), images=images, labels=labels, context=context, seeds=labels)
    return masking.mask_follows_image(batch, same(batch))


def test_of_a_system_without_a_mask_it_is_said_that_there_is_none() -> None:
    batch = grey(Tells(lambda _: False, 1.0))
    check = masking.mask_follows_image(batch, same(batch))
    assert (check.outcome, check.finding) == (Outcome.SKIP, "there is no mask")


def reached(distances: list[float]) -> Check:
    """Descent in a system whose boundary is 0.05 away, against a search that found these distances."""
    batch = grey_batch(Bump(0.0, tied=False), 0, 4)
    return from_boundary.descent_reaches_boundary(batch, WIDE, torch.tensor(distances, dtype=torch.float64))


@pytest.mark.parametrize(
    ("check", "passes", "fails"),
    [
        # A gradient f times the true one disagrees by (f - 1) / (f + 1): by 0.2 at 1.5, by 0.5 at 3.
        (lambda f: differences.gradients_against_differences(*bent([f, f, 1, 1], [1] * 4, [1] * 4)), 1.48, 1.52),
        (lambda f: differences.gradients_against_differences(*bent([1 / f, 1 / f, 1, 1], [1] * 4, [1] * 4)), 1.48, 1.52),
        (lambda f: differences.gradients_against_differences(*bent([f, 1, 1, 1], [1] * 4, [1] * 4)), 2.95, 3.05),
        (lambda f: differences.gradients_reach(bent([f] * 4, [1] * 4, [1] * 4)[0], SHORT_STEP), 1.98, 2.02),
        (lambda c: finite(grey(Tells(lambda _: False, constant=c))), 9_900.0, 10_100.0),
        (lambda d: search.search_against_verdict(grey(Tells(lambda images: images.requires_grad, d)), WIDE), 0.98e-3, 1.02e-3),
        (lambda d: of_same_answers("batch invariance", grey(Tells(lambda images: len(images) == 1, d))), 0.98e-4, 1.02e-4),
        (
            lambda d: of_same_answers("threads, layout and types", grey(Tells(lambda images: images.dtype == torch.float64, d))),
            0.98e-2,
            1.02e-2,
        ),
        (lambda f: of_same_answers("gradient invariance", grey_batch(Alone(f), 2, 20)), 1.098, 1.102),
        (lambda f: of_same_answers("gradient invariance", grey_batch(Alone(f), 2, 20)), 0.902, 0.898),
        (lambda k: of_same_answers("gradient invariance", grey_batch(Alone(2.0), k, 20)), 1, 2),  # of 20 images
        (lambda k: masking.mask_saturation(masked(Falling, Saturated(k))), 0, 1),  # of 16 pixels
        (lambda x: masking.mask_saturation(masked(TwoStage, Faint(x))), -15.1, -15.3),  # 4 e^x is 1e-6 at -15.2
        (lambda k: masking.mask_saturation(grey_batch(ShowsItsMaskAlone(1, 0.45), k, 4)), 2, 3),  # masks that stay as they are
        (lambda k: masking.mask_saturation(grey_batch(ShowsItsMaskAlone(-1, 0.3), k, 20)), 1, 2),  # masks that shrink
        (lambda m: masking.shifted_images(known(m, 1.0)), 0.51, 0.49),
        (lambda s: masking.shifted_images(known(1.0, s)), 1.96, 2.04),
        (followed, 0.98e-4, 1.02e-4),
        (lambda d: reached([d, d, 1.0, 1.0]), 0.0335, 0.0332),  # half as far again as 0.0333 is 0.05
        (lambda k: reached([0.02] * k + [0.04] * (4 - k)), 1, 2),
    ],
)
def test_a_figure_at_its_limit_passes_and_a_little_more_fails(check: Callable[[float], Check], passes: float, fails: float) -> None:
    below, beyond = check(passes), check(fails)
    assert (below.outcome, beyond.outcome) == (Outcome.PASS, Outcome.FAIL), (below.finding, beyond.finding)
    assert (bool(below.advice), bool(beyond.advice)) == (False, True)


class InFewSteps(ByLevel):
    """Misclassified after the third of four steps along its gradient, or after the fourth: on its way from a random point of the
    ball a value has moved by 0.61 of epsilon after three steps of a quarter, in the mean, and by 0.75 after four."""

    def usual(self, moved: Tensor) -> Tensor:
        return moved.mean(dim=(1, 2, 3)) / WIDE.epsilon - 0.55

    def special(self, moved: Tensor) -> Tensor:
        return moved.mean(dim=(1, 2, 3)) / WIDE.epsilon - 0.68


@pytest.mark.parametrize(("late", "count"), [(1, 5), (1, 6), (2, 48), (2, 49), (0, 6)])
def test_a_search_has_levelled_off_where_half_a_point_may_be_all_that_falls_in_its_last_quarter(late: int, count: int) -> None:
    batch = grey_batch(InFewSteps(), late, count, side=16)
    check = search.loss_against_steps(batch, WIDE, num_steps=4)
    assert check.figures == pytest.approx(
        {"stuck": 0, "late": late / count, "images": count}
        | {f"robust_after_{steps}": part for steps, part in ((1, 1), (2, 1), (3, late / count), (4, 0))}
    )
    # Clopper and Pearson 1934: the share at which so many or more would be seen once in forty times.
    least = stats.beta.ppf(0.025, late, count - late + 1) if late else 0.0
    assert (check.outcome is Outcome.FAIL) == (least > 0.005)
