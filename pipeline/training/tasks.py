"""What a training is about: a stage bound to its targets, loss, divergence and scores (one value per image each), and its data.

Objectives and the loop see nothing else, so they do not know whether a segmenter or a classifier is trained.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from classifier import losses as classifier_losses
from classifier import metrics as classifier_metrics
from pipeline.attacks.acceleration import FollowingCopies
from pipeline.attacks.objectives import Score
from pipeline.config import to_plain
from pipeline.data.config import AugmentConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import Batch
from pipeline.masks.config import MaskConfig
from pipeline.masks.context import MaskContext
from pipeline.runs.checkpoints import (
    Checkpoint,
    SegmenterReference,
    StageKind,
    load_weights,
    refer_to_segmenter,
    save_checkpoint,
    weights_digest,
)
from pipeline.runs.directory import Run, open_run
from pipeline.runs.provenance import provenance
from pipeline.shapes import Images
from pipeline.system import TwoStage, context_of
from pipeline.training.config import TrainConfig, TrainerConfig
from pipeline.training.objectives import Objective
from segmenter import losses as segmenter_losses
from segmenter import metrics as segmenter_metrics

MAX_NAMED_SAMPLES = 8


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
    validation_loss: Score | None = None
    """What attacks of the validation maximise; None: the loss."""
    boosted_loss: Score | None = None
    """The loss of MART on attacked images, (outputs, targets) -> (B,): it also holds the likeliest wrong class down."""
    confidence: Score | None = None
    """(outputs, targets) -> (B,), the probability of the right class. Both are of classes: a segmenter has neither."""
    wrapper: nn.Module | None = None
    """Fabric's wrapper of the network: mixed precision and gradient exchange between processes. None: the network itself."""
    copies: FollowingCopies | None = None
    """Copies of the network that attacks in training climb on; None: the network itself."""

    @property
    def score_name(self) -> str:
        """The score that selects the best epoch."""
        return next(iter(self.scores))

    def attacked_network(self, images: Images) -> nn.Module:
        """What an attack in training climbs on: the network, or a copy of it as it is now."""
        return self.network if self.copies is None else self.copies.latest(images)

    def outputs(self, images: Images, context: MaskContext | None) -> Tensor:
        """Outputs of the bare network, for validation and attacks."""
        return _call(self.network, images, context)

    def training_outputs(self, images: Images, context: MaskContext | None) -> Tensor:
        """Outputs through the wrapper, for what is differentiated by the parameters."""
        return _call(self.wrapper or self.network, images, context)


@dataclass(frozen=True, kw_only=True)
class SavedStage:
    """A stage whose weights a training saves, as checkpoints of their own."""

    kind: StageKind
    architecture: Mapping[str, Any]
    """The part of the configuration that it is built from."""
    segmenter: SegmenterReference | None = None
    """The segmenter whose masks a classifier is trained with; None too where the same training saves it."""
    part: str | None = None
    """What it is called in the module in training, and its folder in the run; None: it is the module, and the run is its own."""

    def directory(self, run: Path) -> Path:
        """Where its checkpoints lie."""
        return (run if self.part is None else run / self.part) / "checkpoints"

    def of(self, module: nn.Module) -> nn.Module:
        """The stage itself."""
        return module if self.part is None else getattr(module, self.part)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: what is trained on what and how, and where it is kept."""

    command: str
    """The command of the command line."""
    config: Mapping[str, Any]
    """The whole configuration, JSON-able: it is recorded, and compared when the run is resumed."""
    inputs: Mapping[str, str]
    """Fingerprints of what is read, by name."""
    run: Path
    resume: bool
    stages: tuple[SavedStage, ...]
    """What is saved. The last one's checkpoint is the one that people are told of."""
    module: nn.Module
    """With its initial weights, on the CPU."""
    bind: Callable[[nn.Module], BoundStage]
    """Makes a stage of the module, or of another one of its kind (the moving average)."""
    objective: Objective
    trainer: TrainerConfig
    dataset: PreparedDataset
    augment: AugmentConfig | None
    settled: Mapping[str, Any] = field(default_factory=dict)
    """What checkpoints say in place of parts of the configuration that leave something to the stages at hand."""
    turns: tuple[str, ...] = ()
    """Parts of the module that are updated in turn, one a step; empty: all of it in every step."""

    def opened(self) -> AbstractContextManager[Run]:
        """Its directory, begun or continued: see ``open_run``."""
        return open_run(self.run, command=self.command, config=self.config, inputs=self.inputs, resume=self.resume)

    def resting(self, module: nn.Module, step: int) -> Iterator[nn.Parameter]:
        """The parameters that this step of the optimizer leaves alone."""
        for turn in self.turns:
            if turn != self.turns[step % len(self.turns)]:
                yield from getattr(module, turn).parameters()

    def checkpoint_path(self, run: Path, name: str) -> Path:
        """Where the last stage's checkpoint ``best`` or ``last`` of a run lies."""
        return self.stages[-1].directory(run) / f"{name}.json"

    def save(self, run: Path, name: str, module: nn.Module, *, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Save the stages as the checkpoints ``best`` or ``last`` of a run. Raises ``RunError``."""
        reference = None
        for stage in self.stages:
            described = self._checkpoint(stage, stage.segmenter or reference, step=step, epoch=epoch, metrics=metrics)
            path = save_checkpoint(stage.directory(run), name, described, stage.of(module).state_dict())
            if stage.kind == "segmenter":  # which a classifier that follows was trained with
                saved = path if name != "best" else path.parent.parent
                sha256 = weights_digest(path, "segmenter")
                reference = refer_to_segmenter(saved, sha256=sha256, run=self.stages[-1].directory(run).parent)

    def load_best(self, run: Path, module: nn.Module) -> None:
        """Load the stages' best checkpoints into a module. Raises ``CheckpointError``."""
        for stage in self.stages:
            path = stage.directory(run) / "best.json"
            load_weights(path, stage.of(module), kind=stage.kind, classes=self.dataset.classes)

    def _checkpoint(
        self, stage: SavedStage, segmenter: SegmenterReference | None, *, step: int, epoch: int, metrics: Mapping[str, float]
    ) -> Checkpoint:
        return Checkpoint(
            kind=stage.kind,
            architecture=dict(stage.architecture),
            config={**self.config, **self.settled},
            classes=self.dataset.classes,
            image_size=self.dataset.image_size,
            data_fingerprint=self.dataset.fingerprint,
            mean_color=self.dataset.train_mean(),
            provenance=provenance(),
            step=step,
            epoch=epoch,
            metrics=dict(metrics),
            segmenter=segmenter,
        )

    def description(self) -> dict[str, Any]:
        """What trackers are told."""
        begun = {"command": self.command, "config": dict(self.config), "inputs": dict(self.inputs)}
        return begun | {"provenance": asdict(provenance())}

    def named(self, rows: Sequence[int]) -> str:
        """Images of the data set by their sample ids, the first of many."""
        ids = ", ".join(self.dataset.samples["sample_id"][row] for row in rows[:MAX_NAMED_SAMPLES])
        return f"samples {ids}" + (f" and {len(rows) - MAX_NAMED_SAMPLES} more" if len(rows) > MAX_NAMED_SAMPLES else "")

    def has_test_split(self) -> bool:
        """A data set may have none."""
        return bool((self.dataset.samples["split"] == "test").any())


def training_of(config: TrainConfig, dataset: PreparedDataset, **own: Any) -> Training:
    """What a command names of a training by the fields of ``Training``, with what all commands take from their configuration."""
    shared = {"run": config.run, "resume": config.resume, "objective": config.objective, "trainer": config.trainer}
    return Training(**{"config": to_plain(config), "dataset": dataset, "augment": config.augment, **shared, **own})


def bind_segmenter(module: nn.Module) -> BoundStage:
    """A segmenter: BCE + Dice against the masks, selected by intersection over union."""
    return BoundStage(
        module=module,
        network=module,
        targets=lambda batch: batch.masks,
        context=lambda _: None,
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
    mean_color: tuple[float, float, float],
    label_smoothing: float = 0.0,
) -> BoundStage:
    """A classifier behind a mask source: cross-entropy against the labels, selected by accuracy.

    The segmenter is frozen for good, and attacks run end to end through it where the masks are learned. Raises ValueError where the
    source needs a segmenter and there is none.
    """
    system = TwoStage(module, masks=masks, segmenter=segmenter, mean_color=mean_color)

    return BoundStage(
        module=module,
        network=system,
        targets=lambda batch: batch.labels,
        context=lambda batch: system.freeze(batch.images, context_of(batch)),
        loss=partial(classifier_losses.cross_entropy, label_smoothing=label_smoothing),
        divergence=classifier_losses.kl_divergence,
        boosted_loss=classifier_losses.boosted_cross_entropy,
        confidence=classifier_losses.confidence,
        scores={"accuracy": lambda logits, labels: classifier_metrics.correct(logits, labels).float()},
    )


def _call(network: nn.Module, images: Tensor, context: MaskContext | None) -> Tensor:
    outputs: Tensor = network(images) if context is None else network(images, context)
    return outputs
