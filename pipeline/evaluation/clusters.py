"""Images that are not independent: crops of one photograph, frames of one track. How much such a sample is worth.

A group holds the images that share a photograph or a track; groups are taken to be independent of each other. Where every image is
a group of its own, all of this says what the formulas for independent images say.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats


def numbered(groups: Shaped[np.ndarray, " images"]) -> Int[np.ndarray, " images"]:
    """The group of each image as a number from 0, whatever the groups are called."""
    return np.unique(groups, return_inverse=True)[1].reshape(-1)


def totals(values: Float[np.ndarray, " images"], number: Int[np.ndarray, " images"]) -> Float[np.ndarray, " groups"]:
    """The sum of the values of each group."""
    return np.bincount(number, weights=values)


def effective_size(values: Float[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"], *, confidence: float) -> float:
    """The number of independent images that would give the mean of the values with the precision that these images give it.

    It is n / deff, lowered for few degrees of freedom. The design effect deff (Kish 1965, Survey Sampling) is the variance of the
    mean over that of a simple random sample. The variance is the cluster-robust one with the correction of Mancl and DeRouen (2001,
    https://doi.org/10.1111/j.0006-341X.2001.00126.x), here the jackknife over groups. Its degrees of freedom are Pan and Wall's
    (2002, https://doi.org/10.1002/sim.1142), from how much the groups' contributions to it differ: about twice the number of groups
    with another value than the commonest where these are few, and at most the number of groups - 1. The size is lowered by the
    squared ratio of the t quantiles with n - 1 and with so many degrees of freedom (Korn and Graubard 1998; Dean and Pagano 2015,
    https://doi.org/10.1093/jssam/smv024, call Wilson's interval at this size a modified one; Franco et al. 2019,
    https://doi.org/10.1093/jssam/smy019, compare such intervals).

    The correlation within groups is taken to lie between 0 and 1, which bounds the size by that of as many independent images above
    and by Kish's n^2 / sum of squared group sizes (the images of a group are copies of each other) below; it is the latter where
    all values are equal, for then they say nothing about the correlation. Where every image is its own group both are n.
    ``benchmarks/intervals.py`` measures how often intervals at this size hold the truth.
    """
    n, number = len(values), numbered(groups)
    sizes = np.bincount(number)
    of_copies = n**2 / float((sizes.astype(np.float64) ** 2).sum())
    if len(sizes) == n or np.ptp(values) == 0 or len(sizes) == 1:
        return of_copies
    # How far the mean moves when a group is left out, times n^2. Exact for whole values: what is 0 is not the dust of rounding.
    moved = (n * totals(values, number) - sizes * values.sum()) / (1 - sizes / n)
    contributions = moved**2
    deff = max(1.0, float(contributions.sum()) / n**4 / (float(values.var()) / (n - 1)))
    spread = len(sizes) * float(contributions.var(ddof=1))
    freedom = min(len(sizes) - 1.0, 2 * float(contributions.sum()) ** 2 / spread) if spread else len(sizes) - 1.0
    lowered = stats.t.ppf((1 + confidence) / 2, n - 1) / stats.t.ppf((1 + confidence) / 2, freedom)
    return max(of_copies, n / deff * float(lowered) ** 2)
