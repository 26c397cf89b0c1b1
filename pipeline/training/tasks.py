"""A stage bound to what its training needs: targets, loss, divergence and scores, one value per image each.

Objectives and the engine see nothing else, so they do not know whether a segmenter or a classifier is trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from classifier import losses as classifier_losses
from classifier import metrics as classifier_metrics
from pipeline.attacks.objectives import Score
from pipeline.data.loader import Batch
from pipeline.masks.config import MaskConfig
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage
from segmenter import losses as segmenter_losses
from segmenter import metrics as segmenter_metrics


@dataclass(frozen=True, kw_only=True)
class BoundStage:
    """A module in training with the functions that belong to it."""

    module: nn.Module
    """What is trained and saved."""
    network: nn.Module
    """Images, and the context if there is one, to outputs: what is attacked. It is the module or holds it."""
    targets: Callable[[Batch], Tensor]
    """What loss and scores compare the outputs with."""
    context: Callable[[Batch], MaskContext | None]
    """What the network needs besides the images, made from the clean batch."""
    loss: Score
    """(outputs, targets) -> (B,), minimised in training and maximised by its attacks."""
    divergence: Score
    """(outputs, reference outputs) -> (B,), at least 0: the regulariser of TRADES."""
    scores: Mapping[str, Score]
    """Name -> (outputs, targets) -> (B,) in [0,1], higher is better. The first one selects the best epoch."""
    wrapper: nn.Module | None = None
    """Fabric's wrapper of the network: mixed precision and gradient exchange between processes. None: the network itself."""

    @property
    def score_name(self) -> str:
        """The score that selects the best epoch."""
        return next(iter(self.scores))

    def outputs(self, images: Float[Tensor, "batch 3 height width"], context: MaskContext | None) -> Tensor:
        """Outputs of the bare network, for validation and attacks."""
        return _call(self.network, images, context)

    def training_outputs(self, images: Float[Tensor, "batch 3 height width"], context: MaskContext | None) -> Tensor:
        """Outputs through the wrapper, for what is differentiated by the parameters."""
        return _call(self.wrapper or self.network, images, context)


def bind_segmenter(module: nn.Module) -> BoundStage:
    """A segmenter: BCE + Dice against the masks, selected by intersection over union."""
    return BoundStage(
        module=module,
        network=module,
        targets=lambda batch: batch.masks,
        context=_no_context,
        loss=segmenter_losses.bce_dice,
        divergence=segmenter_losses.mask_divergence,
        scores={
            "iou": lambda logits, masks: segmenter_metrics.intersection_over_union(logits.sigmoid(), masks),
            "dice": lambda logits, masks: segmenter_metrics.dice_score(logits.sigmoid(), masks),
            "boundary_f": lambda logits, masks: segmenter_metrics.boundary_f(logits.sigmoid(), masks),
        },
    )


def bind_classifier(
    module: nn.Module,
    *,
    masks: MaskConfig,
    segmenter: nn.Module | None,
    mean_colour: tuple[float, float, float],
    label_smoothing: float = 0.0,
) -> BoundStage:
    """A classifier behind a mask source: cross-entropy against the labels, selected by accuracy.

    The segmenter is frozen for good, and attacks run end to end through it where the masks are learned. Raises ValueError where the
    source needs a segmenter and there is none.
    """
    system = TwoStage(module, masks=masks, segmenter=segmenter, mean_colour=mean_colour)

    def context(batch: Batch) -> MaskContext:
        return system.freeze(
            batch.images, MaskContext(oracle_masks=batch.masks, substitutes=batch.substitutes, sample_seeds=batch.seeds)
        )

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return classifier_losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return BoundStage(
        module=module,
        network=system,
        targets=lambda batch: batch.labels,
        context=context,
        loss=loss,
        divergence=classifier_losses.kl_divergence,
        scores={"accuracy": lambda logits, labels: classifier_metrics.correct(logits, labels).float()},
    )


def _no_context(batch: Batch) -> None:
    del batch


def _call(network: nn.Module, images: Tensor, context: MaskContext | None) -> Tensor:
    outputs: Tensor = network(images) if context is None else network(images, context)
    return outputs
