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
