"""HopSkipJump against the closed-form distance of a hyperplane, a white-box search, and the rule that it asks for nothing else."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.attacks.hop_skip_jump import hop_skip_jump
from pipeline.attacks.minimum_norm import fmn
from pipeline.attacks.objectives import ModelObjective, margin
from pipeline.attacks.regions import region_masks
from pipeline.attacks.threat import Region
from pipeline.masks.config import MaskSource
from pipeline.randomness import derive_seeds, normal, uniform
from pipeline.system import TwoStage, attacked

SIDE = 4
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}
DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}
NORMS = pytest.mark.parametrize("norm", ["l2", "linf", "l1"])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def length(deltas: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(deltas.double().flatten(1), ord=ORDERS[norm], dim=1)


@NORMS
@pytest.mark.parametrize("with_region", [False, True])
def test_on_a_hyperplane_the_distance_is_found_to_a_few_percent(norm: str, with_region: bool) -> None:
    normal = torch.randn(3, SIDE, SIDE, generator=seeded(0), dtype=torch.float64)
    images = 0.5 + 0.05 * torch.randn(4, 3, SIDE, SIDE, generator=seeded(1), dtype=torch.float64)
    region = torch.rand(4, 1, SIDE, SIDE, generator=seeded(2)) < 0.8 if with_region else None
    free = normal.expand(4, -1, -1, -1) * (1 if region is None else region)
    threshold = (normal * images).flatten(1).sum(1) + torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = hop_skip_jump(
        lambda points: (normal * points).flatten(1).sum(1) > threshold,
        images,
        norm=norm,
        seeds=torch.arange(4),
        num_steps=12,
        max_probes=300,
        region=region,
    )
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4]) / torch.linalg.vector_norm(free.flatten(1), ord=DUALS[norm], dim=1)
    assert (found.distances >= expected * (1 - 1e-9)).all()  # nothing lies on this side of the hyperplane
    assert (found.distances <= expected * {"linf": 1.5, "l2": 1.1, "l1": 3}[norm]).all()
    assert torch.equal(found.distances, length(found.points - images, norm))
    if region is not None:
        assert torch.equal(torch.where(region, images, found.points), images)


@pytest.mark.parametrize(
    ("norm", "source"),
    [
        ("linf", "learned"),
        ("l1", "oracle"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("l2", "learned"), ("linf", "none"), ("l1", "learned"))),
    ],
)
def test_it_is_never_much_nearer_than_a_white_box_search_on_a_smooth_system(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple], norm: str, source: str
) -> None:
    system = make_system(MaskSource(source))
    images, labels, context = make_batch(system, 4)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    with attacked(system), torch.no_grad():
        found = hop_skip_jump(
            lambda points: objective(points) > 0, images, norm=norm, seeds=torch.arange(4), num_steps=3, max_probes=150
        )
        white_box = fmn(objective, images, norm=norm, num_steps=100)
        assert found.distances.isfinite().all()
        assert (objective(found.points) > 0).all()
    assert ((found.points >= 0) & (found.points <= 1)).all()
    assert (found.distances >= 0.9 * white_box.distances).all()


def test_what_is_wrong_has_distance_zero_and_what_no_noise_fools_an_infinite_one() -> None:
    images = torch.rand(3, 3, SIDE, SIDE, generator=seeded(3))
    kind = torch.tensor([0, 1, 2])

    def decide(points: Tensor) -> Tensor:
        return (kind == 0) | ((kind == 1) & (points.flatten(1).mean(1) > 0.55))

    found = hop_skip_jump(decide, images, norm="l2", seeds=torch.arange(3), num_steps=2, max_probes=20)
    assert found.distances[0] == 0
    assert torch.equal(found.points[[0, 2]], images[[0, 2]])
    assert 0 < found.distances[1] < 3
    assert found.distances[2] == torch.inf


def test_an_images_search_does_not_depend_on_its_batch() -> None:
    images = torch.rand(3, 3, SIDE, SIDE, generator=seeded(4), dtype=torch.float64)
    seeds = torch.tensor([7, 8, 9])

    def decide(points: Tensor) -> Tensor:
        return points.flatten(1).square().mean(1) > 0.4

    options = {"norm": "l2", "num_steps": 3, "max_probes": 50}
    together = hop_skip_jump(decide, images, seeds=seeds, **options)
    for image in range(3):
        one = slice(image, image + 1)
        alone = hop_skip_jump(decide, images[one], seeds=seeds[one], **options)
        torch.testing.assert_close(alone.distances, together.distances[one], rtol=1e-9, atol=0)


def test_beside_the_object_of_an_oracle_system_nothing_is_found(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system(MaskSource.ORACLE)
    images, labels, context = make_batch(system, 2)
    background = region_masks(Region.BACKGROUND, context.oracle_masks, radius=1)
    with attacked(system), torch.no_grad():
        found = hop_skip_jump(
            lambda points: system(points, context).argmax(1) != labels,
            images,
            norm="l2",
            seeds=torch.arange(2),
            num_steps=1,
            max_probes=5,
            num_starts=5,
            region=background,
        )
    assert found.distances.isinf().all()


class Side:
    """On which side of a curved boundary a point lies, and how often that was asked."""

    def __init__(self, threshold: float) -> None:
        self.slopes = torch.randn(3, SIDE, SIDE, generator=seeded(20), dtype=torch.float64).numpy()
        self.threshold, self.asked = threshold, 0

    def __call__(self, points: Tensor) -> Tensor:
        assert len(points) == 1
        return torch.tensor([self.beyond(points[0].numpy())])

    def beyond(self, point: np.ndarray) -> bool:
        self.asked += 1
        return bool((self.slopes * (point - 0.5)).sum() + (point - 0.5).ravel()[:9].sum() ** 2 > self.threshold)


def by_hand(
    side: Side, image: np.ndarray, free: np.ndarray, *, norm: str, seed: int, num_steps: int, max_probes: int
) -> np.ndarray:
    """Chen et al. 2020, algorithms 1 and 2, for one image, with the deviation that the docstring names."""
    order = np.inf if norm == "linf" else 2
    seeds = torch.tensor([seed])

    def drawn(draw: Callable[..., Tensor], *keys: int) -> np.ndarray:
        return draw(derive_seeds(derive_seeds(seeds, *keys[:2]), *keys[2:]), image.shape, dtype=torch.float64)[0].numpy()

    def distance(point: np.ndarray) -> float:
        return float(np.linalg.norm((point - image).ravel(), order))

    def to_boundary(far: np.ndarray) -> np.ndarray:
        low, high = 0.0, 1.0 if norm == "l2" else distance(far)
        best = far
        for _ in range(12):
            middle = (low + high) / 2
            between = image + (middle * (far - image) if norm == "l2" else (far - image).clip(-middle, middle))
            if side.beyond(between):
                best, high = between, middle
            else:
                low = middle
        return best

    assert not side.beyond(image)
    for number in range(100):
        point = np.where(free > 0, drawn(uniform, 0, number), image)
        if side.beyond(point):
            break
    point = to_boundary(point)
    best = point
    for step in range(1, num_steps + 1):
        reach = np.linalg.norm(point - image) / np.sqrt(image.size)
        probes = min(int(100 * step**0.5), max_probes)
        offsets, answers = [], []
        for probe in range(probes):
            noise = drawn(normal, 1, step, probe) * free
            neighbor = (point + reach * noise / np.linalg.norm(noise)).clip(0, 1)
            offsets.append((neighbor - point) / reach)
            answers.append(1.0 if side.beyond(neighbor) else -1.0)
        weights = np.array(answers) - np.mean(answers) if len(set(answers)) > 1 else np.array(answers)
        direction = np.tensordot(weights, np.stack(offsets), axes=1)
        direction = np.sign(direction) * free if norm == "linf" else direction / np.linalg.norm(direction)
        length, start = distance(point) / step**0.5, point
        for _ in range(24):
            jumped = (start + length * direction).clip(0, 1)
            if side.beyond(jumped):
                point = jumped
                break
            length /= 2
        point = to_boundary(point)
        best = point if distance(point) < distance(best) else best
    return best


@pytest.mark.parametrize("norm", ["l2", "linf"])  # what the authors publish
@pytest.mark.parametrize(("threshold", "with_region"), [(0.3, True), (1.2, False)])
def test_it_asks_what_the_published_algorithm_asks_and_ends_where_that_does(norm: str, threshold: float, with_region: bool) -> None:
    image = torch.full((1, 3, SIDE, SIDE), 0.5, dtype=torch.float64) - 0.02 * torch.from_numpy(Side(0).slopes)[None]
    region = torch.arange(SIDE * SIDE).view(1, 1, SIDE, SIDE) % 5 > 0 if with_region else None
    free = np.ones((3, SIDE, SIDE)) * (1 if region is None else region[0].numpy())
    ours, theirs = Side(threshold), Side(threshold)
    found = hop_skip_jump(ours, image, norm=norm, seeds=torch.tensor([5]), num_steps=3, max_probes=150, region=region)
    expected = by_hand(theirs, image[0].numpy(), free, norm=norm, seed=5, num_steps=3, max_probes=150)
    assert ours.asked == theirs.asked > 350
    np.testing.assert_allclose(found.points[0].numpy(), expected, rtol=0, atol=1e-9)
    assert found.distances.isfinite().all()
