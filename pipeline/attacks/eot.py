"""Expectation over transformations: climb what holds on average, where the attacker does not know the draw.

Athalye, Engstrom, Ilyas and Kwok 2018, https://arxiv.org/abs/1707.07397.
"""

from dataclasses import dataclass, replace

import torch

from pipeline.attacks.tracker import MarginObjective
from pipeline.attacks.two_stage import SystemObjective
from pipeline.masks.context import MaskContext
from pipeline.randomness import derive_seeds
from pipeline.shapes import Images, Indices, Scores

# Keeps the attacker's draws apart from every other use of an image's seed.
_DRAW_STREAM = 0x45_4F_54


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """The mean score and the mean margin of several objectives, one for each draw of what the attacker does not know.

    For a system that draws afresh at every call, give the same objective as often as draws are wanted. The margin is the
    expected one and not that of the true draw: the point is chosen without the knowledge that the attacker is denied.
    """

    objectives: tuple[MarginObjective, ...]

    def __call__(self, images: Images) -> Scores:
        return self.scores_and_margins(images)[0]

    def scores_and_margins(self, images: Images) -> tuple[Scores, Scores]:
        """The mean of the scores and the mean of the margins."""
        scores, margins = zip(*(objective.scores_and_margins(images) for objective in self.objectives), strict=True)
        return torch.stack(scores).mean(dim=0), torch.stack(margins).mean(dim=0)

    def select(self, indices: Indices) -> "Expectation":
        """The same expectation for some images of the batch, in the order of ``indices``."""
        return Expectation(objectives=tuple(objective.select(indices) for objective in self.objectives))


def over_hidden_seeds(objective: SystemObjective, *, num_draws: int) -> Expectation:
    """The expectation over random masks and noise fills: the same objective under seeds that the attacker makes up."""
    contexts = (made_up_seeds(objective.context, draw) for draw in range(num_draws))
    return Expectation(objectives=tuple(replace(objective, context=context) for context in contexts))


def made_up_seeds(context: MaskContext | None, draw: int) -> MaskContext:
    """The context as an attacker has it who does not know the images' seeds: others in their place.

    They are derived from the images' own, so what is found does not depend on the batch; the images' own are not among them.
    Raises ValueError where the context has no seeds.
    """
    if context is None or context.sample_seeds is None:
        raise ValueError("an expectation over seeds needs sample seeds, and the context has none")
    return context._replace(sample_seeds=derive_seeds(context.sample_seeds, _DRAW_STREAM, draw))
