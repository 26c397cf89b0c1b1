"""How often do 95 % intervals of shares of grouped images hold the truth? Simulated; the table stands in docs/adr/0005.

python benchmarks/intervals.py [--samples 2000]

Images of a group share a probability drawn from a beta distribution, so each pair of them has the intra-class correlation asked for.
Groups have 1 to 10 images, every size as likely. Beside the interval that is in use stand that of the shrunken design effect, which it
replaced, and Wilson's for independent images. The second table does the same for differences of two systems on the same images.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
from scipy import stats

from pipeline.evaluation.clusters import effective_size, numbered, totals
from pipeline.evaluation.statistics import CONFIDENCE, Estimate, paired_difference, score_interval, share, wilson

GROUPS = (25, 67, 150)
SHARES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
CORRELATIONS = (0.0, 0.1, 0.3, 0.5)
LARGEST = 10
"""Images a group."""

Interval = tuple[float, float]


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


def ends(estimate: Estimate) -> Interval:
    return estimate.low, estimate.high


SIDES: dict[str, Callable[[np.ndarray, np.ndarray], Interval]] = {
    "in use": lambda claims, groups: ends(share(claims, groups)),
    "shrunken": lambda claims, groups: score_interval(claims.mean(), shrunken_size(claims.astype(float), groups)),
    "independent": lambda claims, _: ends(wilson(int(claims.sum()), len(claims))),
}


def probabilities(rng: np.random.Generator, mean: float, correlation: float, count: int) -> np.ndarray:
    if not correlation:
        return np.full(count, mean)
    spread = (1 - correlation) / correlation
    return rng.beta(mean * spread, (1 - mean) * spread, count)


def of_shares(rng: np.random.Generator, samples: int, count: int, truth: float, correlation: float) -> dict[str, np.ndarray]:
    """Of each side, by sample: whether the interval holds the truth, and its width."""
    seen: dict[str, list[tuple[bool, float]]] = {name: [] for name in SIDES}
    for _ in range(samples):
        groups = np.repeat(np.arange(count), rng.integers(1, LARGEST + 1, count))
        claims = rng.random(len(groups)) < probabilities(rng, truth, correlation, count)[groups]
        for name, interval in SIDES.items():
            low, high = interval(claims, groups)
            seen[name].append((low - 1e-12 <= truth <= high + 1e-12, high - low))
    return {name: np.array(rows, dtype=float) for name, rows in seen.items()}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="simulated samples for each row")
    samples = parser.parse_args().samples
    print("| groups | share | correlation |" + "".join(f" {name} |" for name in SIDES))
    print("|---:|---:|---:|" + "---:|" * len(SIDES))
    for count, truth, correlation in itertools.product(GROUPS, SHARES, CORRELATIONS):
        found = of_shares(np.random.default_rng([count, round(100 * truth), round(10 * correlation)]), samples, count, truth, correlation)
        cells = "".join(f" {100 * one[:, 0].mean():.1f} ({100 * one[:, 1].mean():.1f}) |" for one in found.values())
        print(f"| {count} | {100 * truth:g} % | {correlation:g} |{cells}", flush=True)
    print("\n| groups | difference | correlation | in use |\n|---:|---:|---:|---:|")
    for count, gain, correlation in itertools.product(GROUPS, (0.0, 0.1, 0.2), CORRELATIONS):
        one = of_differences(np.random.default_rng([count, round(100 * gain), round(10 * correlation)]), samples, count, gain, correlation)
        cells = f" {100 * one[:, 0].mean():.1f} ({100 * one[:, 1].mean():.1f}) |"
        print(f"| {count} | {100 * gain:g} points | {correlation:g} |{cells}", flush=True)


if __name__ == "__main__":
    main()
