"""PGD against linear models solved by hand, two other libraries, and a record of every point it visited."""

from collections.abc import Callable
from pathlib import Path

import eagerpy
import pytest
import torch
import torchattacks
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from classifier.losses import cross_entropy
from pipeline.attacks.config import PgdConfig
from pipeline.attacks.objectives import ModelObjective, margin
from pipeline.attacks.pgd import pgd, pgd_l2, pgd_linf
from pipeline.attacks.regions import region_masks
from pipeline.attacks.threat import Region
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage, attacked

pytestmark = pytest.mark.filterwarnings("ignore:Please import `gaussian_filter` from the `scipy.ndimage`:DeprecationWarning")

Attack = Callable[..., Tensor]
BOTH = pytest.mark.parametrize("attack", [pgd_linf, pgd_l2])
CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "attack" / "training").glob("*.yaml"))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recording:
    """An objective that is a function of images, and keeps what it was asked."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.points: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.with_gradient: list[bool] = []

    def __call__(self, images: Tensor) -> Tensor:
        scores = self.function(images)
        self.points.append(images.detach().clone())
        self.scores.append(scores.detach())
        self.with_gradient.append(images.requires_grad)
        return scores

    def select(self, _: Tensor) -> "Recording":
        return self


def rugged(images: Tensor) -> Tensor:
    """Many local maxima, different for each image: no step is sure to go up."""
    flat = images.flatten(1)
    waves = torch.linspace(3, 40, flat.shape[1], dtype=images.dtype)
    return torch.sin(flat * waves).sum(1) + torch.sin(flat.sum(1) * 5)


def linear(weights: Tensor) -> Recording:
    return Recording(lambda images: (images * weights).flatten(1).sum(1))


def network(classes: int = 4, side: int = 8) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Softplus(), nn.Flatten())
    return nn.Sequential(body, nn.Linear(6 * side * side, classes)).eval()


def lengths(attack: Attack, deltas: Tensor) -> Tensor:
    deltas = deltas.double().flatten(1)
    return deltas.abs().amax(dim=1) if attack is pgd_linf else deltas.norm(dim=1)


# 1. In the ball, in [0,1], and the best point visited


@given(
    attack=st.sampled_from([pgd_linf, pgd_l2]),
    batch=st.integers(1, 3),
    side=st.integers(1, 6),
    epsilon=st.sampled_from([0.0, 1e-6, 8 / 255, 0.3, 1.0, 5.0]),
    num_steps=st.integers(1, 4),
    restarts=st.integers(1, 3),
    random_start=st.booleans(),
    with_start=st.booleans(),
    region=st.sampled_from([None, "none", "all", "half"]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_the_result_is_in_the_ball_and_is_the_best_point_visited_with_the_image_and_the_end(
    attack: Attack,
    batch: int,
    side: int,
    epsilon: float,
    num_steps: int,
    restarts: int,
    random_start: bool,
    with_start: bool,
    region: str | None,
    seed: int,
) -> None:
    images = torch.rand(batch, 3, side, side, generator=seeded(seed)).mul(1.4).sub(0.2).clamp(0, 1)
    allowed = {None: None, "none": torch.zeros(batch, 1, side, side), "all": torch.ones(batch, 1, side, side)}
    allowed["half"] = (torch.rand(batch, 1, side, side, generator=seeded(seed + 1)) > 0.5).float()
    objective = Recording(rugged)
    found = attack(
        objective,
        images,
        epsilon=epsilon,
        num_steps=num_steps,
        restarts=restarts if random_start else 1,
        random_start=random_start,
        region=allowed[region],
        start=torch.rand(images.shape, generator=seeded(seed + 2)) if with_start else None,
        seeds=torch.arange(len(images)) + seed + 3,
    )
    for points in (*objective.points, found):
        assert ((points >= 0) & (points <= 1)).all()
        assert (lengths(attack, points - images) <= epsilon).all()
        if region is not None:
            assert torch.equal(torch.where(allowed[region] > 0, images, points), images)
    visited, scores = torch.stack(objective.points), torch.stack(objective.scores)
    num_starts = restarts if random_start else 1
    assert len(visited) == num_starts * (num_steps + 1) + (random_start or with_start)  # the image, unless it is the start
    assert torch.equal(visited[0], images)
    assert torch.equal(rugged(found), scores.amax(dim=0))
    assert (visited == found).flatten(2).all(dim=2).any(dim=0).all()


@BOTH
def test_one_step_without_a_random_start_does_not_return_the_image(attack: Attack) -> None:
    images, weights = torch.full((2, 3, 4, 4), 0.5), torch.randn(2, 3, 4, 4, generator=seeded(0))
    found = attack(linear(weights), images, epsilon=0.1, step_size=0.1, num_steps=1, random_start=False)
    torch.testing.assert_close(lengths(attack, found - images), torch.full((2,), 0.1, dtype=torch.float64), rtol=1e-5, atol=0)


@BOTH
def test_an_image_that_cannot_be_made_worse_comes_back_as_it_was(attack: Attack) -> None:
    images = torch.rand(2, 3, 4, 4, generator=seeded(1))
    peak = Recording(lambda points: -(points - images).abs().sum((1, 2, 3)))
    assert torch.equal(attack(peak, images, epsilon=0.1, num_steps=3, restarts=2, seeds=torch.arange(len(images)) + 2), images)


@BOTH
def test_without_keep_best_it_makes_exactly_the_steps_of_the_inner_maximisation_and_returns_the_last(attack: Attack) -> None:
    images = torch.rand(2, 3, 4, 4, generator=seeded(3))
    objective = Recording(rugged)
    last = attack(objective, images, epsilon=0.1, num_steps=4, keep_best=False, seeds=torch.arange(2))
    assert objective.with_gradient == [True] * 4
    one_more = Recording(rugged)
    attack(one_more, images, epsilon=0.1, step_size=2.5 * 0.1 / 4, num_steps=5, keep_best=False, seeds=torch.arange(2))
    torch.testing.assert_close(one_more.points[4], last, rtol=0, atol=1e-7)


def test_with_keep_best_only_the_image_and_the_end_cost_more_and_they_need_no_gradient() -> None:
    objective = Recording(rugged)
    pgd_linf(objective, torch.rand(2, 3, 4, 4), epsilon=0.1, num_steps=4, seeds=torch.arange(2) + 4)
    assert objective.with_gradient == [False, True, True, True, True, False]


# 2. Budgets


@BOTH
def test_a_budget_of_zero_returns_the_image_to_the_bit(attack: Attack) -> None:
    images = torch.rand(2, 3, 4, 4, generator=seeded(5))
    for options in ({"epsilon": 0.0}, {"epsilon": torch.zeros(2)}, {"epsilon": 0.0, "step_size": 0.1, "keep_best": False}):
        assert torch.equal(attack(Recording(rugged), images, num_steps=3, seeds=torch.arange(len(images)) + 6, **options), images)


@BOTH
def test_what_a_smaller_budget_found_is_kept_by_a_larger_one_that_starts_from_it(attack: Attack) -> None:
    images = torch.rand(4, 3, 4, 4, generator=seeded(7))
    found, best = images, rugged(images)
    for epsilon in (0.01, 0.03, 0.1, 0.3, 1.0):
        found = attack(Recording(rugged), images, epsilon=epsilon, num_steps=3, start=found)
        assert (rugged(found) >= best).all()
        best = rugged(found)


@BOTH
def test_a_large_enough_budget_makes_every_image_wrong(attack: Attack) -> None:
    images, model = torch.rand(8, 3, 8, 8, generator=seeded(8)), network()
    labels = model(images).argmax(dim=1)
    objective = ModelObjective(model=model, score=margin, targets=(labels,))
    found = attack(
        objective, images, epsilon=1.0 if attack is pgd_linf else 14.0, num_steps=20, seeds=torch.arange(len(images)) + 9
    )
    assert (model(found).argmax(dim=1) != labels).all()


# 3. Closed forms and second opinions


@given(seed=st.integers(0, 1000), with_region=st.booleans())
@settings(max_examples=30, deadline=None)
def test_on_a_linear_model_the_linf_attack_finds_the_optimum(seed: int, with_region: bool) -> None:
    images = torch.rand(3, 3, 5, 5, generator=seeded(seed))
    weights = torch.randn(3, 3, 5, 5, generator=seeded(seed + 1))
    region = (torch.rand(3, 1, 5, 5, generator=seeded(seed + 2)) > 0.5).float() if with_region else torch.ones(3, 1, 5, 5)
    radii = torch.tensor([8 / 255, 0.2, 1.5])
    found = pgd_linf(
        linear(weights), images, epsilon=radii, num_steps=10, region=region, seeds=torch.arange(len(images)) + seed + 3
    )
    optimum = (images + radii.view(3, 1, 1, 1) * weights.sign() * region).clamp(0, 1)
    torch.testing.assert_close(found, optimum, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 1000), with_region=st.booleans())
@settings(max_examples=30, deadline=None)
def test_on_a_linear_model_the_l2_attack_finds_the_optimum_inside_the_unit_cube(seed: int, with_region: bool) -> None:
    # Double precision: near the optimum scores differ by the square of the distance, which float32 does not resolve.
    images = torch.rand(3, 3, 5, 5, generator=seeded(seed), dtype=torch.float64) * 0.2 + 0.4
    weights = torch.randn(3, 3, 5, 5, generator=seeded(seed + 1), dtype=torch.float64)
    region = torch.rand(3, 1, 5, 5, generator=seeded(seed + 2)) > (0.3 if with_region else -1)
    radii = torch.tensor([0.05, 0.2, 0.39], dtype=torch.float64)
    # A step of the radius halves the angle to the optimum, wherever the start was.
    options = {"epsilon": radii, "step_size": radii, "num_steps": 25, "region": region, "seeds": torch.arange(3)}
    found = pgd_l2(linear(weights), images, **options)
    inside = weights * region
    optimum = images + radii.view(3, 1, 1, 1) * inside / inside.flatten(1).norm(dim=1).clamp_min(1e-9).view(3, 1, 1, 1)
    torch.testing.assert_close(found, optimum, rtol=0, atol=2e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_the_iterates_are_those_of_torchattacks(num_steps: int) -> None:
    model, images = network(), torch.rand(5, 3, 8, 8, generator=seeded(10))
    labels = torch.tensor([0, 1, 2, 3, 0])
    objective = ModelObjective(model=model, score=cross_entropy, targets=(labels,))
    common = {"num_steps": num_steps, "random_start": False, "keep_best": False}
    theirs = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=num_steps, random_start=False)(images, labels)
    ours = pgd_linf(objective, images, epsilon=8 / 255, step_size=2 / 255, **common)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    theirs = torchattacks.PGDL2(model, eps=0.5, alpha=0.2, steps=num_steps, random_start=False)(images, labels)
    torch.testing.assert_close(pgd_l2(objective, images, epsilon=0.5, step_size=0.2, **common), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_from_the_same_start_the_iterates_are_those_of_foolbox(num_steps: int) -> None:
    import foolbox

    class FromStart:
        def get_random_start(self, x0: eagerpy.Tensor, _: float) -> eagerpy.Tensor:
            return eagerpy.astensor(start).astype(x0.dtype)

    class Linf(FromStart, foolbox.attacks.LinfProjectedGradientDescentAttack):
        pass

    class L2(FromStart, foolbox.attacks.L2ProjectedGradientDescentAttack):
        pass

    model, images = network(), torch.rand(5, 3, 8, 8, generator=seeded(11))
    labels = torch.tensor([0, 1, 2, 3, 0])
    objective = ModelObjective(model=model, score=cross_entropy, targets=(labels,))
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    for attack, theirs, epsilon, step in ((pgd_linf, Linf, 8 / 255, 2 / 255), (pgd_l2, L2, 0.5, 0.2)):
        drift = torch.randn(images.shape, generator=seeded(12))
        start = attack(linear(drift), images, epsilon=epsilon / 2, num_steps=1, random_start=False)
        ours = attack(objective, images, epsilon=epsilon, step_size=step, num_steps=num_steps, start=start, keep_best=False)
        criterion = foolbox.criteria.Misclassification(labels)
        reference = theirs(abs_stepsize=step, steps=num_steps, random_start=True).run(wrapped, images, criterion, epsilon=epsilon)
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-6)


# 4. What cannot be seen cannot be attacked


@BOTH
@pytest.mark.parametrize("fill", [Fill.BLACK, Fill.GREY, Fill.MEAN, Fill.NOISE])
def test_a_background_attack_on_the_oracle_system_with_a_fill_of_its_own_changes_nothing_to_the_bit(
    attack: Attack, fill: Fill
) -> None:
    images = torch.rand(4, 3, 8, 8, generator=seeded(13))
    oracle = torch.rand(4, 1, 8, 8, generator=seeded(14)).sub(0.5).clamp_min(0)  # soft edges and true background
    context = MaskContext(oracle_masks=oracle, substitutes=oracle, sample_seeds=torch.arange(4))
    system = TwoStage(network(), masks=MaskConfig(source=MaskSource.ORACLE, fill=fill), mean_color=(0.2, 0.5, 0.7)).eval()
    labels = torch.tensor([0, 1, 2, 3])
    objective = ModelObjective(model=system, score=cross_entropy, targets=(labels,), context=context)
    background = region_masks(Region.BACKGROUND, oracle, radius=1)
    for options in ({"keep_best": False}, {"restarts": 2}):
        found = attack(
            objective, images, epsilon=0.5, num_steps=3, region=background, seeds=torch.arange(len(images)) + 15, **options
        )
        assert torch.equal(system(found, context), system(images, context))
        assert torch.equal(torch.where(background, images, found), images)
    moved = attack(
        objective, images, epsilon=0.5, num_steps=3, region=background, seeds=torch.arange(len(images)) + 15, keep_best=False
    )
    assert not torch.equal(moved, images)  # it did search: a random start moved the background


def test_an_attack_outside_the_box_changes_nothing_for_the_box_system() -> None:
    images = torch.rand(4, 3, 8, 8, generator=seeded(16))
    oracle = torch.zeros(4, 1, 8, 8)
    oracle[:, :, 2:5, 3:7] = 0.8
    context = MaskContext(oracle_masks=oracle)
    system = TwoStage(network(), masks=MaskConfig(source=MaskSource.BOX)).eval()
    objective = ModelObjective(model=system, score=cross_entropy, targets=(torch.arange(4),), context=context)
    region = region_masks(Region.OUTSIDE_BOX, oracle, radius=1)
    found = pgd_linf(objective, images, epsilon=1.0, num_steps=2, region=region, keep_best=False, seeds=torch.arange(4))
    assert torch.equal(system(found, context), system(images, context))


# 5. Every arm can be attacked


@BOTH
@pytest.mark.parametrize("source", list(MaskSource))
def test_every_mask_source_is_attacked_end_to_end_with_a_batch_of_one(attack: Attack, source: MaskSource) -> None:
    images = torch.rand(1, 3, 8, 8, generator=seeded(17))
    oracle = torch.zeros(1, 1, 8, 8)
    oracle[..., 1:6, 2:7] = 1
    torch.manual_seed(1)
    system = TwoStage(
        network(), masks=MaskConfig(source=source, radius=1, shift=1), segmenter=nn.Conv2d(3, 1, 3, padding=1)
    ).train()
    context = system.freeze(images, MaskContext(oracle_masks=oracle, substitutes=oracle, sample_seeds=torch.tensor([3])))
    with attacked(system):
        labels = system(images, context).argmax(dim=1)
        objective = ModelObjective(model=system, score=margin, targets=(labels,), context=context)
        found = attack(objective, images, epsilon=0.1, num_steps=3, seeds=torch.arange(len(images)) + 18)
        assert (objective(found) > objective(images)).all()
    assert system.training


@BOTH
def test_the_same_attack_climbs_a_segmenters_loss(attack: Attack) -> None:
    images = torch.rand(3, 3, 8, 8, generator=seeded(19))
    masks = (images.mean(1, keepdim=True) > 0.5).float()
    torch.manual_seed(2)
    segmenter = nn.Conv2d(3, 1, 3, padding=1)
    loss = lambda logits, target: (logits * (1 - 2 * target)).mean((1, 2, 3))  # noqa: E731 - linear, so the optimum is known
    objective = ModelObjective(model=segmenter, score=loss, targets=(masks,))
    found = attack(objective, images, epsilon=0.05, num_steps=40, random_start=False)
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    gain = slope.abs().sum((1, 2, 3)) if attack is pgd_linf else slope.flatten(1).norm(dim=1)
    clipped = ((images < 0.05) | (images > 0.95)).flatten(1).any(1)
    rise = objective(found) - objective(images)
    assert (rise <= 0.05 * gain * (1 + 1e-4)).all()
    assert (rise >= 0.05 * gain * 0.85).all(), clipped


# 6. One image's verdict is its own


@BOTH
def test_with_seeds_an_images_result_does_not_depend_on_its_batch(attack: Attack) -> None:
    images, model, seeds = torch.rand(6, 3, 8, 8, generator=seeded(20)), network(), torch.arange(6) * 7
    labels = model(images).argmax(dim=1)
    objective = ModelObjective(model=model, score=margin, targets=(labels,))
    together = attack(objective, images, epsilon=0.03, num_steps=4, restarts=2, seeds=seeds)
    for order in (torch.tensor([4]), torch.tensor([5, 0, 3])):
        chosen = objective.select(order)
        found = attack(chosen, images[order], epsilon=0.03, num_steps=4, restarts=2, seeds=seeds[order])
        torch.testing.assert_close(chosen(found), objective(together)[order], rtol=0, atol=1e-4)


def test_the_same_seeds_give_the_same_result_again_and_global_random_state_is_left_alone() -> None:
    images = torch.rand(2, 3, 4, 4)
    state = torch.get_rng_state()
    first, second = (
        pgd_linf(Recording(rugged), images, epsilon=0.1, num_steps=2, seeds=torch.arange(len(images)) + 21) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_restarts_begin_at_different_points() -> None:
    objective = Recording(rugged)
    pgd_linf(objective, torch.full((1, 3, 4, 4), 0.5), epsilon=0.1, num_steps=1, restarts=3, seeds=torch.tensor([1]))
    begins = [points for points, with_gradient in zip(objective.points, objective.with_gradient, strict=True) if with_gradient]
    assert len({tuple(points.flatten().tolist()) for points in begins}) == 3


# Behavior around the search


@BOTH
def test_layout_is_kept_and_nothing_is_left_behind(attack: Attack) -> None:
    images = torch.rand(2, 3, 8, 8, generator=seeded(22)).contiguous(memory_format=torch.channels_last)
    before, model = images.clone(), network()
    layouts = []

    def scores(points: Tensor) -> Tensor:
        layouts.append(points.is_contiguous(memory_format=torch.channels_last))
        return model(points)[:, 0]

    with torch.no_grad():
        found = attack(Recording(scores), images, epsilon=0.1, num_steps=2, seeds=torch.arange(len(images)) + 23)
    assert all(layouts)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not found.requires_grad
    assert torch.equal(images, before)
    assert all(parameter.grad is None for parameter in model.parameters())


@BOTH
def test_a_flat_objective_moves_nothing_and_makes_no_nan(attack: Attack) -> None:
    images = torch.rand(2, 3, 4, 4)
    found = attack(linear(torch.zeros(2, 3, 4, 4)), images, epsilon=0.1, num_steps=3, random_start=False, keep_best=False)
    assert torch.equal(found, images)


@BOTH
def test_a_score_that_is_no_number_names_its_image_and_is_never_passed_over(attack: Attack) -> None:
    images = torch.full((3, 3, 2, 2), 0.5)
    poison = torch.tensor([0.0, torch.nan, 0.0])
    moved = Recording(lambda points: points.sum((1, 2, 3)) + torch.where(points.sum((1, 2, 3)) > 6.01, poison, torch.zeros(3)))
    with pytest.raises(FloatingPointError, match=r"these images of the batch: 1$"):
        attack(moved, images, epsilon=0.1, num_steps=2, random_start=False)


def test_an_infinite_score_is_the_best_there_is() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    pole = Recording(lambda points: torch.where(points.sum((1, 2, 3)) > 6.01, torch.inf, 0.0) + points.sum((1, 2, 3)))
    found = pgd_linf(pole, images, epsilon=0.1, num_steps=2, random_start=False)
    assert rugged(found).isfinite()
    assert found.sum() > 6.01


@BOTH
def test_what_cannot_be_run_is_refused_in_one_line(attack: Attack) -> None:
    images, objective = torch.rand(2, 3, 2, 2), Recording(rugged)
    refused = [
        ({"epsilon": 0.1, "num_steps": 2}, "a random start needs seeds, one for each image"),
        ({"epsilon": 0.1, "num_steps": 0, "seeds": torch.zeros(2, dtype=torch.int64)}, "at least 1, not 0 and 1"),
        ({"epsilon": 0.1, "num_steps": 1, "restarts": 2, "random_start": False}, "more than one restart needs random_start"),
        (
            {"epsilon": 0.1, "num_steps": 1, "restarts": 2, "keep_best": False, "seeds": torch.zeros(2, dtype=torch.int64)},
            "keep_best, to choose",
        ),
        ({"epsilon": -0.1, "num_steps": 1, "seeds": torch.zeros(2, dtype=torch.int64)}, "epsilon is negative"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            attack(objective, images, **options)
    with pytest.raises(ValueError, match=r"images in \[0,1\], these are in \[0, 2\]"):
        attack(objective, torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1), epsilon=0.1, num_steps=1, seeds=torch.arange(1) + 0)
    assert not objective.points


# Configuration


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_runs_and_stays_in_its_ball(path: Path) -> None:
    config = TypeAdapter(PgdConfig).validate_python(OmegaConf.to_container(OmegaConf.load(path)))
    images = torch.rand(2, 3, 4, 4, generator=seeded(24))
    found = pgd(config, Recording(rugged), images, seeds=torch.arange(2))
    direct = (pgd_linf if config.norm == "linf" else pgd_l2)(
        Recording(rugged),
        images,
        epsilon=config.epsilon,
        step_size=config.step_size,
        num_steps=config.num_steps,
        seeds=torch.arange(2),
    )
    assert torch.equal(found, direct)
    assert not torch.equal(found, images)


def test_shipped_configurations_were_found() -> None:
    assert CONFIGS


def test_a_configuration_takes_fractions_and_refuses_what_cannot_be() -> None:
    adapter = TypeAdapter(PgdConfig)
    assert adapter.validate_python({"epsilon": "8/255", "norm": "l2"}) == PgdConfig(epsilon=8 / 255, norm="l2")
    for wrong in ({"epsilon": -1}, {"eps": 0.1}, {"norm": "l0"}, {"restarts": 2, "random_start": False}, {"step_size": 0}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
