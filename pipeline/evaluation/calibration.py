"""Whether a confidence is what it says: of images that are classified with 80 % confidence, 80 % should be right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from pipeline.evaluation.statistics import Estimate, share

BINS = 15
"""Of equal width; the usual number since Guo et al. 2017."""
DRAWS = 999
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images of one range of confidence."""

    low: float
    """Confidences above it ..."""
    high: float
    """... and up to it, itself included."""
    confidence: float
    """Mean of these images."""
    right: Estimate
    """Share of them that is classified right, with its 95 % Wilson interval at the effective number of images."""


def reliability(
    confidences: Float[np.ndarray, " images"],
    right: Bool[np.ndarray, " images"],
    groups: Shaped[np.ndarray, " images"],
    *,
    bins: int = BINS,
) -> list[Bin]:
    """The bins of a reliability diagram that hold an image, ascending: ``(m - 1) / bins < confidence <= m / bins``."""
    places = _places(confidences, bins)
    return [
        Bin(
            low=int(place) / bins,
            high=(int(place) + 1) / bins,
            confidence=float(confidences[places == place].mean()),
            right=share(right[places == place], groups[places == place]),
        )
        for place in np.unique(places)
    ]


def expected_calibration_error(
    confidences: Float[np.ndarray, " images"], right: Bool[np.ndarray, " images"], *, bins: int = BINS
) -> float:
    """ECE: the distance between mean confidence and share right of each bin, averaged over images; 0 is perfect, at most 1.

    Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602; Guo et al. 2017, https://arxiv.org/abs/1706.04599. It is biased
    upwards, the more so the fewer images (``error_by_chance``), and says nothing of single images.
    """
    return float(_errors(confidences, right[None], bins)[0])


def error_by_chance(confidences: Sequence[Float[np.ndarray, " images"]], rng: np.random.Generator) -> float:
    """The ECE that perfectly calibrated systems with these confidences stay below in 95 of 100 samples, averaged over the systems.

    Consistency resampling, Bröcker and Smith 2007, https://doi.org/10.1175/WAF993.1: whether an image is right is drawn by its own
    confidence, for each image by itself. Images of one group are right together, so with groups it is too low.
    """
    drawn = [_errors(one, rng.random((DRAWS, len(one))) < one, BINS) for one in confidences]
    return float(np.quantile(np.mean(drawn, axis=0), LEVEL))


def _places(confidences: Float[np.ndarray, " images"], bins: int) -> Int64[np.ndarray, " images"]:
    if not len(confidences) or not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError("confidences: expected at least one, each in [0,1]")
    places: Int64[np.ndarray, " images"] = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, None)
    return places


def _errors(
    confidences: Float[np.ndarray, " images"], right: Bool[np.ndarray, "draws images"], bins: int
) -> Float[np.ndarray, " draws"]:
    """ECE for each draw of what is right: the sums over each bin of confidence minus right, their sizes added up."""
    members = (_places(confidences, bins)[:, None] == np.arange(bins)).astype(np.float64)
    errors: Float[np.ndarray, " draws"] = np.abs((confidences - right) @ members).sum(axis=1) / len(confidences)
    return errors
