"""Where diagnostics ask, and how far their short searches go, on a system whose boundary is known in closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.diagnostics import probing
from pipeline.attacks.diagnostics.probing import (
    Budget,
    boundary_points,
    climb,
    climb_to_targets,
    finite,
    floored,
    next_of_another_class,
    objective,
    probe_points,
    scale_of,
)
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import BestPoint
from pipeline.attacks.two_stage import SystemObjective
from pipeline.system import as_system


class Lightness(nn.Module):
    """Of class 1 where the mean is above a half, else of class 0; counts how often it is asked."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        means = images.mean(dim=(1, 2, 3))
        return torch.stack([torch.full_like(means, 0.5), means], dim=1)


def grey(levels: list[float], system: nn.Module | None = None) -> AttackBatch:
    images = torch.tensor(levels, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 3, 2, 4).contiguous()
    labels = (torch.tensor(levels) > 0.5).long()
    return AttackBatch(
        system=as_system(system or Lightness()), images=images, labels=labels, context=None, seeds=torch.arange(len(levels))
    )


def test_bisection_ends_at_the_last_of_4096_points_to_another_class_that_is_classified_right() -> None:
    levels = [0.1, 0.93, 0.27, 0.31, 0.77]
    batch, way = grey(levels), torch.arange(4097, dtype=torch.float64) / 4096
    others = [levels[row] for row in next_of_another_class(batch).tolist()]
    assert others == [0.93, 0.27, 0.77, 0.77, 0.1]
    for found, level, other in zip(boundary_points(batch), levels, others, strict=True):
        on_line = level + way * (other - level)
        right = on_line[(on_line > 0.5) == (level > 0.5)]
        torch.testing.assert_close(found, right[-1].expand_as(found))


def test_the_most_doubtful_point_is_on_the_boundary_or_half_as_far_again_as_a_search_went() -> None:
    batch, budget = grey([0.38, 0.3, 0.45, 0.62]), Budget(norm="linf", epsilon=0.1)
    places = probe_points(batch, budget)
    assert list(places) == ["clean", "on the boundary", "in the ball", "on the way of a search"]
    assert (places["in the ball"] - batch.images).abs().amax() <= 0.1
    means = places["on the way of a search"].mean(dim=(1, 2, 3))
    torch.testing.assert_close(means, torch.tensor([0.5, 0.45, 0.5, 0.5]).double(), rtol=0, atol=1e-5)
    assert list(probe_points(batch, None)) == ["clean", "on the boundary"]


@pytest.mark.parametrize(
    ("step", "radii", "expected"), [(None, None, [0.02, 0.02]), (0.03, None, [0.03, 0.03]), (0.03, [0.2, 0.04], [0.05, 0.01])]
)
def test_a_step_of_descent_is_a_quarter_of_the_radius_or_what_was_asked_for(
    step: float | None, radii: list[float] | None, expected: list[float]
) -> None:
    batch, seen = grey([0.2, 0.3]), list[Tensor]()
    climb(
        objective(batch),
        batch,
        Budget(norm="linf", epsilon=0.08, step=step),
        num_steps=2,
        start=batch.images,
        radii=None if radii is None else torch.tensor(radii).double(),
        observer=lambda points, _: seen.append((points - batch.images).mean(dim=(1, 2, 3))),
    )
    moves = torch.tensor(expected).double()
    torch.testing.assert_close(torch.stack(seen), torch.stack([0 * moves, 0 * moves, moves, 2 * moves]))


class Colors(Lightness):
    """As many classes as values."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :1] + images.flatten(1)


@pytest.mark.parametrize(("system", "targets"), [(Colors, 3), (Lightness, 1)])
def test_three_of_the_wrong_classes_are_aimed_at_with_twenty_steps_each(system: type[Lightness], targets: int) -> None:
    counted = system()
    batch = grey([0.2, 0.3], counted)
    climb_to_targets(batch, Budget(norm="linf", epsilon=0.1))
    assert counted.calls == 1 + targets * (1 + 20 + 1)  # the image, every step, and the last point


def test_the_classes_that_are_aimed_at_are_the_likeliest_wrong_ones_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.rand(4, 3, 2, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([5, 0, 23, 7])
    images[2, 2, 1, 3] = 1  # also where the label is the likeliest itself
    batch = AttackBatch(system=as_system(Colors()), images=images, labels=labels, context=None, seeds=labels)
    aimed: list[list[int]] = []

    def note(climbed: SystemObjective, *_: object, **__: object) -> BestPoint:
        assert climbed.target_labels is not None
        aimed.append(climbed.target_labels.tolist())
        return BestPoint(images)

    monkeypatch.setattr(probing, "climb", note)
    climb_to_targets(batch, Budget(norm="linf", epsilon=0.1))
    likely = [
        [one for one in np.argsort(-image.flatten().numpy()) if one != label] for image, label in zip(images, labels, strict=True)
    ]
    assert aimed == [[classes[rank] for classes in likely] for rank in range(3)]


def test_the_scale_of_logits_is_the_median_gap_and_what_is_far_below_the_likeliest_is_raised_to_20_of_it() -> None:
    assert scale_of(grey([0.2, 0.45, 0.9])) == pytest.approx(0.3)
    logits = torch.tensor([[5.0, 4.0, 5 - 20 * 0.3 + 0.1, 5 - 20 * 0.3 - 0.1, -torch.inf]])
    torch.testing.assert_close(floored(logits, 0.3), torch.tensor([[5.0, 4.0, -0.9, -1.0, -1.0]]))


def test_what_is_infinite_or_no_number_counts_as_0() -> None:
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -2.0])
    assert torch.equal(finite(values), torch.tensor([0, 0, 0, 1e30, -2.0]))
