"""Auto-PGD against its authors' code, against closed forms, and against a record of every point it visited."""

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack import autopgd_base
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor

from pipeline.attacks.apgd import apgd, checkpoints
from pipeline.attacks.objectives import ModelObjective, cross_entropy, dlr
from pipeline.attacks.tracker import BestPoint, verdict
from pipeline.attacks.two_stage import SystemObjective
from pipeline.masks.config import MaskSource
from pipeline.system import TwoStage

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
NORMS = pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.8), ("l1", 6.0)])


class Recording:
    """An objective that is a function of images, and keeps what it was asked."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.points: list[Tensor] = []
        self.scores: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        scores = self.function(images)
        self.points.append(images.detach().clone())
        self.scores.append(scores.detach())
        return scores

    def select(self, _: Tensor) -> "Recording":
        return self


def rugged(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return torch.sin(flat * torch.linspace(3, 40, flat.shape[1], dtype=images.dtype)).sum(1) + torch.sin(flat.sum(1) * 5)


def random_images(size: int, side: int, seed: int) -> Tensor:
    return torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_checkpoints_of_100_steps_are_those_of_the_paper() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_the_checkpoints_of_any_number_of_steps_are_those_at_which_the_authors_code_has_counted_far_enough() -> None:
    for num_steps in range(1, 301):
        interval, less, least = (max(int(share * num_steps), 1) for share in (0.22, 0.03, 0.06))
        counted, moves = 0, []
        for move in range(1, num_steps + 1):
            counted += 1
            if counted == interval:
                moves.append(move)
                counted, interval = 0, max(interval - less, least)
        assert checkpoints(num_steps) == moves


@given(
    norm=st.sampled_from(["linf", "l2", "l1"]),
    epsilon=st.floats(0, 1.5),
    size=st.integers(1, 3),
    side=st.integers(1, 5),
    num_steps=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    region=st.sampled_from([None, "zeros", "ones", "half"]),
)
@settings(deadline=None, max_examples=40)
def test_the_result_is_the_best_visited_point_and_every_visited_point_is_allowed(
    norm: str, epsilon: float, size: int, side: int, num_steps: int, seed: int, region: str | None
) -> None:
    images = random_images(size, side, seed)
    shape = (size, 1, side, side)
    allowed = {None: None, "zeros": torch.zeros(shape), "ones": torch.ones(shape)}.get(
        region, (torch.arange(side) % 2).expand(shape)
    )
    objective = Recording(rugged)
    seeds = torch.arange(size) + seed
    found = apgd(
        objective,
        images,
        norm=norm,  # type: ignore[arg-type]
        epsilon=epsilon,
        num_steps=num_steps,
        region=None if allowed is None else allowed.float(),
        seeds=seeds,
        explored=Recording(rugged),
    )
    visited = torch.stack(objective.points)
    in_ball = num_steps - 2 * -(-3 * num_steps // 10) if norm == "l1" and num_steps >= 10 else num_steps
    assert len(visited) == 1 + in_ball + 1
    assert torch.equal(visited[0], images)
    deltas = visited.double() - images.double()
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    assert torch.linalg.vector_norm(deltas.flatten(2), ord=order, dim=2).max() <= epsilon
    assert visited.min() >= 0
    assert visited.max() <= 1
    if allowed is not None:
        assert torch.equal(visited * (allowed == 0), (images * (allowed == 0)).expand_as(visited))
    best = torch.stack(objective.scores).max(dim=0).values
    assert torch.equal(rugged(found), best)


@NORMS
def test_from_the_same_start_it_visits_the_points_that_the_authors_code_visits(
    norm: str,
    epsilon: float,
    make_system: Callable[..., TwoStage],
    make_batch: Callable[..., tuple],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In double precision: in single, the sign of a gradient entry near 0 is a matter of rounding. Their L1 projection is in single,
    # where a system of one stage keeps entries away from 0.
    dtype, source = (torch.float32, MaskSource.NONE) if norm == "l1" else (torch.float64, MaskSource.LEARNED)
    system = make_system(source, dtype=dtype)
    images, labels, _ = make_batch(system, 6, dtype=dtype)
    start = images + 0.5 * epsilon * (random_images(6, 16, 9).to(dtype) - 0.5) * {"linf": 1, "l2": 0.1, "l1": 0.01}[norm]
    start = start.clamp(0, 1)

    visited: list[Tensor] = []

    def watched(points: Tensor) -> Tensor:
        visited.append(points.detach().clone())
        return system(points)

    if norm == "l1":  # where rounding leaves a trace of a change that was taken back, they count it as one
        monkeypatch.setattr(autopgd_base, "L0_norm", lambda change: (change.abs() > 1e-6).flatten(1).sum(1))
    theirs = APGDAttack(watched, n_iter=30, norm=NAMES[norm], eps=epsilon, seed=0, device="cpu")
    theirs.init_hyperparam(images)
    monkeypatch.setattr(torch, "zeros", functools.partial(torch.zeros, dtype=dtype))  # where it keeps its losses
    theirs.attack_single_run(images, labels, x_init=start)
    monkeypatch.undo()
    ours = Recording(ModelObjective(model=system, score=cross_entropy, targets=(labels,)))
    apgd(ours, images, norm=norm, epsilon=epsilon, num_steps=30, start=start)  # type: ignore[arg-type]
    assert len(ours.points) == 1 + len(visited)
    apart = (torch.stack(ours.points[1:]) - torch.stack(visited)).abs().amax(dim=(0, 2, 3, 4))
    # In single precision another entry of the same size may be the last that a sparse step changes: then ways part.
    assert (apart <= (2e-5 if norm == "l1" else 1e-6)).sum() >= (5 if norm == "l1" else 6)


@NORMS
@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.NONE])
def test_from_the_same_start_every_image_is_misclassified_that_is_so_under_the_authors_code(
    norm: str, epsilon: float, source: MaskSource, make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    compared = 0
    for factor in (0.25, 0.5):
        ours, theirs = _misclassified(make_system(source), make_batch, norm, epsilon * factor, "ce", size=32, num_steps=20)
        assert (ours | ~theirs).all()
        compared += bool(theirs.any() and not theirs.all())
    assert compared, "no epsilon at which some images fall and some stand: nothing was compared"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient:Warning")
@NORMS
@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.NONE])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_at_the_published_budget_it_makes_at_least_as_many_images_misclassified(
    norm: str, epsilon: float, source: MaskSource, loss: str, make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple]
) -> None:
    ours, theirs = _misclassified(make_system(source, seed=1), make_batch, norm, epsilon * 0.2, loss, size=48, num_steps=100)
    assert 0 < theirs.sum() < 48
    assert ours.sum() >= theirs.sum() - int(norm == "l1")  # the two project otherwise: one image of 48 goes either way


def _misclassified(
    system: TwoStage,
    make_batch: Callable[..., tuple],
    norm: str,
    epsilon: float,
    loss: str,
    *,
    size: int,
    num_steps: int,
) -> tuple[Tensor, Tensor]:
    """Which images fall to us and which to them, from the same start within the same number of gradient steps."""
    images, labels, context = make_batch(system, size)
    visited: list[Tensor] = []

    def model(points: Tensor) -> Tensor:
        visited.append(points.detach().clone())
        return system(points)

    theirs = APGDAttack(model, n_iter=num_steps, norm=NAMES[norm], eps=epsilon, seed=5, loss=loss, device="cpu")
    with torch.random.fork_rng([]):
        their_points = theirs.perturb(images, labels)
    best = BestPoint(images)
    score = {"ce": cross_entropy, "dlr": dlr}[loss]
    apgd(
        best.track(SystemObjective(system=system, labels=labels, context=context, class_score=score)),
        images,
        norm=norm,  # type: ignore[arg-type]
        epsilon=epsilon,
        num_steps=num_steps,
        start=visited[1],  # the first question is for the labels of the images themselves
    )
    return tuple(verdict(system, points, labels, context).misclassified for points in (best.points, their_points))  # type: ignore[return-value]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_score_it_reaches_the_closed_form(norm: str) -> None:
    weights = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)  # far from 0 and 1, so that only the ball binds

    def score(points: Tensor) -> Tensor:
        return (points * weights).flatten(1).sum(1)

    found = apgd(Recording(score), images, norm=norm, epsilon=0.1, num_steps=50, seeds=torch.arange(2))  # type: ignore[arg-type]
    dual = weights.flatten(1).abs().sum(1) if norm == "linf" else weights.flatten(1).norm(dim=1)
    torch.testing.assert_close(score(found), score(images) + 0.1 * dual, rtol=1e-5, atol=1e-6)


def test_epsilon_zero_returns_the_images_to_the_bit() -> None:
    images = random_images(3, 4, 0)
    for norm in NAMES:
        found = apgd(Recording(rugged), images, norm=norm, epsilon=0, num_steps=3, seeds=torch.arange(3))  # type: ignore[arg-type]
        assert torch.equal(found, images)


def test_an_image_is_searched_the_same_in_any_batch() -> None:
    images, seeds = random_images(4, 4, 3).double(), torch.tensor([7, 1, 5, 9])
    together = apgd(Recording(rugged), images, norm="linf", epsilon=0.1, num_steps=12, seeds=seeds)
    for row in range(4):
        chosen = slice(row, row + 1)
        alone = apgd(Recording(rugged), images[chosen], norm="linf", epsilon=0.1, num_steps=12, seeds=seeds[chosen])
        assert torch.equal(alone, together[chosen])


def test_a_score_that_is_no_number_is_an_error_and_not_robustness() -> None:
    def broken(points: Tensor) -> Tensor:
        return torch.where(torch.arange(len(points)) == 1, torch.nan, 1.0) * points.flatten(1).sum(1)

    with pytest.raises(FloatingPointError, match=r"these images of the batch: 1$"):
        apgd(Recording(broken), random_images(3, 2, 0), norm="linf", epsilon=0.1, num_steps=2, seeds=torch.arange(3))


def test_it_says_what_a_random_start_and_a_search_need() -> None:
    images = random_images(1, 2, 0)
    with pytest.raises(ValueError, match="needs seeds, one for each image"):
        apgd(Recording(rugged), images, norm="linf", epsilon=0.1, num_steps=1)
    with pytest.raises(ValueError, match=r"at least 1, not 0$"):
        apgd(Recording(rugged), images, norm="linf", epsilon=0.1, num_steps=0, seeds=torch.arange(1))
    assert (
        apgd(Recording(margin_free), images, norm="linf", epsilon=0.1, num_steps=1, seeds=torch.tensor([1])).shape == images.shape
    )


def margin_free(points: Tensor) -> Tensor:
    return points.flatten(1).mean(1)
