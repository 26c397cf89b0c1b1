"""Adversarial weight perturbation: the gradient of a step is taken where the weights are worse."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.attacks.config import PgdConfig
from pipeline.config import Number, configuration
from pipeline.training.objectives import AdversarialConfig, FastConfig, MartConfig, Objective, StepPasses, TradesConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.data.loader import Batch
    from pipeline.training.tasks import BoundStage

Perturbed = Annotated[AdversarialConfig | TradesConfig | MartConfig | FastConfig, Field(discriminator="name")]


@configuration
class AwpConfig(Objective):
    """Another objective, minimized at weights that are moved up its loss first (Wu et al. 2020, https://arxiv.org/abs/2004.05884).

    The images are attacked at the weights as they are. Each matrix or kernel w then moves along the gradient g of the loss at these
    images by gamma |w| / |g| g, in one step; the gradient of the step is taken there, and the weights are put back, to the bit.
    Other than in the authors' code no first epochs go without it; clipping and weight decay meet the weights that were put back.
    """

    name: Literal["awp"] = "awp"
    """the loss of another objective at weights that are perturbed against it"""
    gamma: Annotated[Number, Field(ge=0, le=1)] = 0.005
    """Norm of the perturbation of a layer's weights, in norms of these weights."""
    of: Perturbed = field(default_factory=AdversarialConfig)
    """The objective: adversarial, trades, mart or fast."""

    @property
    def for_segmenters(self) -> bool:
        return self.of.for_segmenters

    @property
    def smooths_labels(self) -> bool:
        return self.of.smooths_labels

    @property
    def step_passes(self) -> StepPasses:
        """The losses of the objective twice: for the perturbation, and at it."""
        return self.of.step_passes._replace(trained=2 * self.of.step_passes.trained)

    @property
    def moves_weights(self) -> bool:
        """Yes, and puts them back."""
        return True

    def points(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Tensor":
        return self.of.points(stage, batch, seeds)

    def losses_at(self, stage: "BoundStage", batch: "Batch", points: "Tensor") -> "Tensor":
        return self.of.losses_at(stage, batch, points)

    @contextmanager
    def losses_in_step(self, stage: "BoundStage", batch: "Batch", seeds: "Tensor") -> "Iterator[Tensor]":
        """The losses at perturbed weights, which are put back at the end."""
        import torch

        points = self.points(stage, batch, seeds)
        changes = self.perturbation(stage, batch, points)
        parameters = dict(stage.network.named_parameters())
        before = {name: parameters[name].detach().clone() for name in changes}
        try:
            with torch.no_grad():
                for name, change in changes.items():
                    parameters[name].add_(change)
            yield self.losses_at(stage, batch, points)
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    parameters[name].copy_(value)

    def perturbation(self, stage: "BoundStage", batch: "Batch", points: "Tensor") -> "dict[str, Tensor]":
        """What is added to each matrix or kernel of the network in training, by name. It is found on a copy, whose batch statistics
        are forgotten. Several processes have one each, of their own images."""
        import copy
        from dataclasses import replace

        import torch

        proxy: nn.Module = copy.deepcopy(stage.network)
        losses = self.losses_at(replace(stage, network=proxy, wrapper=None), batch, points)
        weights = {name: value for name, value in proxy.named_parameters() if value.requires_grad and value.ndim > 1}
        gradients = torch.autograd.grad(losses.mean(), list(weights.values()))
        return {
            name: self.gamma * weight.detach().norm() / (gradient.norm() + 1e-20) * gradient
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }

    def validation_attack(self) -> tuple[PgdConfig, int] | None:
        return self.of.validation_attack()

    def collapsed(self, scores: Sequence[float]) -> bool:
        return self.of.collapsed(scores)
