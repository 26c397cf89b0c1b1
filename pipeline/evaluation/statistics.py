"""Numbers with their uncertainty. The unit is the image unless a docstring says otherwise; scipy does what scipy has.

Two systems are compared on the same images, so everything that compares is paired. Intervals are for images drawn like the
ones at hand, attacked as they were: they do not cover a stronger attack, another data set, or (but for ``pooled_over_seeds``)
another training seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, stats

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval.

    For proportions and their differences the values are shares in [0,1] or [-1,1], not percent; ``n`` counts images.
    """

    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n: int
    """Number of images behind it."""

    def percent(self) -> str:
        """For people: ``61.5 % [54.6, 68.0] n=200``."""
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] n={self.n}"

    def points(self) -> str:
        """For people, a difference in percentage points: ``+4.5 points [+1.2, +7.9] n=200``."""
        return f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}] n={self.n}"


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Two systems on the same images: first minus second."""

    difference: Estimate
    """Share right of the first minus share right of the second, with the bootstrap interval."""
    p_value: float
    """Exact McNemar test, two-sided, not corrected for several comparisons."""
    only_first: int
    """Images that only the first system has right."""
    only_second: int
    """Images that only the second system has right."""
    detectable: float | None
    """Smallest difference that this many images with this much discordance would have shown; None: none at all."""


def wilson(successes: int, n: int) -> Estimate:
    """A share with its 95 % Wilson score interval, without continuity correction.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; Newcombe 1998 compares it with six others,
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E. Never leaves [0,1] and does not collapse at
    0 or n. Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n} images are no share")
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Estimate(value=successes / n, low=float(interval.low), high=float(interval.high), n=n)


def mean_estimate(values: Float[np.ndarray, " images"], rng: np.random.Generator) -> Estimate:
    """The mean over images of any figure, with its BCa bootstrap interval: mask IoU, margins, seconds.

    Efron 1987, https://doi.org/10.1080/01621459.1987.10478410. Equal values give an interval of no width, which says that the
    sample is too small or the figure constant. Raises ValueError for no value and for one that is not finite.
    """
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("a mean needs at least one value, and every value finite")
    mean = float(values.mean())
    low, high = (mean, mean) if np.ptp(values) == 0 else _bca(values, rng)
    return Estimate(value=mean, low=low, high=high, n=len(values))


def paired_difference(
    first: Bool[np.ndarray, " images"], second: Bool[np.ndarray, " images"], rng: np.random.Generator
) -> Estimate:
    """Share of True in ``first`` minus share in ``second``, same images in the same order, with its BCa bootstrap interval.

    Images are resampled as pairs: Efron 1987, https://doi.org/10.1080/01621459.1987.10478410. Where every image says the same,
    resampling knows no spread; then the interval is the exact one for having seen no exception among n images (the "rule of
    three", two-sided): with probability 95 % at most ``1 - 0.025 ** (1 / n)`` of all images are exceptions.
    """
    _check_pairs(first, second)
    differences = first.astype(np.float64) - second
    value, n = float(differences.mean()), len(first)
    if np.ptp(differences) > 0:
        low, high = _bca(differences, rng)
    else:
        exceptions = 1 - ((1 - CONFIDENCE) / 2) ** (1 / n)
        reach = (1 + abs(value)) * exceptions  # an exception to +1 may be a -1
        low, high = max(-1.0, value - reach), min(1.0, value + reach)
    return Estimate(value=value, low=low, high=high, n=n)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p value of the exact McNemar test: are the discordant images a fair coin's?

    McNemar 1947, https://doi.org/10.1007/BF02295996, with the binomial distribution in place of chi-squared, so it holds for any
    number of discordant images; it is conservative. 1 where there is none. Images on which both systems agree do not count.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts are not negative: {only_first}, {only_second}")
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of a family of comparisons, in the given order: compare each with 0.05.

    Holm 1979, https://www.jstor.org/stable/4615733: keeps the chance of any false claim in the family at 5 %, whatever the
    dependence between the comparisons.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values lie in [0,1]: {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def smallest_detectable_difference(n: int, discordance: float, *, power: float = 0.8) -> float | None:
    """The difference of two paired shares that a two-sided 5 % McNemar test on n images finds with the given power.

    ``discordance`` is the share of images on which the two systems differ, above 0 and at most 1; it bounds the difference. None
    where not even that bound would be found. Connor 1987, https://doi.org/10.2307/2531961, solved for the difference. The
    formula is the normal approximation: with fewer than about 20 discordant images the exact test needs a somewhat larger one.
    """
    if n < 1 or not 0 < discordance <= 1 or not 0 < power < 1:
        raise ValueError(f"no test: n={n}, discordance={discordance}, power={power}")
    significant, powerful = stats.norm.ppf(1 - (1 - CONFIDENCE) / 2), stats.norm.ppf(power)

    def surplus(difference: float) -> float:
        spread = math.sqrt(max(0.0, discordance - difference**2))
        return float(difference * math.sqrt(n) - significant * math.sqrt(discordance) - powerful * spread)

    return float(optimize.brentq(surplus, 0.0, discordance)) if surplus(discordance) >= 0 else None


def compare(first: Bool[np.ndarray, " images"], second: Bool[np.ndarray, " images"], rng: np.random.Generator) -> PairedComparison:
    """Everything about first minus second, image by image: which are right in each, same images in the same order."""
    _check_pairs(first, second)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordance = (only_first + only_second) / len(first)
    return PairedComparison(
        difference=paired_difference(first, second, rng),
        p_value=mcnemar(only_first, only_second),
        only_first=only_first,
        only_second=only_second,
        detectable=smallest_detectable_difference(len(first), discordance) if discordance else None,
    )


def pooled_over_seeds(values: Float[np.ndarray, "seeds images"], rng: np.random.Generator) -> Estimate:
    """The mean over training seeds and images, for a figure known for every image under every seed (right or wrong as 1 or 0, or
    the difference of two systems).

    Model: value = mean + image effect + seed effect + rest, both effects random and crossed, since every seed meets the same
    images. The interval is the percentile interval of the pigeonhole bootstrap, which resamples seeds and images independently:
    Owen 2007, https://doi.org/10.1214/07-AOAS122; it counts the rest three times and is thus mildly conservative in it.

    Limits: with S seeds, resampling sees (S - 1) / S of the variance between seeds, so with 2 or 3 seeds the interval is too narrow
    in that part: give the per-seed figures beside it. With one seed it says nothing about retraining. n counts images, not
    images times seeds, for the seeds add no image.
    """
    seeds, images = values.shape
    if not seeds or not images or not np.isfinite(values).all():
        raise ValueError(f"{seeds} seeds and {images} images: at least one of each, and every value finite")
    # Images with equal values are drawn together: right and wrong under S seeds are 2 ** S patterns, however many images there are.
    patterns, counts = np.unique(values, axis=1, return_counts=True)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    means = np.empty(RESAMPLES)
    for part in np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * len(counts) // 4_000_000)):
        image_weights = rng.multinomial(images, counts / images, size=len(part)) / images
        means[part] = np.einsum("rs,rs->r", seed_weights[part], image_weights @ patterns.T)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high), n=images)


def _bca(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    batch = max(1, 4_000_000 // len(values))  # bounds the memory
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, batch=batch, confidence_level=CONFIDENCE, method="BCa", rng=rng
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _check_pairs(first: np.ndarray, second: np.ndarray) -> None:
    if len(first) != len(second) or not len(first):
        raise ValueError(f"pairs of images are compared, not {len(first)} with {len(second)}")
