"""Statistics against published worked examples, closed forms and exact enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.statistics import (
    Estimate,
    compare,
    holm,
    mean_estimate,
    paired_difference,
    pooled_over_seeds,
    sign_flip,
    smallest_detectable_difference,
    wilson,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def alone(count: int) -> np.ndarray:
    """Every image its own group."""
    return np.array([f"image-{row}" for row in range(count)], dtype=object)


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


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
def test_the_sign_flip_test_gives_the_published_p_values_of_mcnemar(only_first: int, only_second: int, p_value: float) -> None:
    assert sign_flip(np.repeat([1, -1, 0], [only_first, only_second, 9])) == pytest.approx(p_value, rel=1e-6)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 5))
def test_with_groups_of_one_image_the_sign_flip_test_is_the_exact_mcnemar_test(b: int, c: int, agreeing: int) -> None:
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert sign_flip(np.repeat([1, -1, 0], [b, c, agreeing])) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_the_sign_flip_test_is_the_share_of_all_sign_patterns_that_go_as_far(net: list[int]) -> None:
    sums = [sum(sign * one for sign, one in zip(signs, net, strict=True)) for signs in itertools.product((-1, 1), repeat=len(net))]
    expected = sum(abs(one) >= abs(sum(net)) for one in sums) / len(sums)
    assert sign_flip(np.array(net)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("only_first", "only_second", "n", "low", "high"),
    [
        (1, 7, 21, -0.517, -0.026),  # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850, Tango's interval
        (20, 40, 160, -0.218064, -0.030865),  # the example of the R package PropCIs, scoreci.mp(40, 20, 160), sides swapped
        (7, 1, 50, 0.011620, 0.246581),  # scoreci.mp(1, 7, 50)
        (5, 0, 25, 0.040169, 0.391309),  # scoreci.mp(0, 5, 25)
    ],
)
def test_tangos_interval_gives_the_published_figures(only_first: int, only_second: int, n: int, low: float, high: float) -> None:
    estimate = paired_difference(*pairs(0, only_first, only_second, n - only_first - only_second), alone(n))
    digits = 6e-4 if n == 21 else 2e-6  # as printed; the package's search stops there
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=digits), pytest.approx(high, abs=digits))
    assert estimate.value == pytest.approx((only_first - only_second) / n)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_where_images_differ_on_one_side_alone_tangos_interval_is_known_in_closed_form(counts: tuple[int, int]) -> None:
    """Nothing discordant: z^2 / (n + z^2) to both sides. Everything discordant: Wilson's end, stretched from [0,1] to [-1,1]."""
    _, n = counts
    z2 = stats.norm.ppf(0.975) ** 2
    same = paired_difference(*pairs(n, 0, 0, 0), alone(n))
    assert (same.value, same.low, same.high) == (0, pytest.approx(-z2 / (n + z2)), pytest.approx(z2 / (n + z2)))
    every = paired_difference(*pairs(0, n, 0, 0), alone(n))
    assert (every.low, every.high) == (pytest.approx((n - z2) / (n + z2)), 1)
    none = paired_difference(*pairs(0, 0, n, 0), alone(n))
    assert (none.low, none.high) == (-1, pytest.approx(-(n - z2) / (n + z2)))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_tangos_interval_holds_what_its_score_test_does_not_reject(b: int, c: int, agreeing: int) -> None:
    """The likelihood under a given difference is maximised by plain search, not by the formula."""
    n = b + c + agreeing
    if not n:
        return
    estimate = paired_difference(*pairs(agreeing, b, c, 0), alone(n))
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
    for end, side in ((estimate.low, 1), (estimate.high, -1)):
        if abs(end) > 0.999:
            continue
        shares = np.linspace(max(0.0, -end), (1 - end) / 2, 20001)  # of images that only the second has right
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = (b, shares + end), (c, shares), (agreeing, 1 - 2 * shares - end)
            likelihood = sum(np.where(count == 0, 0.0, count * np.log(np.maximum(part, 0))) for count, part in terms)
        likely = shares[np.argmax(likelihood)]
        spread = math.sqrt(n * (2 * likely + end * (1 - end)))
        assert (b - c - n * end) / spread == pytest.approx(side * stats.norm.ppf(0.975), abs=0.02)


def test_an_interval_of_few_discordant_images_does_not_contradict_the_exact_test() -> None:
    """A bootstrap of 3 against 0 of 100 says +1 to +8 points where p is 0.25."""
    comparison = compare(*pairs(60, 3, 0, 37), alone(100))
    assert comparison.p_value == 0.25
    assert comparison.difference.low < 0 < comparison.difference.high


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


@pytest.mark.parametrize(("level", "power"), [(0.05, 0.8), (0.05 / 9, math.sqrt(0.8))])
def test_the_detectable_difference_is_found_with_its_power_in_a_simulation(level: float, power: float) -> None:
    n, discordance = 400, 0.25
    difference = smallest_detectable_difference(n, discordance, level=level, power=power)
    assert difference is not None
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    draws = rng().multinomial(n, shares, size=1000)
    found = np.mean([sign_flip(np.repeat([1, -1], [b, c])) < level for b, c, _ in draws])
    assert power - 0.07 < found < power + 0.04  # the exact test is a little conservative


def test_too_few_images_can_show_no_difference() -> None:
    assert smallest_detectable_difference(3, 0.5) is None
    assert smallest_detectable_difference(100, 0.05) is None  # 5 images: all on one side, p is 0.0625
    assert smallest_detectable_difference(100, 0.08) is not None
    assert smallest_detectable_difference(100, 0.08, level=0.05 / 9) is None  # 8 images: p is 0.0078
    with pytest.raises(ValueError, match="no test"):
        smallest_detectable_difference(100, 0.0)


@pytest.mark.parametrize(
    "no_test",
    [
        {"n": 0.99},
        {"discordance": 0.0},
        {"discordance": 1.01},
        {"discordance": -0.1},
        *({name: value} for name in ("level", "power") for value in (-0.1, 0.0, 1.0, 1.1)),
    ],
)
def test_what_is_no_test_has_no_detectable_difference(no_test: dict[str, float]) -> None:
    usual = {"n": 400, "discordance": 0.25, "level": 0.05, "power": 0.8}
    assert smallest_detectable_difference(**usual) == smallest_detectable_difference(400, 0.25)
    assert smallest_detectable_difference(1, 0.5) is None
    assert smallest_detectable_difference(400, 1.0) is not None
    with pytest.raises(ValueError, match="no test"):
        smallest_detectable_difference(**{**usual, **no_test})


@pytest.mark.parametrize(("n", "discordance", "power"), [(400, 0.25, 0.8), (60, 0.9, 0.5), (1000, 0.03, 0.9)])
def test_the_detectable_difference_solves_connors_equation(n: float, discordance: float, power: float) -> None:
    """Connor 1987, equation 3: n d^2 = (z_level sqrt(discordance) + z_power sqrt(discordance - d^2))^2."""
    difference = smallest_detectable_difference(n, discordance, power=power)
    assert difference is not None
    significant, powerful = stats.norm.ppf(0.975), stats.norm.ppf(power)
    needed = significant * math.sqrt(discordance) + powerful * math.sqrt(discordance - difference**2)
    assert math.sqrt(n) * difference == pytest.approx(needed, rel=1e-9)


def test_what_few_images_can_say_is_what_their_exact_test_can_reach() -> None:
    """With k discordant images all on one side, the two-sided exact test gives 2^(1 - k)."""
    assert 2 * 0.5**5 > 0.05 > 2 * 0.5**6
    assert smallest_detectable_difference(5, 1.0) is None
    assert smallest_detectable_difference(6, 1.0) is not None
    assert smallest_detectable_difference(6, 1.0, level=0.03) is None


def test_one_group_has_the_range_of_its_values_and_equal_values_no_width() -> None:
    values = np.array([0.2, 0.9, 0.4])
    one = mean_estimate(values, np.array(["a", "a", "a"]), rng())
    assert (one.low, one.high, one.n, one.groups) == (0.2, 0.9, 3, 1)
    same = mean_estimate(np.full(4, 0.3), np.array(["a", "a", "b", "c"]), rng())
    assert (same.low, same.high, same.value) == (pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3))
    for bad in (np.array([]), np.array([0.1, np.inf]), np.array([np.nan, 0.1])):
        with pytest.raises(ValueError, match=r"at least one image|finite"):
            mean_estimate(bad, alone(len(bad)), rng())


@given(st.floats(1e-3, 1), st.lists(st.integers(1, 9), min_size=2, max_size=6))
@example(0.1, [3, 3, 1])  # 0.1 + 0.1 + 0.1 is no 3 * 0.1
def test_equal_values_have_no_width_whatever_rounding_makes_of_their_sums(value: float, sizes: list[int]) -> None:
    estimate = mean_estimate(np.full(sum(sizes), value), np.repeat(np.arange(len(sizes)), sizes), rng())
    assert estimate.low == estimate.value == estimate.high == pytest.approx(value)


def test_a_mean_of_grouped_images_is_the_bootstrap_of_sums_over_sizes() -> None:
    """By scipy on the groups themselves, and by the jackknife where there are many."""
    generator = rng(4)
    sizes = generator.integers(1, 5, 150)
    groups = np.repeat(alone(150), sizes)
    values = np.repeat(generator.normal(size=150), sizes) + generator.normal(size=len(groups))
    estimate = mean_estimate(values, groups, rng(1))
    left_out = [values[groups != name].mean() for name in np.unique(groups)]
    spread = math.sqrt(149 / 150 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    assert (estimate.value, estimate.n, estimate.groups) == (pytest.approx(values.mean()), len(values), 150)
    assert width(estimate) == pytest.approx(2 * 1.96 * spread, rel=0.08)


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (np.zeros((0, 3)), alone(3)),
        (np.zeros((2, 0)), alone(0)),
        (np.array([[0.1, np.nan]]), alone(2)),
    ],
)
def test_what_cannot_be_pooled_is_refused(values: np.ndarray, groups: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least one of each, a group for each image, every value finite"):
        pooled_over_seeds(values, groups, rng())


def test_pooling_keeps_groups_together_and_counts_images_once() -> None:
    generator = rng(6)
    of_groups = generator.normal(size=(1, 200))
    estimate = pooled_over_seeds(np.repeat(of_groups, 3, axis=1), np.repeat(alone(200), 3), rng())
    assert (estimate.n, estimate.groups) == (600, 200)
    assert estimate.value == pytest.approx(of_groups.mean())
    assert width(estimate) == pytest.approx(2 * 1.96 * of_groups.std() / math.sqrt(200), rel=0.06)


def test_holm_refuses_what_is_no_p_value() -> None:
    assert holm([0.0, 1.0]) == [0.0, 1.0]
    for bad in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match="p values lie in"):
            holm([0.5, bad])


def test_an_estimate_is_printed_with_one_decimal_its_interval_and_what_it_rests_on() -> None:
    one = Estimate(value=0.615, low=0.546, high=0.6801, n=200, groups=200)
    assert str(one) == one.percent() == "61.5 % [54.6, 68.0] n=200"
    assert (
        Estimate(value=-0.045, low=-0.079, high=0.012, n=245, groups=67).points() == "-4.5 points [-7.9, +1.2] n=245 in 67 groups"
    )


def test_a_comparison_counts_discordant_images_and_bounds_what_could_be_shown() -> None:
    comparison = compare(*pairs(50, 30, 10, 10), alone(100))
    assert (comparison.only_first, comparison.only_second, comparison.effective) == (30, 10, 100)
    assert comparison.p_value == pytest.approx(stats.binomtest(30, 40).pvalue)
    assert comparison.detectable() == smallest_detectable_difference(100, 0.4)
    assert comparison.detectable(level=0.01, power=0.9) == smallest_detectable_difference(100, 0.4, level=0.01, power=0.9)
    assert comparison.difference.low > 0
    assert compare(*pairs(5, 0, 0, 5), alone(10)).detectable() is None
    with pytest.raises(ValueError, match="at least one image"):
        compare(*pairs(0, 0, 0, 0), alone(0))


def test_people_read_how_many_groups_there_are() -> None:
    estimate = Estimate(value=0.5, low=0.25, high=0.75, n=245, groups=67)
    assert estimate.percent() == "50.0 % [25.0, 75.0] n=245 in 67 groups"
    assert Estimate(value=0.5, low=0.25, high=0.75, n=67, groups=67).points() == "+50.0 points [+25.0, +75.0] n=67"


def test_a_mean_has_the_interval_of_its_t_statistic_when_the_values_are_normal() -> None:
    values = rng(1).normal(0.7, 0.1, size=500)
    estimate = mean_estimate(values, alone(500), rng())
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert estimate.low == pytest.approx(low, abs=6e-4)
    assert estimate.high == pytest.approx(high, abs=6e-4)
    assert mean_estimate(np.array([0.5, 0.5]), alone(2), rng()).low == 0.5
    with pytest.raises(ValueError, match="finite"):
        mean_estimate(np.array([0.5, np.nan]), alone(2), rng())


def test_pooling_one_seed_is_the_bootstrap_over_images() -> None:
    values = (rng(2).random((1, 400)) < 0.6).astype(float)
    estimate = pooled_over_seeds(values, alone(400), rng())
    binomial = stats.binom.ppf([0.025, 0.975], 400, values.mean()) / 400
    assert estimate.n == 400
    assert [estimate.low, estimate.high] == pytest.approx(binomial, abs=1.01 / 400)


def test_pooling_has_the_variance_of_the_crossed_model() -> None:
    # Owen 2007: E[pigeonhole variance] = var_image/n (1 - 1/n) + var_seed/s (1 - 1/s) + about 3 var_rest / (n s), large n, s.
    seeds, images = 12, 300
    generator = rng(3)
    seed_effects, image_effects = generator.normal(0, 0.1, (seeds, 1)), generator.normal(0, 0.5, (1, images))
    estimate = pooled_over_seeds(seed_effects + image_effects, alone(images), rng())
    variance = image_effects.var() / images + seed_effects.var() / seeds
    assert width(estimate) == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.06)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_a_pooled_interval_holds_its_mean_and_stays_in_range(seeds: int, images: int, seed: int) -> None:
    values = (rng(seed).random((seeds, images)) < 0.5).astype(float)
    estimate = pooled_over_seeds(values, alone(images), rng(seed))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
