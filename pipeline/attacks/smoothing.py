"""Randomized smoothing: the one figure here that no attack can lower, and that is a statement about another system.

Cohen, Rosenfeld and Kolter 2019, https://arxiv.org/abs/1902.02918. The smoothed system answers with the class that the system gives
most often to noisy copies of the image. If that class has more than half of the votes, no perturbation of Euclidean length below
``sigma * quantile(share of votes)`` changes the answer: whatever the attacker, whatever the path, the mask included, because the
whole two-stage system is the function that is smoothed. The share is only estimated, so its lower confidence limit takes its place
(Clopper and Pearson 1934): a certificate is wrong with a probability of at most ``error_rate`` per image.

A certificate holds for the smoothed system and for everything that is held fixed meanwhile: with an oracle or frozen mask, for
attackers who cannot touch the mask. It says nothing about the bare system, whose empirical curve may lie below or above.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from jaxtyping import Float64, Int64
from scipy import stats
from torch import Tensor
from torch.nn import functional

from pipeline.attacks.measurement import Condition
from pipeline.attacks.measurements import Smoothing
from pipeline.attacks.measuring import MeasuredBatch, Observation, observed
from pipeline.attacks.objectives import margin
from pipeline.attacks.pgd import pgd_l2
from pipeline.masks.context import MaskContext
from pipeline.randomness import derive_seeds, normal
from pipeline.shapes import Images, Indices, Labels, Scores, Seeds
from pipeline.system import attacked

ABSTAIN = -1
"""The answer of a smoothed system that is not sure."""

# The votes that choose a class must be others than those that certify it, and an attacker's draws others than the judge's.
_SELECT_STREAM, _CERTIFY_STREAM, _ATTACK_STREAM, _PREDICT_STREAM = range(4)

Model = Callable[[Images], Tensor]
"""Images to logits, of the images of one batch in their order: what belongs to them, their context, is the function's affair."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What the smoothed system says of each image, and how far that holds."""

    predictions: Labels
    """The class, or ``ABSTAIN``."""
    radii: Float64[Tensor, " batch"]
    """Euclidean distance within which the prediction cannot change; 0 where it abstains."""


def certify(
    model: Model,
    images: Images,
    *,
    sigma: float,
    seeds: Seeds,
    num_selection: int = 100,
    num_draws: int = 1000,
    error_rate: float = 0.001,
) -> Certificate:
    """Class and certified radius of each image, by ``num_selection + num_draws`` forward passes: the paper's CERTIFY.

    The largest radius that ``num_draws`` votes can give is ``sigma * quantile(error_rate ** (1 / num_draws))``. Noisy images leave
    [0,1], as the proof needs. The same seeds give the same certificates, whatever the batch.
    """
    guesses = _votes(model, images, sigma, derive_seeds(seeds, _SELECT_STREAM), num_selection).argmax(dim=1)
    votes = _votes(model, images, sigma, derive_seeds(seeds, _CERTIFY_STREAM), num_draws)
    counts = votes.gather(1, guesses[:, None]).squeeze(1).double().cpu().numpy()
    # Without a vote the limit is 0, for which the distribution has no parameters. Up to a half nothing is certified.
    shares = stats.beta.ppf(error_rate, counts.clip(1), num_draws - counts.clip(1) + 1).clip(0.5)
    radii = torch.from_numpy(sigma * stats.norm.ppf(shares)).to(guesses.device)
    return Certificate(predictions=torch.where(radii > 0, guesses, ABSTAIN), radii=radii)


def predict(
    model: Model, images: Images, *, sigma: float, seeds: Seeds, num_draws: int = 1000, error_rate: float = 0.001
) -> Int64[Tensor, " batch"]:
    """The smoothed system's answer, or ``ABSTAIN`` where the two commonest classes cannot be told apart: the paper's PREDICT."""
    votes = _votes(model, images, sigma, derive_seeds(seeds, _PREDICT_STREAM), num_draws)
    first, second = votes.topk(2, dim=1).values.T
    both = (first + second).cpu().numpy()
    p_values = torch.from_numpy(2 * stats.binom.sf(first.cpu().numpy() - 1, both, 0.5)).to(images.device)
    return torch.where(p_values <= error_rate, votes.argmax(dim=1), ABSTAIN)


def _votes(model: Model, images: Images, sigma: float, seeds: Seeds, num_draws: int) -> Int64[Tensor, "batch classes"]:
    """How often each class is the answer to the image with noise."""

    def ballots(draw: int) -> Tensor:
        logits = model(images + sigma * _noise(images, seeds, draw))
        return functional.one_hot(logits.argmax(dim=1), logits.shape[1])

    return reduce(torch.add, map(ballots, range(num_draws)))


def _noise(images: Tensor, seeds: Tensor, draw: int) -> Tensor:
    return normal(derive_seeds(seeds, draw), tuple(images.shape[1:]), dtype=images.dtype)


@dataclass(frozen=True, kw_only=True)
class SmoothedObjective:
    """What an attacker of the smoothed system climbs: the margin of the mean probabilities over draws of the noise.

    Salman et al. 2019, https://arxiv.org/abs/1906.04584. The draws are fixed, and are not those that the answer is judged by.
    """

    model: Callable[..., Tensor]
    """Images and, where there is one, their context to logits; in the state of ``system.attacked``."""
    labels: Labels
    context: MaskContext | None
    sigma: float
    seeds: Seeds
    num_draws: int = 16

    def __call__(self, images: Images) -> Scores:
        seeds = derive_seeds(self.seeds, _ATTACK_STREAM)

        def probabilities(draw: int) -> Tensor:
            noisy = images + self.sigma * _noise(images, seeds, draw)
            logits = self.model(noisy) if self.context is None else self.model(noisy, self.context)
            return logits.softmax(dim=1)

        total = reduce(torch.add, map(probabilities, range(self.num_draws)))
        return margin((total / self.num_draws).clamp_min(1e-12).log(), self.labels)

    def select(self, indices: Indices) -> "SmoothedObjective":
        """The same objective for some images of the batch, in the order of ``indices``."""
        context = None if self.context is None else self.context.select(indices)
        return replace(self, labels=self.labels[indices], context=context, seeds=self.seeds[indices])


def observe_smoothed(spec: Smoothing, batch: MeasuredBatch, condition: Condition) -> Observation:
    """Answers of the smoothed system."""
    return observe_certified(spec, batch) if condition.name == "certified" else observe_attacked(spec, batch, condition.level)


def observe_certified(spec: Smoothing, batch: MeasuredBatch) -> Observation:
    """The certified radius of each image, 0 where the answer is wrong or none."""
    with attacked(batch.system), torch.no_grad():
        certificate = certify(
            batch.logits,
            batch.images,
            sigma=spec.sigma,
            seeds=batch.seeds,
            num_selection=spec.num_selection,
            num_draws=spec.num_draws,
            error_rate=spec.error_rate,
        )
    right = certificate.predictions == batch.labels
    radii = torch.where(right, certificate.radii, 0.0)
    return replace(observed(batch, batch.images, values=radii), predictions=certificate.predictions, correct=right)


def observe_attacked(spec: Smoothing, batch: MeasuredBatch, radius: float) -> Observation:
    """The smoothed system under attack. An image whose answer cannot be told from a tie counts as robust."""
    objective = SmoothedObjective(
        model=batch.system,
        labels=batch.labels,
        context=batch.context,
        sigma=spec.sigma,
        seeds=batch.seeds,
        num_draws=spec.attack_draws,
    )
    with attacked(batch.system), torch.no_grad():
        points = pgd_l2(objective, batch.images, epsilon=radius, num_steps=spec.num_steps, seeds=batch.seeds)
        answers = predict(
            batch.logits, points, sigma=spec.sigma, seeds=batch.seeds, num_draws=spec.num_draws, error_rate=spec.error_rate
        )
    robust = (answers == batch.labels) | (answers == ABSTAIN)
    return replace(observed(batch, points), predictions=answers, correct=robust)
