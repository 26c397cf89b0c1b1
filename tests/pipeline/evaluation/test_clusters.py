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
from pipeline.evaluation.metrics import clean_accuracy, clean_mask_iou, curve, standing
from pipeline.evaluation.statistics import Estimate, compare, mean_estimate, pooled_over_seeds, share, wilson


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def alone(count: int) -> np.ndarray:
    """Every image its own group."""
    return np.array([f"image-{row}" for row in range(count)], dtype=object)


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def test_the_design_effect_is_that_of_the_jackknife_over_groups() -> None:
    """Delete one group, many times: for groups of one size its variance is exactly the linearised one. It is drawn towards the
    worst, 4 images a group, with the weight of five groups that hold a minority image."""
    generator = rng(5)
    claims = (generator.random((30, 1)) < 0.6) ^ (generator.random((30, 4)) < 0.2)
    groups, values = np.repeat(alone(30), 4), claims.ravel().astype(float)
    without = np.array([np.delete(claims, row, axis=0).mean() for row in range(30)])
    between = 29 / 30 * ((without - claims.mean()) ** 2).sum()
    independent = stats.sem(values) ** 2
    lowered = (stats.t.ppf(0.975, 119) / stats.t.ppf(0.975, 29)) ** 2
    found = effective_size(values, groups, confidence=0.95)
    telling = (claims != (claims.mean() > 0.5)).any(axis=1).sum()
    drawn = (telling * between / independent + 5 * 4) / (telling + 5)
    assert found == pytest.approx(120 / drawn * lowered)
    estimate, share_of_all = share(claims.ravel(), groups), claims.mean()
    assert (estimate.n, estimate.groups) == (120, 30)
    for end in (estimate.low, estimate.high):  # Wilson's score equation at the effective size
        assert (share_of_all - end) ** 2 == pytest.approx(stats.norm.ppf(0.975) ** 2 * end * (1 - end) / found)


def test_one_success_more_never_lowers_the_upper_end() -> None:
    """The design effect of one success is next to unknown: taken at its word the interval of 1 would end below that of 0."""
    groups = np.repeat(alone(62), 4)[:245]
    ends = []
    for successes in range(40):
        claims = np.zeros(245, dtype=bool)
        claims[np.linspace(0, 244, 40).astype(int)[:successes]] = True
        ends.append(share(claims, groups).high)
    assert ends == sorted(ends)


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
    assert standing(records, 0.1).columns == ["sample_id", "group", "standing"]
    assert point.robust_accuracy == point.by_attack["second"] == share(~fallen, np.arange(12) // 3)
    assert point.by_attack["first"] == clean_accuracy(records) == share(~fallen | True, np.arange(12) // 3)
    assert {point.mask_iou.groups, clean_mask_iou(records, rng()).groups} == {4}
    assert point.mask_iou.high - point.mask_iou.low > 0.3
