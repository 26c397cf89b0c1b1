"""Adversarial training with a single gradient step, and what ends it before it learns to be blind to that step alone."""

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.attacks.config import PgdConfig
from pipeline.config import Number, configuration
from pipeline.training.objectives import Objective, RobustValidationConfig, StepPasses

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.loader import Batch
    from pipeline.training.tasks import BoundStage


@configuration
class FastConfig(Objective):
    """Training on images after one gradient step from a random start in the maximum norm.

    With the defaults that of Wong et al. 2020 (https://arxiv.org/abs/2001.03994); with noise 2, step 1 and no clipping N-FGSM (de
    Jorge et al. 2022, https://arxiv.org/abs/2202.01181). Other than in their code, the gradient of the step is that of the stage in
    eval mode, as of all attacks here, and the guard looks at validation images at the end of an epoch. Images stay in [0,1].
    """

    name: Literal["fast"] = "fast"
    """the stage's loss after one signed gradient step from uniform noise"""
    epsilon: Annotated[Number, Field(ge=0, le=1)] = 8 / 255
    """Radius of the ball that the stage is to be robust in, in [0,1] images: 8/255, never 8."""
    noise: Annotated[Number, Field(ge=0, le=100)] = 1.0
    """Largest change by the random start, in epsilons."""
    step: Annotated[Number, Field(ge=0, le=100)] = 1.25
    """Length of the step, in epsilons."""
    clip: bool = True
    """Bring the point back into the ball, as Wong et al. do; N-FGSM does not."""
    guard: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    """End training where the robust validation score lies below this share of its best in two epochs in a row: catastrophic
    overfitting. The best epoch is what is kept, and result.json says so. 0: never."""
    validation: RobustValidationConfig = field(default_factory=RobustValidationConfig)
    """How the best epoch is chosen and the collapse is seen; without an attack of its own PGD with 10 steps of epsilon / 4."""

    @property
    def step_passes(self) -> StepPasses:
        """One gradient step."""
        return StepPasses(attacked=1)

    def points(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        """One step up the stage's loss from uniform noise."""
        from pipeline.attacks.norms import ball_of
        from pipeline.attacks.objectives import ModelObjective, scores_and_gradients
        from pipeline.randomness import uniform
        from pipeline.system import attacked

        images, network = batch.images, stage.attacked_network(batch.images)
        noise = uniform(seeds, tuple(images.shape[1:]), dtype=images.dtype).mul_(2).sub_(1)
        start = (images + self.noise * self.epsilon * noise).clamp(0, 1)
        targets, context = (stage.targets(batch),), stage.context(batch)
        objective = ModelObjective(model=network, score=stage.loss, targets=targets, context=context)
        with attacked(network):
            _, gradients = scores_and_gradients(objective, start)
        points = start + self.step * self.epsilon * gradients.sign()
        return ball_of("linf", images, self.epsilon).project(points) if self.clip else points.clamp(0, 1)

    def validation_attack(self) -> tuple[PgdConfig, int]:
        """More than one step: a single one shows nothing of the collapse."""
        several = PgdConfig(epsilon=self.epsilon, num_steps=10)
        return self.validation.attack or several, self.validation.max_images

    def collapsed(self, scores: Sequence[float]) -> bool:
        """The last two scores lie below ``guard`` times the best: one alone may be the noise of a beginning."""
        return len(scores) > 1 and max(scores[-2:]) < self.guard * max(scores)
