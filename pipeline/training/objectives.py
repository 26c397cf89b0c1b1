"""What a training step minimizes: one configuration for each objective, which knows its losses. No torch is needed to read one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from pipeline.attacks.config import PgdConfig
from pipeline.config import Images, Number, configuration

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.loader import Batch
    from pipeline.training.tasks import BoundStage


@configuration
class RobustValidationConfig:
    """How robustness is measured between epochs, to choose the best one: robust overfitting makes the last one worse (Rice et al.
    2020, https://arxiv.org/abs/2002.11569). Quicker than an evaluation, and not a substitute for one."""

    attack: PgdConfig | None = None
    """The attack on validation images, of which the best point visited counts; null: the one of training."""
    max_images: Images = 512
    """How many validation images are attacked, at least 1: a random choice, the same in every epoch."""


class StepPasses(NamedTuple):
    """How often a training image goes through the stage in one step."""

    trained: int = 1
    """Forwards, and backwards to the weights."""
    scored: int = 0
    """Forwards alone."""
    attacked: int = 0
    """Forwards, and backwards to the image."""


class Objective:
    """What a training step minimizes. Another one is a configuration that is derived from this, listed in ``ObjectiveConfig``.

    A step finds the points that are trained on, and then minimizes losses at these points.
    """

    name: str
    """What ``objective.name`` chooses it by."""

    @property
    def for_segmenters(self) -> bool:
        """It is defined for masks, and not for classes alone."""
        return True

    @property
    def smooths_labels(self) -> bool:
        """It uses the stage's own loss of classes, whose labels may be smoothed."""
        return True

    @property
    def step_passes(self) -> StepPasses:
        """What a step costs: one pass each way."""
        return StepPasses()

    @property
    def moves_weights(self) -> bool:
        """Within a step the weights are others than before and after it."""
        return False

    def points(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        """The images (B,3,H,W) that are trained on, detached: the batch's own. ``seeds`` (B,): for what is drawn for an image."""
        del stage, seeds
        return batch.images

    def losses_at(self, stage: "BoundStage", batch: "Batch", points: "Tensor") -> "Tensor":
        """One loss per image (B,), differentiable by the stage's parameters. The stage's loss at the points."""
        return stage.loss(stage.training_outputs(points, stage.context(batch)), stage.targets(batch))

    def losses(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        """The losses at the points."""
        return self.losses_at(stage, batch, self.points(stage, batch, seeds))

    def losses_in_step(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "AbstractContextManager[Tensor]":
        """The losses, for as long as they are differentiated."""
        return nullcontext(self.losses(stage, batch, seeds))

    def validation_attack(self) -> tuple[PgdConfig, int] | None:
        """The attack whose score chooses the best epoch, and on how many validation images; None: the score on clean ones."""
        return None

    def collapsed(self, scores: Sequence[float]) -> bool:
        """Whether training is to end, seeing the scores that chose the best epoch so far, one an epoch."""
        del scores
        return False


@configuration
class RobustObjective(Objective):
    """An objective with an attack of several steps, whose last point is trained on."""

    attack: PgdConfig = field(default_factory=PgdConfig)
    """The attack on training images, which climbs the stage's loss: its last point is trained on, so restarts is 1. Ready-made ones
    are in configs/attack/training: attack/training@objective.attack=pgd7_l2."""
    validation: RobustValidationConfig = field(default_factory=RobustValidationConfig)
    """How the best epoch is chosen."""

    def __post_init__(self) -> None:
        if self.attack.restarts != 1:
            raise ValueError(f"attack.restarts is {self.attack.restarts}: training takes the last point of one start, set it to 1")

    @property
    def step_passes(self) -> StepPasses:
        """The steps of the attack, whose last point is not scored."""
        return StepPasses(attacked=self.attack.num_steps)

    def points(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        """``losses.attacked_images``"""
        from pipeline.training.losses import attacked_images

        return attacked_images(stage, batch, self.attack, seeds=seeds)

    def validation_attack(self) -> tuple[PgdConfig, int] | None:
        """The one of the validation, else that of training."""
        return self.validation.attack or self.attack, self.validation.max_images


@configuration
class NaturalConfig(Objective):
    """Training on images as they are."""

    name: Literal["natural"] = "natural"
    """the stage's loss on the clean images"""


@configuration
class AdversarialConfig(RobustObjective):
    """Training on attacked images (Madry et al. 2018, https://arxiv.org/abs/1706.06083)."""

    name: Literal["adversarial"] = "adversarial"
    """the stage's loss at the last point of an attack"""


@configuration
class TradesConfig(RobustObjective):
    """Training on clean images, with the outputs on attacked ones held close (Zhang et al. 2019, https://arxiv.org/abs/1901.08573)."""

    name: Literal["trades"] = "trades"
    """clean loss + beta * divergence between attacked and clean outputs"""
    beta: Annotated[Number, Field(ge=0, le=1e6)] = 6.0
    """Weight of the divergence, 0 or more (the paper's 1 / lambda)."""
    attack: PgdConfig = field(default_factory=PgdConfig)
    """The attack on training images, which climbs the divergence: its last point is trained on, so restarts is 1. random_start
    has no effect, it starts at the image plus Gaussian noise of deviation 0.001."""

    @property
    def step_passes(self) -> StepPasses:
        """Clean and attacked images are trained on; the attack climbs away from clean outputs."""
        return StepPasses(trained=2, scored=1, attacked=self.attack.num_steps)

    def points(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        """``losses.diverging_images``"""
        from pipeline.training.losses import diverging_images

        return diverging_images(stage, batch, self.attack, seeds=seeds)

    def losses_at(self, stage: "BoundStage", batch: "Batch", points: "Tensor") -> "Tensor":
        """Gradients flow through both arguments of the divergence. As in the authors' code, but that the clean outputs are computed
        once and not twice."""
        context = stage.context(batch)
        clean = stage.training_outputs(batch.images, context)
        divergence = stage.divergence(stage.training_outputs(points, context), clean)
        return stage.loss(clean, stage.targets(batch)) + self.beta * divergence


@configuration
class MartConfig(RobustObjective):
    """Training on attacked images, with more weight on those that the classifier is unsure of without attack.

    Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS. For classifiers, and for both stages together: its boosted
    cross-entropy is of classes, whose labels are not smoothed. Other than in the authors' code, the attack starts where ``attack``
    says (there at Gaussian noise of deviation 0.001), and nothing is added to the probabilities in logarithms (there 1e-12).
    """

    name: Literal["mart"] = "mart"
    """boosted cross-entropy of attacked images + weight * divergence from clean outputs * (1 - clean probability of the label)"""
    weight: Annotated[Number, Field(ge=0, le=1e6)] = 5.0
    """Weight of the divergence, 0 or more (the paper's lambda)."""

    @property
    def for_segmenters(self) -> bool:
        """Its losses are of classes."""
        return False

    @property
    def smooths_labels(self) -> bool:
        """Its formula has no place for it."""
        return False

    @property
    def step_passes(self) -> StepPasses:
        """Clean and attacked images are trained on."""
        return super().step_passes._replace(trained=2)

    def losses_at(self, stage: "BoundStage", batch: "Batch", points: "Tensor") -> "Tensor":
        """Gradients flow through both outputs and through the weight of an image, as in the authors' code."""
        assert stage.boosted_loss is not None
        assert stage.confidence is not None
        context, targets = stage.context(batch), stage.targets(batch)
        clean = stage.training_outputs(batch.images, context)
        outputs = stage.training_outputs(points, context)
        doubt = 1 - stage.confidence(clean, targets)
        return stage.boosted_loss(outputs, targets) + self.weight * doubt * stage.divergence(outputs, clean)


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


@configuration
class NoiseConfig(Objective):
    """Training on images plus Gaussian noise, for randomized smoothing (Cohen et al. 2019, https://arxiv.org/abs/1902.02918).

    The best epoch is chosen by the score on validation images without noise.
    """

    name: Literal["noise"] = "noise"
    """the stage's loss on images plus Gaussian noise"""
    deviation: Annotated[Number, Field(ge=0, le=10)] = 0.25
    """Standard deviation of the noise, in images of [0,1], which are not clipped: that of the smoothing to come."""

    def points(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        """Images plus noise of their seeds; they leave [0,1] where the noise does."""
        from pipeline.randomness import normal

        del stage
        images = batch.images
        return images + self.deviation * normal(seeds, tuple(images.shape[1:]), dtype=images.dtype)
