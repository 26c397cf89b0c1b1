"""Numbers with their uncertainty. The unit is the image unless a docstring says otherwise; scipy does what scipy has.

Two systems are compared on the same images, so everything that compares is paired. Images of one group (a photograph, a track) are
not independent: ``groups`` names the group of each image, and every interval and p value is one for independent groups. Intervals
are for images drawn like the ones at hand, attacked as they were: they do not cover a stronger attack, another data set, or (but
for ``pooled_over_seeds``) another training seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import optimize, stats

from pipeline.evaluation.clusters import effective_size, numbered, totals

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
    groups: int
    """Number of independent groups that these images fall into; n where every image stands for itself."""

    def __str__(self) -> str:
        return self.percent()

    def percent(self) -> str:
        """For people: ``61.5 % [54.6, 68.0] n=200``."""
        return self._text(".1f", " %")

    def points(self) -> str:
        """For people, a difference in percentage points: ``+4.5 points [+1.2, +7.9] n=245 in 67 groups``."""
        return self._text("+.1f", " points")

    def number(self, form: str = ".1f", scale: float = 100) -> str:
        """The value alone: ``61.5``."""
        return f"{scale * self.value:{form}}"

    def interval(self, form: str = ".1f", scale: float = 100) -> str:
        """``[54.6, 68.0]``"""
        return f"[{scale * self.low:{form}}, {scale * self.high:{form}}]"

    def _text(self, form: str, unit: str) -> str:
        sample = f"n={self.n}" if self.groups == self.n else f"n={self.n} in {self.groups} groups"
        return f"{self.number(form)}{unit} {self.interval(form)} {sample}"


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Two systems on the same images: first minus second."""

    difference: Estimate
    """Share right of the first minus share right of the second, with Tango's score interval."""
    p_value: float
    """Exact sign-flip test over groups, two-sided, not corrected for several comparisons."""
    only_first: int
    """Images that only the first system has right."""
    only_second: int
    """Images that only the second system has right."""
    effective: float
    """Number of independent images that would know the difference as well as these."""

    def detectable(self, *, level: float = 1 - CONFIDENCE, power: float = 0.8) -> float | None:
        """The smallest difference that this many images with this much discordance would have shown; None: not estimable."""
        discordance = (self.only_first + self.only_second) / self.difference.n
        return smallest_detectable_difference(self.effective, discordance, level=level, power=power) if discordance else None


def wilson(successes: int, n: int) -> Estimate:
    """A share of independent images with its 95 % Wilson score interval, without continuity correction.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; Newcombe 1998 compares it with six others,
    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E. Never leaves [0,1] and does not collapse at
    0 or n. Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n} images are no share")
    low, high = score_interval(successes / n, n)
    return Estimate(value=successes / n, low=low, high=high, n=n, groups=n)


def share(
    claims: Bool[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"], *, confidence: float = CONFIDENCE
) -> Estimate:
    """The share of images of which a claim is true, with its 95 % Wilson interval at the effective number of images.

    ``clusters.effective_size`` says what that is and where it comes from. Where all or no images are right, images of one group
    are taken for copies of each other. Raises ValueError for no image.
    """
    _check_alike(claims, groups)
    value = float(claims.mean())
    effective = effective_size(claims.astype(np.float64), groups, confidence=confidence)
    low, high = score_interval(value, effective, confidence=confidence)
    return Estimate(value=value, low=low, high=high, n=len(claims), groups=len(np.unique(groups)))


def mean_estimate(
    values: Float[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"], rng: np.random.Generator
) -> Estimate:
    """The mean over images of any figure, with its BCa bootstrap interval: mask IoU, margins, seconds.

    Efron 1987, https://doi.org/10.1080/01621459.1987.10478410. Groups are resampled whole, and their sums divided by their sizes.
    Equal values give an interval of no width, which says that the sample is too small or the figure constant; a single group
    gives the range of its values. Raises ValueError for no value and for one that is not finite.
    """
    _check_alike(values, groups)
    if not np.isfinite(values).all():
        raise ValueError("a mean needs every value finite")
    mean, number = float(values.mean()), numbered(groups)
    sums, sizes = totals(values, number), np.bincount(number).astype(np.float64)
    if len(sums) == 1:
        low, high = float(values.min()), float(values.max())
    elif np.allclose(sums, mean * sizes, rtol=0, atol=1e-12):
        low, high = mean, mean
    else:
        low, high = _bca(sums, sizes, rng)
    return Estimate(value=mean, low=low, high=high, n=len(values), groups=len(sums))


def paired_difference(
    first: Bool[np.ndarray, " images"], second: Bool[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"]
) -> Estimate:
    """Share of True in ``first`` minus share in ``second``, same images in the same order, with its 95 % score interval.

    Tango 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B, at the effective number of images:
    the shares of discordant images stay, the sample shrinks by the design effect of the difference. Defined for any counts, none
    discordant included. It is an approximation, and narrower than the exact test where fewer than about 10 images differ.
    """
    _check_alike(first, second, groups)
    differences = first.astype(np.float64) - second
    effective = effective_size(differences, groups, confidence=CONFIDENCE)
    low, high = _tango(float((first & ~second).mean()), float((second & ~first).mean()), effective)
    return Estimate(value=float(differences.mean()), low=low, high=high, n=len(first), groups=len(np.unique(groups)))


def sign_flip(net: Int[np.ndarray, " groups"]) -> float:
    """Two-sided p value of the exact sign-flip test: could the sign of each group's net difference be a fair coin's doing?

    ``net`` counts, for each group, the images that only the first system has right minus those that only the second has. If the
    two systems were equally good, either could have been the one that was better on a group (Fisher's randomisation test;
    Edgington and Onghena 2007, Randomization Tests); p is the share of all sign patterns whose sum is at least as far from 0. The
    distribution is not sampled but worked out, by convolving binomials. Groups of one image: the exact McNemar test (1947,
    https://doi.org/10.1007/BF02295996). Groups with net 0 do not count; 1 where there is no other.
    """
    sizes, counts = np.unique(np.abs(net[net != 0]), return_counts=True)
    weights = np.ones(1)  # of every possible sum over the groups whose sign is +
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spaced = np.zeros(size * count + 1)
        spaced[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        weights = np.convolve(weights, spaced)
    total = len(weights) - 1
    distances = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(weights[distances >= abs(int(net.sum()))].sum()))


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


def smallest_detectable_difference(
    n: float, discordance: float, *, level: float = 1 - CONFIDENCE, power: float = 0.8
) -> float | None:
    """The difference of two paired shares that a two-sided McNemar test at this level on n images finds with the given power.

    ``discordance`` is the share of images on which the two systems differ, above 0 and at most 1; it bounds the difference. None
    where not even that bound would be found, or where so few images differ that the exact test could not reach the level whatever
    their signs. Connor 1987, https://doi.org/10.2307/2531961, solved for the difference. The formula is the normal approximation:
    with fewer than about 20 discordant images the exact test needs a somewhat larger difference.
    """
    if n < 1 or not 0 < discordance <= 1 or not 0 < level < 1 or not 0 < power < 1:
        raise ValueError(f"no test: n={n}, discordance={discordance}, level={level}, power={power}")
    if 2 ** (1 - n * discordance) > level:
        return None
    significant, powerful = stats.norm.ppf(1 - level / 2), stats.norm.ppf(power)

    def surplus(difference: float) -> float:
        spread = math.sqrt(max(0.0, discordance - difference**2))
        return float(difference * math.sqrt(n) - significant * math.sqrt(discordance) - powerful * spread)

    return float(optimize.brentq(surplus, 0.0, discordance)) if surplus(discordance) >= 0 else None


def compare(
    first: Bool[np.ndarray, " images"], second: Bool[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"]
) -> PairedComparison:
    """Everything about first minus second, image by image: which are right in each, same images in the same order."""
    _check_alike(first, second, groups)
    differences = first.astype(np.float64) - second
    return PairedComparison(
        difference=paired_difference(first, second, groups),
        p_value=sign_flip(np.rint(totals(differences, numbered(groups))).astype(np.int64)),
        only_first=int((first & ~second).sum()),
        only_second=int((second & ~first).sum()),
        effective=effective_size(differences, groups, confidence=CONFIDENCE),
    )


def pooled_over_seeds(
    values: Float[np.ndarray, "seeds images"],
    groups: Shaped[np.ndarray, " images"],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
    limits: tuple[float, float] | None = None,
) -> Estimate:
    """The mean over training seeds and images, for a figure known for every image under every seed (right or wrong as 1 or 0, or
    the difference of two systems).

    Model: value = mean + group effect + seed effect + rest, both effects random and crossed, since every seed meets the same
    images. The interval is the percentile interval of the pigeonhole bootstrap, which resamples seeds and groups independently:
    Owen 2007, https://doi.org/10.1214/07-AOAS122; it counts the rest three times and is thus mildly conservative in it.

    Limits: with S seeds, resampling sees (S - 1) / S of the variance between seeds, so with 2 or 3 seeds the interval is too narrow
    in that part: give the per-seed figures beside it. The end away from 0 or 1 of a share of very few images lies too near, and so
    does the far end of a difference where very few images differ: with 2 to 6 of 215 the truth is beyond it in 4 to 9 of 100
    simulations (``share_over_seeds`` and ``difference_over_seeds`` mend that). With one seed it says nothing about retraining. n
    counts images, not images times seeds, for the seeds add no image. Where all values are equal, resampling knows no spread: with
    ``limits``, the least and the largest that there can be, the ends then are Wilson's for a share, and Tango's for a difference.
    """
    seeds, images = values.shape
    if not seeds or not images or len(groups) != images or not np.isfinite(values).all():
        raise ValueError(f"{seeds} seeds and {images} images: at least one of each, a group for each image, every value finite")
    number, mean = numbered(groups), float(values.mean())
    if limits is not None and np.ptp(values) == 0:
        unmet = score_interval(0.0, effective_size(values[0], groups, confidence=confidence), confidence=confidence)[1]
        low, high = (mean + unmet * (limit - mean) for limit in limits)
        return Estimate(value=mean, low=low, high=high, n=images, groups=len(np.unique(number)))
    sums = np.stack([*(totals(row, number) for row in values), np.bincount(number).astype(np.float64)])
    # Groups alike in size and values are drawn together: right and wrong under S seeds are few patterns, however many images.
    patterns, counts = np.unique(sums, axis=1, return_counts=True)
    num_groups = int(counts.sum())
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    means = np.empty(RESAMPLES)
    for part in np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * len(counts) // 4_000_000)):
        drawn = rng.multinomial(num_groups, counts / num_groups, size=len(part)) @ patterns.T
        means[part] = np.einsum("rs,rs->r", seed_weights[part], drawn[:, :-1] / drawn[:, -1:])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=mean, low=float(low), high=float(high), n=images, groups=num_groups)


def share_over_seeds(
    claims: Bool[np.ndarray, "seeds images"],
    groups: Shaped[np.ndarray, " images"],
    rng: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """A share with its interval: Wilson's for one seed; over several that pooled over seeds, never within Wilson's for all answers.

    Of a share of very few images resampling sees too little: of 215 images of which 1 to 2 % stand, under two seeds, the truth lay
    above its interval in 4 to 8 of 100 simulations, and never above both. Wilson's takes the answers on one image for one group.
    """
    if len(claims) == 1:
        return share(claims[0], groups, confidence=confidence)
    pooled = pooled_over_seeds(claims.astype(np.float64), groups, rng, confidence=confidence)
    wilson = share(claims.T.ravel(), np.repeat(groups, len(claims)), confidence=confidence)
    return replace(pooled, low=min(pooled.low, wilson.low), high=max(pooled.high, wilson.high))


def difference_over_seeds(
    first: Bool[np.ndarray, "seeds images"],
    second: Bool[np.ndarray, "seeds images"],
    groups: Shaped[np.ndarray, " images"],
    rng: np.random.Generator,
) -> Estimate:
    """Share of True in ``first`` minus share in ``second``, same seeds and images: with Tango's interval for one seed, over several
    with that pooled over seeds, never within Tango's for all answers.

    Where very few images differ resampling sees too little, as of a share: of 215 images of which 2 to 3 % differ, under two seeds,
    the truth lay beyond the end away from 0 in 4 to 5 of 100 simulations, and beyond both in 2 at most.
    """
    if len(first) == 1:
        return paired_difference(first[0], second[0], groups)
    pooled = pooled_over_seeds(first.astype(np.float64) - second, groups, rng)
    tango = paired_difference(first.T.ravel(), second.T.ravel(), np.repeat(groups, len(first)))
    return replace(pooled, low=min(pooled.low, tango.low), high=max(pooled.high, tango.high))


def score_interval(value: float, n: float, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The ends of Wilson's interval of a share of n images; n need not be a whole number."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
    center, reach = 2 * n * value + z**2, z * math.sqrt(4 * n * value * (1 - value) + z**2)
    low, high = (center - reach) / (2 * (n + z**2)), (center + reach) / (2 * (n + z**2))
    return (0.0 if value == 0 else low), (1.0 if value == 1 else high)


def _tango(only_first: float, only_second: float, n: float) -> tuple[float, float]:
    """The differences that the score test does not reject, from the shares of discordant images; n need not be a whole number."""
    z, value = float(stats.norm.ppf((1 + CONFIDENCE) / 2)), only_first - only_second

    def surplus(difference: float, side: float) -> float:
        # The most likely share of images that only the second has right, were this the true difference.
        linear = (2 + only_second - only_first) * difference - only_first - only_second
        constant = -only_second * difference * (1 - difference)
        likely = (math.sqrt(max(0.0, linear**2 - 8 * constant)) - linear) / 4
        spread = math.sqrt(max(0.0, 2 * likely + difference * (1 - difference)) / n)
        return value - difference - side * z * spread

    # Where nothing or everything is discordant the value itself is a root, but not the end of the interval.
    low = -1.0 if only_second == 1 else optimize.brentq(surplus, -1.0, value - 1e-12, args=(1.0,), xtol=1e-14)
    high = 1.0 if only_first == 1 else optimize.brentq(surplus, value + 1e-12, 1.0, args=(-1.0,), xtol=1e-14)
    return float(low), float(high)


def _bca(sums: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    def ratio(totals_of_groups: np.ndarray, images: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(totals_of_groups.sum(axis) / images.sum(axis))

    result = stats.bootstrap(
        (sums, sizes),
        ratio,
        paired=True,
        n_resamples=RESAMPLES,
        batch=max(1, 4_000_000 // len(sums)),  # bounds the memory
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=rng,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _check_alike(*columns: np.ndarray) -> None:
    sizes = {len(column) for column in columns}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"needs at least one image, and one value each: not {', '.join(str(len(one)) for one in columns)}")
