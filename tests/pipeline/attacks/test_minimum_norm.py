"""Minimum-norm attacks against distances in closed form and the iterates of another library."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from pipeline.attacks.apgd import apgd
from pipeline.attacks.minimum_norm import Nearest, ddn, fmn
from pipeline.attacks.objectives import ModelObjective, margin
from pipeline.attacks.pgd import pgd_l2, pgd_linf
from pipeline.attacks.regions import region_masks
from pipeline.attacks.threat import Region
from pipeline.masks.config import MaskSource
from pipeline.system import TwoStage, attacked

pytestmark = pytest.mark.filterwarnings("ignore:Please import `gaussian_filter` from the `scipy.ndimage`:DeprecationWarning")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def search(name: str, objective: object, images: Tensor, *, seeds: Tensor | None = None, **options: object) -> Nearest:
    if name == "ddn":
        return ddn(objective, images, seeds=torch.arange(len(images)) if seeds is None else seeds, **options)  # type: ignore[arg-type]
    return fmn(objective, images, norm=name.removeprefix("fmn-"), **options)  # type: ignore[arg-type]


SEARCHES = pytest.mark.parametrize("name", ["fmn-linf", "fmn-l2", "fmn-l1", "ddn"])
ORDERS = {"fmn-linf": torch.inf, "fmn-l1": 1}
DUALS = {"fmn-linf": 1, "fmn-l1": torch.inf}


def length(name: str, deltas: Tensor) -> Tensor:
    return torch.linalg.vector_norm(deltas.double().flatten(1), ord=ORDERS.get(name, 2), dim=1)


def linear_network(side: int = 8, *, seed: int = 0) -> nn.Module:
    """Two classes, one hyperplane; images near grey are far enough from 0 and 1 for the box to play no part."""
    layer = nn.Linear(3 * side * side, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 3 * side * side, generator=seeded(seed), dtype=torch.float64))
        layer.bias.copy_(-0.5 * layer.weight.sum(dim=1))
    return nn.Sequential(nn.Flatten(), layer)


def grey_images(count: int = 6, side: int = 8, *, seed: int = 1) -> Tensor:
    return 0.5 + 0.05 * torch.randn(count, 3, side, side, generator=seeded(seed), dtype=torch.float64)


def curved_network(classes: int = 4, side: int = 8, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * side * side // 4, classes)
        ).to(dtype)
    with torch.no_grad():
        network[4].weight.mul_(10)
    return network.requires_grad_(False)


@SEARCHES
@pytest.mark.parametrize("with_region", [False, True])
def test_on_a_linear_model_the_distance_is_that_of_the_hyperplane(name: str, with_region: bool) -> None:
    network, images = linear_network(), grey_images()
    labels = network(images).argmax(dim=1)
    region = torch.rand(6, 1, 8, 8, generator=seeded(4)) < 0.7 if with_region else None
    objective = ModelObjective(model=network, score=margin, targets=(labels,))
    found = search(name, objective, images, num_steps=300, region=region)
    normal = network[1].weight[0] - network[1].weight[1]
    free = torch.ones(6, 3 * 64) if region is None else region.expand(-1, 3, -1, -1).flatten(1)
    dual = torch.linalg.vector_norm(normal * free, ord=DUALS.get(name, 2), dim=1)
    gap = -objective(images)
    # Euclidean steps lead to an L1 ball's corner slowly.
    torch.testing.assert_close(found.distances, gap / dual, rtol=5e-2 if name == "fmn-l1" else 1e-2, atol=0)
    assert (found.distances >= gap / dual * (1 - 1e-9)).all()  # nothing is nearer than the hyperplane
    assert (objective(found.points) > 0).all()
    assert torch.equal(found.distances, length(name, found.points - images))
    if region is not None:
        assert torch.equal(torch.where(region, images, found.points), images)


def foolbox_distances(name: str, attack: str, network: nn.Module, images: Tensor, labels: Tensor, *, num_steps: int) -> Tensor:
    import foolbox

    search = getattr(foolbox.attacks, attack)(steps=num_steps)
    points = search.run(foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu"), images, labels)
    fooled = network(points).argmax(dim=1) != labels
    return torch.where(fooled, length(name, points - images), torch.inf)


@pytest.mark.parametrize("name", ["fmn-linf", "fmn-l2", "fmn-l1"])
@pytest.mark.parametrize("num_steps", [30, 100])
def test_fast_minimum_norm_comes_as_near_as_foolbox_does(name: str, num_steps: int) -> None:
    network = curved_network()
    images = torch.rand(8, 3, 8, 8, generator=seeded(5))
    labels = network(images).argmax(dim=1)
    attack = {"fmn-linf": "LInfFMNAttack", "fmn-l2": "L2FMNAttack", "fmn-l1": "L1FMNAttack"}[name]
    theirs = foolbox_distances(name, attack, network, images, labels, num_steps=num_steps)
    ours = search(name, ModelObjective(model=network, score=margin, targets=(labels,)), images, num_steps=num_steps).distances
    assert theirs.isfinite().sum() >= (6 if name == "fmn-l1" else 8)
    # Ours crosses the boundary sooner and scores its last point: it may be nearer, and in the Euclidean norm it is.
    assert (ours <= theirs * 1.01).all()
    assert name != "fmn-linf" or (ours >= theirs * 0.95).all()


def test_two_searches_of_different_kinds_agree_on_the_euclidean_distance() -> None:
    network = curved_network()
    images = torch.rand(8, 3, 8, 8, generator=seeded(5))
    labels = network(images).argmax(dim=1)
    objective = ModelObjective(model=network, score=margin, targets=(labels,))
    first, second = (search(name, objective, images, num_steps=200).distances for name in ("fmn-l2", "ddn"))
    torch.testing.assert_close(first, second, rtol=0.05, atol=0)


def test_decoupled_direction_and_norm_comes_as_near_as_foolbox_does() -> None:
    network = curved_network(classes=2)
    images = torch.rand(8, 3, 8, 8, generator=seeded(6))
    labels = network(images).argmax(dim=1)
    # With two classes the gradient of cross-entropy is that of the margin but for its length, which is normalized away.
    theirs = foolbox_distances("ddn", "DDNAttack", network, images, labels, num_steps=60)
    ours = search("ddn", ModelObjective(model=network, score=margin, targets=(labels,)), images, num_steps=60).distances
    assert theirs.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0)


@SEARCHES
def test_what_is_wrong_as_it_is_has_distance_zero_and_what_is_never_fooled_an_infinite_one(name: str) -> None:
    network, images = curved_network(), torch.rand(6, 3, 8, 8, generator=seeded(7))
    predictions = network(images).argmax(dim=1)
    wrong = torch.arange(6) % 2 == 0
    labels = torch.where(wrong, (predictions + 1) % 4, predictions)
    found = search(name, ModelObjective(model=network, score=margin, targets=(labels,)), images, num_steps=60)
    assert (found.distances[wrong] == 0).all()
    assert torch.equal(found.points[wrong], images[wrong])
    assert (found.distances[~wrong] > 0).all()

    def never(points: Tensor) -> Tensor:
        return -1 - points.square().flatten(1).sum(1)

    never.select = lambda _: never  # type: ignore[attr-defined]
    unfooled = search(name, never, images, num_steps=5)
    assert unfooled.distances.isinf().all()
    assert torch.equal(unfooled.points, images)


@SEARCHES
@pytest.mark.parametrize("source", list(MaskSource))
def test_every_mask_source_is_searched_and_points_are_misclassified_images_in_range(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple], name: str, source: MaskSource
) -> None:
    system = make_system(source)
    images, labels, context = make_batch(system, 4)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    with attacked(system):
        found = search(name, objective, images, num_steps=25)
        predictions = system(found.points, context).argmax(dim=1)
    fooled = found.distances.isfinite()
    assert fooled.any()
    assert torch.equal(predictions != labels, fooled)
    assert ((found.points >= 0) & (found.points <= 1)).all()
    assert torch.equal(found.distances[fooled], length(name, found.points.double() - images.double())[fooled])


@SEARCHES
def test_the_distance_agrees_with_attacks_of_a_fixed_radius(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple], name: str
) -> None:
    """No attack finds anything well inside the distance, and a little beyond it descent from the found point succeeds."""
    system = make_system()
    images, labels, context = make_batch(system, 8)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    pgd = {"fmn-linf": pgd_linf, "fmn-l1": partial(apgd, norm="l1")}.get(name, pgd_l2)
    with attacked(system):
        found = search(name, objective, images, num_steps=100)
        assert found.distances.isfinite().all()
        inside = pgd(objective, images, epsilon=0.9 * found.distances.float(), num_steps=50, seeds=torch.arange(8))
        outside = pgd(objective, images, epsilon=1.1 * found.distances.float(), num_steps=50, seeds=torch.arange(8))
        assert (objective(inside) > 0).sum() <= 1  # a search that is no exact solution may be beaten once
        assert (objective(outside) > 0).sum() >= 7


@SEARCHES
def test_an_images_distance_does_not_depend_on_its_batch(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple], name: str
) -> None:
    system = make_system(dtype=torch.float64)
    images, labels, context = make_batch(system, 5, dtype=torch.float64)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    seeds = torch.tensor([5, 6, 7, 8, 9])
    together = search(name, objective, images, num_steps=20, seeds=seeds)
    for image in range(5):
        one = torch.tensor([image])
        alone = search(name, objective.select(one), images[one], num_steps=20, seeds=seeds[one])
        torch.testing.assert_close(alone.distances, together.distances[one], rtol=1e-9, atol=0)


def test_the_background_is_infinitely_far_through_an_oracle_mask(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    system = make_system(MaskSource.ORACLE)
    images, labels, context = make_batch(system, 3)
    objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
    background = region_masks(Region.BACKGROUND, context.oracle_masks, radius=1)
    for name in ("fmn-linf", "fmn-l2", "fmn-l1", "ddn"):
        found = search(name, objective, images, num_steps=5, region=background)
        assert found.distances.isinf().all()


def test_flat_scores_take_ddn_on_a_random_walk_that_follows_the_seed() -> None:
    visited: list[Tensor] = []

    def flat(points: Tensor) -> Tensor:
        visited.append(points.detach())
        return points.flatten(1).sum(1) * 0 - 1

    flat.select = lambda _: flat  # type: ignore[attr-defined]
    images = torch.full((3, 3, 6, 6), 0.5)
    ddn(flat, images, seeds=torch.tensor([1, 1, 2]), num_steps=3)
    last = visited[-1]
    assert torch.equal(last[0], last[1])
    assert not torch.equal(last[0], last[2])
    assert len(visited) == 4


@SEARCHES
def test_a_score_that_is_no_number_names_its_image(name: str) -> None:
    def broken(points: Tensor) -> Tensor:
        return points.flatten(1).sum(1) * torch.tensor([1.0, np.nan, 1.0])

    broken.select = lambda _: broken  # type: ignore[attr-defined]
    with pytest.raises(FloatingPointError, match=r"of the batch: 1$"):
        search(name, broken, torch.rand(3, 3, 4, 4, generator=seeded(8)), num_steps=2)


class Visited:
    """A curved score of one image, its gradient by hand, and every point that it was asked about."""

    def __init__(self, normal: Tensor, offset: float) -> None:
        self.normal, self.offset = normal, offset
        self.points: list[np.ndarray] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.points.append(images.detach()[0].numpy().copy())
        flat = images.flatten(1) @ self.normal
        return flat + 0.3 * flat.square() - self.offset

    def by_hand(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        normal = self.normal.numpy().reshape(point.shape)
        flat = float((point * normal).sum())
        return flat + 0.3 * flat**2 - self.offset, (1 + 0.6 * flat) * normal

    def select(self, _: Tensor) -> "Visited":
        return self


def into_l2_ball(point: np.ndarray, image: np.ndarray, radius: float) -> np.ndarray:
    distance = np.linalg.norm(point - image)
    return (image + (point - image) * min(1, radius / distance) if distance else point).clip(0, 1)


def into_l1_ball(point: np.ndarray, image: np.ndarray, radius: float) -> np.ndarray:
    """By its Lagrange multiplier."""
    change, room = np.abs(point - image), np.where(point > image, 1 - image, image)

    def sizes(multiplier: float) -> np.ndarray:
        return np.minimum(np.maximum(change - multiplier, 0), room)

    multiplier = 0.0 if sizes(0).sum() <= radius else brentq(lambda one: sizes(one).sum() - radius, 0, change.max(), xtol=1e-14)
    return image + np.sign(point - image) * sizes(multiplier)


def into_linf_ball(point: np.ndarray, image: np.ndarray, radius: float) -> np.ndarray:
    return np.clip(point, image - radius, image + radius).clip(0, 1)


INTO_BALL = {"linf": into_linf_ball, "l2": into_l2_ball, "l1": into_l1_ball}


def fmn_by_hand(objective: Visited, image: np.ndarray, *, norm: str, num_steps: int, first_step: float) -> list[np.ndarray]:
    """Pintor et al. 2021, algorithm 1, with the two deviations that the docstring of ``fmn`` names."""
    order, dual = {"linf": (np.inf, 1), "l2": (2, 2), "l1": (1, np.inf)}[norm]
    far = np.linalg.norm(np.maximum(image, 1 - image).ravel(), order)
    point, closest, radius, visited = image, np.inf, np.inf, []
    for step in range(num_steps):
        visited.append(point)
        score, gradient = objective.by_hand(point)
        distance = np.linalg.norm((point - image).ravel(), order)
        cosine = 0.5 + 0.5 * np.cos(np.pi * step / num_steps)
        change = cosine * 0.05 + (1 - cosine) * 0.001
        if score > 0:
            closest = min(closest, distance)
            radius = min((1 - change) * radius, closest)
        elif closest < np.inf:
            radius = (1 + change) * radius
        else:
            radius = (1 + change) * (distance + abs(score) / np.linalg.norm(gradient.ravel(), dual))
        radius = min(radius, far)
        length = first_step * (cosine + (1 - cosine) / 100)
        stepped = point + length * gradient / np.linalg.norm(gradient)
        point = INTO_BALL[norm](stepped, image, radius)
    return [*visited, point]


def ddn_by_hand(objective: Visited, image: np.ndarray, *, num_steps: int, first_radius: float) -> list[np.ndarray]:
    """Rony et al. 2019, algorithm 1."""
    point, radius, visited = image, first_radius, []
    far = np.linalg.norm(np.maximum(image, 1 - image))
    for step in range(num_steps):
        visited.append(point)
        score, gradient = objective.by_hand(point)
        length = 0.01 + 0.99 * (0.5 + 0.5 * np.cos(np.pi * step / num_steps))
        moved = point - image + length * gradient / np.linalg.norm(gradient)
        radius = min(radius * (0.95 if score > 0 else 1.05), far)
        point = into_l2_ball(image + moved * radius / np.linalg.norm(moved), image, radius)
    return [*visited, point]


@SEARCHES
@pytest.mark.parametrize("gap", [0.02, 0.5])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_every_point_visited_is_that_of_the_published_algorithm(name: str, gap: float, scale: float) -> None:
    normal = scale * torch.randn(3 * 25, generator=seeded(9), dtype=torch.float64)
    images = torch.rand(1, 3, 5, 5, generator=seeded(10), dtype=torch.float64)
    flat = float(images.flatten() @ normal)
    objective = Visited(normal, flat + 0.3 * flat**2 + gap * scale)
    image = images[0].numpy()
    if name == "ddn":
        first_radius = 0.7 if gap < 0.1 else 3.0  # inside the first step, and beyond it
        found = search(name, objective, images, num_steps=12, first_radius=first_radius)
        expected = ddn_by_hand(objective, image, num_steps=12, first_radius=first_radius)
    else:
        found = search(name, objective, images, num_steps=12, step_size=0.4)
        expected = fmn_by_hand(objective, image, norm=name.removeprefix("fmn-"), num_steps=12, first_step=0.4)
    assert len(objective.points) == 13
    np.testing.assert_allclose(np.stack(objective.points), np.stack(expected), rtol=0, atol=2e-6)  # the ball ends a little inside
    fooled = [point for point in objective.points if objective.by_hand(point)[0] > 0]
    assert fooled or name not in ("fmn-l2", "fmn-l1")
    nearest = min((float(length(name, torch.from_numpy(point - image)[None])) for point in fooled), default=torch.inf)
    assert float(found.distances) == nearest


@pytest.mark.parametrize("sign", [1, -1])
def test_a_gradient_of_one_sign_everywhere_is_no_flat_one(sign: int) -> None:
    normal = sign * 0.01 * torch.rand(3 * 25, generator=seeded(11), dtype=torch.float64)
    images = torch.full((1, 3, 5, 5), 0.5, dtype=torch.float64)
    objective = Visited(normal, float(0.5 * normal.sum()) + 0.05)
    ddn(objective, images, seeds=torch.tensor([3]), num_steps=4)
    expected = ddn_by_hand(objective, images[0].numpy(), num_steps=4, first_radius=1.0)
    np.testing.assert_allclose(np.stack(objective.points), np.stack(expected), rtol=0, atol=2e-6)
