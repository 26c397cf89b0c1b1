"""Images that are not independent: crops of one photograph, frames of one track. How much such a sample is worth.

A group holds the images that share a photograph or a track; groups are taken to be independent of each other. Where every image is
a group of its own, all of this says what the formulas for independent images say.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

_DOUBT = 5


def numbered(groups: Shaped[np.ndarray, " images"]) -> Int[np.ndarray, " images"]:
    """The group of each image as a number from 0, whatever the groups are called."""
    return np.unique(groups, return_inverse=True)[1].reshape(-1)


def totals(values: Float[np.ndarray, " images"], number: Int[np.ndarray, " images"]) -> Float[np.ndarray, " groups"]:
    """The sum of the values of each group."""
    return np.bincount(number, weights=values)


def effective_size(values: Float[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"], *, confidence: float) -> float:
    """The number of independent images that would give the mean of the values with the precision that these images give it.

    That is n / deff. The design effect deff (Kish 1965, Survey Sampling) is the variance of the mean between groups, linearised
    because groups differ in size, over that of a simple random sample, and at least 1: a sample that looks better than an
    independent one does so by chance. Where few groups hold another value than the commonest, that ratio is next to unknown (one
    success in 245 images looks independent of everything), so deff is drawn towards its worst, the images per group, with the
    weight of ``_DOUBT`` such groups. With few groups the variance is itself uncertain, so the size is lowered further by the
    squared ratio of the t quantiles with n - 1 and with groups - 1 degrees of freedom (Korn and Graubard 1998; Dean and Pagano
    2015, https://doi.org/10.1093/jssam/smv024, call intervals at this size modified ones; Franco et al. 2019,
    https://doi.org/10.1093/jssam/smy019, compare them). Never below 1 nor above n; the number of groups where all values are equal,
    and n itself where every image is its own group.
    """
    n, number = len(values), numbered(groups)
    num_groups = int(number.max()) + 1
    if num_groups == n:
        return float(n)
    if num_groups == 1 or np.ptp(values) == 0:
        return float(num_groups)
    residuals = values - values.mean()
    independent = float((residuals**2).sum()) / (n - 1) / n
    between = num_groups / (num_groups - 1) * float((totals(residuals, number) ** 2).sum()) / n**2
    found, counts = np.unique(values, return_counts=True)
    telling = len(np.unique(number[values != found[counts.argmax()]]))
    deff = (telling * max(1.0, between / independent) + _DOUBT * n / num_groups) / (telling + _DOUBT)
    few = stats.t.ppf((1 + confidence) / 2, n - 1) / stats.t.ppf((1 + confidence) / 2, num_groups - 1)
    return max(1.0, n / deff * float(few) ** 2)
