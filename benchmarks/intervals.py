"""How often do 95 % intervals of shares of grouped images hold the truth? Simulated; the table stands in docs/adr/0005.

python benchmarks/intervals.py [--samples 4000] [--alternatives]

Images of a group share a probability drawn from a beta distribution, so each pair of them has the intra-class correlation asked
for. Groups have 1 to 10 images, every size as likely. Beside the interval that is in use stand that of the shrunken design effect,
which it replaced, and Wilson's for independent images. The second table does the same for differences of two systems on the same
images.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
from scipy import stats

from pipeline.evaluation.clusters import numbered, totals
from pipeline.evaluation.statistics import CONFIDENCE, Estimate, paired_difference, score_interval, share, wilson

GROUPS = (25, 67, 150)
SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
CORRELATIONS = (0.0, 0.1, 0.3, 0.5)
GAINS = (0.0, 0.1, 0.2)
LARGEST = 10
"""Images a group."""

Interval = tuple[float, float]
Sides = dict[str, Callable[[np.ndarray, np.ndarray], Interval]]
"""Claims and numbered groups of images to an interval, by name."""


def shrunken_size(values: np.ndarray, groups: np.ndarray) -> float:
    """What ``effective_size`` was before: the design effect drawn towards the images per group with the weight of five groups."""
    n, number = len(values), numbered(groups)
    num_groups = int(number.max()) + 1
    if np.ptp(values) == 0:
        return float(num_groups)
    residuals = values - values.mean()
    independent = float((residuals**2).sum()) / (n - 1) / n
    between = num_groups / (num_groups - 1) * float((totals(residuals, number) ** 2).sum()) / n**2
    found, counts = np.unique(values, return_counts=True)
    telling = len(np.unique(number[values != found[counts.argmax()]]))
    deff = (telling * max(1.0, between / independent) + 5 * n / num_groups) / (telling + 5)
    few = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) / stats.t.ppf((1 + CONFIDENCE) / 2, num_groups - 1)
    return max(1.0, n / deff * float(few) ** 2)


def with_groups_as_freedom(variance: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], Interval]:
    """Wilson's interval at n / deff, lowered for as many degrees of freedom as there are groups but one: the usual choice."""

    def interval(claims: np.ndarray, groups: np.ndarray) -> Interval:
        n, num_groups = len(claims), groups[-1] + 1
        if not claims.any() or claims.all():
            return score_interval(claims.mean(), num_groups)
        deff = max(1.0, variance(claims.astype(float), groups) / (claims.var() / (n - 1)))
        few = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) / stats.t.ppf((1 + CONFIDENCE) / 2, num_groups - 1)
        return score_interval(claims.mean(), max(1.0, n / deff * float(few) ** 2))

    return interval


def linearised(values: np.ndarray, groups: np.ndarray) -> float:
    """Korn and Graubard 1998."""
    sums, count = totals(values - values.mean(), groups), groups[-1] + 1
    return float(count / (count - 1) * (sums**2).sum() / len(values) ** 2)


def jackknife(values: np.ndarray, groups: np.ndarray) -> float:
    """Mancl and DeRouen 2001."""
    shares = np.bincount(groups) / len(values)
    return float(((totals(values - values.mean(), groups) / (1 - shares)) ** 2).sum() / len(values) ** 2)


def analysis_of_variance(values: np.ndarray, groups: np.ndarray) -> float:
    """Fleiss and Cuzick 1979: the intra-class correlation from the mean squares between and within groups."""
    sizes, n = np.bincount(groups), len(values)
    means = totals(values, groups) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (len(sizes) - 1)
    within = float(((values - means[groups]) ** 2).sum()) / max(1, n - len(sizes))
    size = (n - (sizes**2).sum() / n) / (len(sizes) - 1)
    correlation = np.clip((between - within) / (between + (size - 1) * within), 0, 1)
    return float(values.var() / (n - 1) * (1 + ((sizes**2).sum() / n - 1) * correlation))


def ends(estimate: Estimate) -> Interval:
    return estimate.low, estimate.high


SIDES: Sides = {
    "in use": lambda claims, groups: ends(share(claims, groups)),
    "shrunken": lambda claims, groups: score_interval(claims.mean(), shrunken_size(claims.astype(float), groups)),
    "independent": lambda claims, _: ends(wilson(int(claims.sum()), len(claims))),
}

ALTERNATIVES: Sides = {
    "in use": SIDES["in use"],
    "linearised": with_groups_as_freedom(linearised),
    "jackknife": with_groups_as_freedom(jackknife),
    "analysis of variance": with_groups_as_freedom(analysis_of_variance),
}
"""Published estimators that were tried, with the number of groups for the degrees of freedom."""


def probabilities(rng: np.random.Generator, mean: float, correlation: float, count: int) -> np.ndarray:
    if not correlation:
        return np.full(count, mean)
    spread = (1 - correlation) / correlation
    return rng.beta(mean * spread, (1 - mean) * spread, count)


def of_shares(
    rng: np.random.Generator, sides: Sides, samples: int, count: int, truth: float, correlation: float
) -> list[np.ndarray]:
    """Of each side, by sample: whether the interval holds the truth, and its width."""
    seen: list[list[tuple[bool, float]]] = [[] for _ in sides]
    for _ in range(samples):
        groups = np.repeat(np.arange(count), rng.integers(1, LARGEST + 1, count))
        claims = rng.random(len(groups)) < probabilities(rng, truth, correlation, count)[groups]
        for rows, interval in zip(seen, sides.values(), strict=True):
            low, high = interval(claims, groups)
            rows.append((low - 1e-12 <= truth <= high + 1e-12, high - low))
    return [np.array(rows, dtype=float) for rows in seen]


def of_differences(rng: np.random.Generator, samples: int, count: int, gain: float, correlation: float) -> np.ndarray:
    """By sample: whether the interval of a difference holds the truth, and its width. A group favours one system or the other: what
    differs (30 % of the images) does so in one direction with a probability of the group's own."""
    seen = []
    for _ in range(samples):
        groups = np.repeat(np.arange(count), rng.integers(1, LARGEST + 1, count))
        toward = probabilities(rng, 0.5 + gain / 0.6, correlation, count)[groups]
        differs, first = rng.random(len(groups)) < 0.3, rng.random(len(groups)) < toward
        estimate = paired_difference(differs & first, differs & ~first, groups)
        seen.append((estimate.low <= gain <= estimate.high, estimate.high - estimate.low))
    return np.array(seen, dtype=float)


def seed(count: int, truth: float, correlation: float) -> np.random.Generator:
    return np.random.default_rng([count, round(100 * truth), round(10 * correlation)])


def held(one: np.ndarray) -> str:
    """``95.2 (8.7)``: how often the truth was held, and the mean width in points."""
    return f"{100 * one[:, 0].mean():.1f} ({100 * one[:, 1].mean():.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000, help="simulated samples for each cell")
    parser.add_argument("--alternatives", action="store_true", help="rare shares alone, beside other published estimators")
    options = parser.parse_args()
    samples, sides = options.samples, ALTERNATIVES if options.alternatives else SIDES
    heads = "".join(f" correlation {correlation:g} |" for correlation in CORRELATIONS)
    print(f"{' / '.join(sides)}\n\n| groups | share |{heads}\n|---:|---:|{'---:|' * len(CORRELATIONS)}")
    for count, truth in itertools.product(GROUPS, (0.02, 0.1) if options.alternatives else SHARES):
        cells = []
        for correlation in CORRELATIONS:
            found = of_shares(seed(count, truth, correlation), sides, samples, count, truth, correlation)
            cells.append(" / ".join(held(one) for one in found))
        print(f"| {count} | {100 * truth:g} % | {' | '.join(cells)} |", flush=True)
    if options.alternatives:
        return
    print(f"\n| groups | difference |{heads}\n|---:|---:|{'---:|' * len(CORRELATIONS)}")
    for count, gain in itertools.product(GROUPS, GAINS):
        cells = [held(of_differences(seed(count, gain, one), samples, count, gain, one)) for one in CORRELATIONS]
        print(f"| {count} | {100 * gain:g} points | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
