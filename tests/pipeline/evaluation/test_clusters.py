"""Images that belong together: against the jackknife, simulations, and the same images again and again."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation import statistics
from pipeline.evaluation.clusters import effective_size
from pipeline.evaluation.metrics import clean_accuracy, clean_mask_iou, curve, robust_images
from pipeline.evaluation.statistics import Estimate, compare, mean_estimate, pooled_over_seeds, share, wilson


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def alone(count: int) -> np.ndarray:
    """Every image its own group."""
    return np.array([f"image-{row}" for row in range(count)], dtype=object)


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def by_definition(claims: np.ndarray, groups: np.ndarray) -> float:
    """The effective size by plain loops: leave out one group after the other, and count how sure that variance is."""
    names, n = np.unique(groups), len(claims)
    moved = [(claims[groups != name].mean() - claims.mean()) ** 2 for name in names]
    deff = sum(moved) / (stats.sem(claims) ** 2)
    # Pan and Wall 2002: d degrees of freedom have a variance of 2 / d of the squared mean.
    freedom = min(2 * sum(moved) ** 2 / max(len(names) * np.var(moved, ddof=1), 1e-300), len(names) - 1)
    lowered = (stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, freedom)) ** 2
    copies = n**2 / sum(np.sum(groups == name) ** 2 for name in names)
    return max(copies, n / max(deff, 1) * lowered)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.floats(0.02, 0.98), st.integers(0, 99))
def test_the_effective_size_is_that_of_the_jackknife_with_its_degrees_of_freedom(sizes: list[int], mean: float, seed: int) -> None:
    generator = rng(seed)
    groups = np.repeat(alone(len(sizes)), sizes)
    claims = (generator.random(len(groups)) < np.repeat(generator.beta(2 * mean, 2 - 2 * mean, len(sizes)), sizes)).astype(float)
    totals = [claims[groups == name].mean() for name in np.unique(groups)]
    if len(groups) == len(sizes) or len(set(claims)) == 1 or np.allclose(totals, claims.mean()):
        return
    assert effective_size(claims, groups, confidence=0.95) == pytest.approx(by_definition(claims, groups))


def test_an_interval_of_grouped_images_solves_the_score_equation_at_the_effective_size() -> None:
    generator = rng(5)
    claims, groups = (generator.random((30, 1)) < 0.6) ^ (generator.random((30, 4)) < 0.2), np.repeat(alone(30), 4)
    found = by_definition(claims.ravel().astype(float), groups)
    estimate, share_of_all = share(claims.ravel(), groups), claims.mean()
    assert (estimate.n, estimate.groups) == (120, 30)
    for end in (estimate.low, estimate.high):
        assert (share_of_all - end) ** 2 == pytest.approx(stats.norm.ppf(0.975) ** 2 * end * (1 - end) / found)


def test_the_fewer_groups_tell_of_their_correlation_the_nearer_is_the_size_to_that_of_copies() -> None:
    """Successes of 62 photographs that come alone: one says nothing about whether they always do, eleven say something."""
    groups, copies = np.repeat(alone(62), 4)[:245], 245**2 / (61 * 16 + 1)
    sizes, ends = [], []
    for successes in range(12):
        claims = np.zeros(245, dtype=bool)
        claims[np.linspace(0, 244, 40).astype(int)[:successes]] = True
        sizes.append(effective_size(claims.astype(float), groups, confidence=0.95))
        ends.append(share(claims, groups).high)
        assert ends[-1] > wilson(successes, 245).high
    assert sizes[:2] == pytest.approx([copies, copies])
    assert sizes[1:] == sorted(set(sizes[1:]))
    assert sizes[-1] < 245
    assert ends[1] > ends[0]


def test_groups_with_the_same_share_each_are_taken_for_independent_and_rounding_does_not_matter() -> None:
    """Every photograph has one of three right: the variance between them is 0, not the dust of 1/3."""
    claims = np.tile([True, False, False], 40)
    found = effective_size(claims.astype(float), np.repeat(alone(40), 3), confidence=0.95)
    assert found == pytest.approx(120 * (stats.t.ppf(0.975, 119) / stats.t.ppf(0.975, 39)) ** 2)


def test_intervals_of_rare_successes_hold_the_truth() -> None:
    generator = rng(12)
    groups, kept = np.repeat(alone(60), 4), []
    for _ in range(600):
        probability = np.repeat(generator.beta(0.03, 0.97, 60), 4)  # correlated by one half
        estimate = share(generator.random(240) < probability, groups)
        kept.append(estimate.low <= 0.03 <= estimate.high)
    assert np.mean(kept) > 0.94


def test_intervals_of_grouped_images_hold_the_truth_as_often_as_they_say() -> None:
    """Groups share their probability (beta-distributed, so deff is about 2): intervals that ignore it fail one time in seven."""
    generator = rng(11)
    groups = np.repeat(alone(60), 4)
    kept, naive = [], []
    for _ in range(800):
        probability = np.repeat(generator.beta(0.7, 0.7, 60), 4)
        claims = generator.random(240) < probability
        estimate, plain = share(claims, groups), wilson(int(claims.sum()), 240)
        kept.append(estimate.low <= 0.5 <= estimate.high)
        naive.append(plain.low <= 0.5 <= plain.high)
    assert np.mean(naive) < 0.88
    assert 0.93 < np.mean(kept) < 0.975


@pytest.mark.slow
def test_a_sign_flip_test_over_groups_rejects_as_seldom_as_it_says_where_mcnemar_does_not() -> None:
    generator = rng(12)
    groups = np.repeat(alone(50), 4)
    ours, ungrouped = [], []
    for _ in range(400):
        side = np.repeat(generator.choice([-1, 1], 50), 4)  # a photograph favours one system as a whole, either as often
        differs = generator.random(200) < 0.3
        first, second = differs & (side > 0), differs & (side < 0)
        ours.append(compare(first, second, groups).p_value < 0.05)
        ungrouped.append(compare(first, second, alone(200)).p_value < 0.05)
    assert np.mean(ours) < 0.065
    assert np.mean(ungrouped) > 0.1


@pytest.mark.parametrize("claims", [np.ones(12, dtype=bool), np.zeros(12, dtype=bool)])
def test_where_all_images_agree_the_groups_are_counted(claims: np.ndarray) -> None:
    estimate, plain = share(claims, np.repeat(alone(4), 3)), wilson(4 * int(claims[0]), 4)
    assert (estimate.low, estimate.high) == (plain.low, plain.high)
    assert effective_size(rng().random(12), np.repeat(alone(1), 12), confidence=0.95) == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 5), st.integers(0, 99))
def test_the_same_images_again_and_again_add_no_evidence(images: int, copies: int, seed: int) -> None:
    """Every image several times over, its copies one group: no interval narrower, no p value smaller, whatever the order."""
    generator = rng(seed)
    first, second = generator.random(images) < 0.6, generator.random(images) < 0.4
    order = generator.permutation(images * copies)
    groups, more_first, more_second = (np.repeat(one, copies)[order] for one in (alone(images), first, second))
    assert width(share(more_first, groups)) >= width(share(first, alone(images))) - 1e-12
    once, often = compare(first, second, alone(images)), compare(more_first, more_second, groups)
    assert often.p_value == pytest.approx(once.p_value)
    assert often.effective <= once.effective + 1e-9
    assert width(often.difference) >= width(once.difference) - 1e-9
    assert (often.difference.groups, often.difference.n) == (images, images * copies)
    known, known_often = once.detectable(), often.detectable()
    assert known_often is None or (known is not None and known_often >= known - 1e-9)


def test_the_same_images_again_and_again_leave_bootstrap_intervals_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    values = rng(8).random((2, 30))
    thrice = np.repeat(values, 3, axis=1)
    once, often = pooled_over_seeds(values, alone(30), rng()), pooled_over_seeds(thrice, np.repeat(alone(30), 3), rng())
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))
    once, often = mean_estimate(values[0], alone(30), rng()), mean_estimate(thrice[0], np.repeat(alone(30), 3), rng())
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert (often.n, often.groups) == (90, 30)


@given(st.integers(1, 60), st.integers(0, 99))
def test_where_every_image_is_its_own_group_the_figures_are_those_of_independent_images(images: int, seed: int) -> None:
    claims = rng(seed).random(images) < 0.5
    assert share(claims, alone(images)) == wilson(int(claims.sum()), images)


def test_a_bootstrap_over_groups_of_many_sizes_has_the_variance_of_the_ratio() -> None:
    """Against the linearised variance between groups, which large samples have."""
    generator = rng(9)
    sizes = generator.integers(1, 6, 400)
    number = np.repeat(np.arange(400), sizes)
    values = generator.normal(0, 1, 400)[number] + generator.normal(0, 0.5, len(number))
    residuals = np.array([(values[number == group] - values.mean()).sum() for group in range(400)])
    spread = math.sqrt((residuals**2).sum()) / len(values)
    for estimate in (mean_estimate(values, number, rng()), pooled_over_seeds(values[None], number, rng())):
        assert width(estimate) == pytest.approx(2 * 1.96 * spread, rel=0.06)
    assert mean_estimate(values[:3], np.zeros(3), rng()).low == values[:3].min()


def test_every_figure_of_an_evaluation_knows_its_groups() -> None:
    """Twelve images of four photographs, of which two fall as a whole to the second attack."""
    images = pl.DataFrame({"sample_id": alone(12).tolist(), "group": [f"photograph-{row // 3}" for row in range(12)]})
    about = {"label": 0, "clean_prediction": 0, "clean_mask_iou": 0.5, "epsilon": 0.1, "seconds": 1.0}
    attacks = []
    for attack in ("first", "second"):
        fell = np.arange(12) // 3 < 2 * (attack == "second")
        found = images.with_columns(attack=pl.lit(attack), adversarial_prediction=fell, adversarial_margin=fell - 0.5)
        iou = np.repeat([0.1, 0.3, 0.3, 0.9], 3)
        attacks.append(found.with_columns(adversarial_mask_iou=iou, **{name: pl.lit(value) for name, value in about.items()}))
    records = pl.concat(attacks)
    (point,) = curve(records, rng())
    fallen = np.arange(12) // 3 < 2
    assert robust_images(records, 0.1).columns == ["sample_id", "group", "robust"]
    assert point.robust_accuracy == point.by_attack["second"] == share(~fallen, np.arange(12) // 3)
    assert point.by_attack["first"] == clean_accuracy(records) == share(~fallen | True, np.arange(12) // 3)
    assert {point.mask_iou.groups, clean_mask_iou(records, rng()).groups} == {4}
    assert point.mask_iou.high - point.mask_iou.low > 0.3
