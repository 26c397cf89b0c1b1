"""Statistics against published worked examples, closed forms and exact enumeration."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.statistics import (
    compare,
    holm,
    mcnemar,
    mean_estimate,
    paired_difference,
    pooled_over_seeds,
    smallest_detectable_difference,
    wilson,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, only_first, only_second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_intervals_of_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    estimate = wilson(successes, n)
    assert (estimate.value, estimate.n) == (successes / n, n)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_score_equation(counts: tuple[int, int]) -> None:
    successes, n = counts
    estimate, z = wilson(successes, n), stats.norm.ppf(0.975)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    for end in (estimate.low, estimate.high):  # (p - end)^2 = z^2 end (1 - end) / n
        assert (estimate.value - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-12)


def test_a_share_of_nothing_is_refused() -> None:
    for successes, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="no share"):
            wilson(successes, n)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (121, 59, 4.434449e-06),  # statsmodels, tests of mcnemar, first table, exact
        (11, 1, 0.00634765625),  # mlxtend, user guide of mcnemar, scenario A, exact
        (1, 7, 0.0703125),  # Fagerland, Lydersen and Laake 2013, airway hyper-responsiveness, exact conditional: 0.070
        (0, 0, 1.0),
        (4, 4, 1.0),
    ],
)
def test_mcnemar_gives_the_published_p_values(only_first: int, only_second: int, p_value: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p_value, rel=1e-6)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_smaller_binomial_tail(only_first: int, only_second: int) -> None:
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert mcnemar(only_first, only_second) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_holm_gives_the_textbook_adjustment() -> None:
    # https://en.wikipedia.org/wiki/Holm-Bonferroni_method: p = 0.01, 0.04, 0.03, 0.005 at 5 %: only the first and last are rejected
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7]) == [0.7]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values: list[float]) -> None:
    adjusted, rejecting = holm(p_values), True
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        scaled = (len(p_values) - rank) * p_values[index]
        rejecting = rejecting and scaled <= 0.05
        assert (adjusted[index] <= 0.05) == rejecting
        assert adjusted[index] >= p_values[index]


@pytest.mark.parametrize(("n", "discordance", "difference"), [(22.01, 0.5, 0.4), (154.9, 0.45, 0.15)])
def test_the_detectable_difference_inverts_published_sample_sizes(n: float, discordance: float, difference: float) -> None:
    # powerandsamplesize.com, two-sided McNemar, p01=0.45 p10=0.05: 23 pairs; clinicaltrials-tools, p01=0.30 p10=0.15: 155 pairs.
    below, above = (smallest_detectable_difference(m, discordance) for m in (math.floor(n), math.ceil(n)))
    assert above is not None
    assert below is not None
    assert above <= difference <= below


def test_the_detectable_difference_is_found_with_its_power_in_a_simulation() -> None:
    n, discordance = 400, 0.25
    difference = smallest_detectable_difference(n, discordance)
    assert difference is not None
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    draws = rng().multinomial(n, shares, size=1000)
    found = np.mean([mcnemar(int(b), int(c)) < 0.05 for b, c, _ in draws])
    assert 0.73 < found < 0.84  # the exact test is a little conservative


def test_too_few_images_can_show_no_difference() -> None:
    assert smallest_detectable_difference(3, 0.5) is None
    with pytest.raises(ValueError, match="no test"):
        smallest_detectable_difference(100, 0.0)


def exact_bca(differences: np.ndarray) -> tuple[float, float]:
    """The BCa interval with the bootstrap distribution enumerated: a trinomial, by repeated convolution."""
    n, value = len(differences), differences.mean()
    single = np.array([np.mean(differences == d) for d in (-1, 0, 1)])
    distribution = np.ones(1)
    for _ in range(n):
        distribution = np.convolve(distribution, single)
    support = np.arange(-n, n + 1) / n
    below = distribution[support < value - 1e-12].sum() + distribution[np.isclose(support, value)].sum() / 2
    bias = stats.norm.ppf(below)
    without = (differences.sum() - differences) / (n - 1)
    centred = without.mean() - without
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    ends = []
    for z in stats.norm.ppf([0.025, 0.975]):
        level = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(support[np.searchsorted(np.cumsum(distribution), level)])
    return ends[0], ends[1]


@pytest.mark.parametrize("table", [(60, 25, 10, 5), (10, 3, 0, 7), (100, 40, 41, 19)])
def test_the_paired_bootstrap_agrees_with_an_enumerated_one(table: tuple[int, int, int, int]) -> None:
    first, second = pairs(*table)
    estimate = paired_difference(first, second, rng())
    low, high = exact_bca(first.astype(float) - second)
    n = len(first)
    assert estimate.value == pytest.approx((table[1] - table[2]) / n)
    assert estimate.low == pytest.approx(low, abs=1.01 / n)  # one image: the step of the distribution
    assert estimate.high == pytest.approx(high, abs=1.01 / n)


def test_agreement_on_every_image_leaves_the_rule_of_three() -> None:
    right = np.ones(100, dtype=bool)
    same = paired_difference(right, right, rng())
    assert (same.value, same.high) == (0, pytest.approx(1 - 0.025 ** (1 / 100)))
    assert same.low == -same.high
    everything = paired_difference(right, ~right, rng())
    assert (everything.value, everything.high) == (1, 1)
    assert everything.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 100)))


def test_a_comparison_counts_discordant_images_and_bounds_what_could_be_shown() -> None:
    comparison = compare(*pairs(50, 30, 10, 10), rng())
    assert (comparison.only_first, comparison.only_second) == (30, 10)
    assert comparison.p_value == pytest.approx(mcnemar(30, 10))
    assert comparison.detectable == smallest_detectable_difference(100, 0.4)
    assert comparison.difference.low > 0
    assert compare(*pairs(5, 0, 0, 5), rng()).detectable is None
    with pytest.raises(ValueError, match="pairs"):
        compare(*pairs(0, 0, 0, 0), rng())


def test_a_mean_has_the_interval_of_its_t_statistic_when_the_values_are_normal() -> None:
    values = rng(1).normal(0.7, 0.1, size=500)
    estimate = mean_estimate(values, rng())
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert estimate.low == pytest.approx(low, abs=6e-4)
    assert estimate.high == pytest.approx(high, abs=6e-4)
    assert mean_estimate(np.array([0.5, 0.5]), rng()).low == 0.5
    with pytest.raises(ValueError, match="finite"):
        mean_estimate(np.array([0.5, np.nan]), rng())


def test_pooling_one_seed_is_the_bootstrap_over_images() -> None:
    values = (rng(2).random((1, 400)) < 0.6).astype(float)
    estimate = pooled_over_seeds(values, rng())
    share = values.mean()
    binomial = stats.binom.ppf([0.025, 0.975], 400, share) / 400
    assert estimate.n == 400
    assert [estimate.low, estimate.high] == pytest.approx(binomial, abs=1.01 / 400)


def test_pooling_has_the_variance_of_the_crossed_model() -> None:
    # Owen 2007: E[pigeonhole variance] = var_image/n (1 - 1/n) + var_seed/s (1 - 1/s) + about 3 var_rest / (n s), large n, s.
    seeds, images = 12, 300
    generator = rng(3)
    seed_effects, image_effects = generator.normal(0, 0.1, (seeds, 1)), generator.normal(0, 0.5, (1, images))
    estimate = pooled_over_seeds(seed_effects + image_effects, rng())
    variance = image_effects.var() / images + seed_effects.var() / seeds
    width = estimate.high - estimate.low
    assert width == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.06)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_a_pooled_interval_holds_its_mean_and_stays_in_range(seeds: int, images: int, seed: int) -> None:
    values = (rng(seed).random((seeds, images)) < 0.5).astype(float)
    estimate = pooled_over_seeds(values, rng(seed))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
