"""``foreguard train-segmenter`` and ``foreguard train-classifier``.

What only training needs is imported when it begins: it takes seconds, which neither ``--help`` nor a typo should cost.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from pydantic import Field

from classifier.config import ClassifierConfig
from pipeline.config import configuration, to_plain
from pipeline.data.transforms import AugmentConfig
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.training.config import TrainerConfig
from pipeline.training.objectives import NaturalConfig, ObjectiveConfig
from segmenter.config import SegmenterConfig


@configuration
class TrainSegmenterConfig:
    """Train the stage that predicts the foreground mask."""

    prepared: Path
    """Directory of the prepared data set."""
    run: Path
    """Directory that the run is kept in; it must not hold one, but for resume."""
    resume: bool = False
    """Continue the run in that directory; begin it where there is none."""
    segmenter: SegmenterConfig = dataclasses.field(default_factory=SegmenterConfig)
    """What the segmenter is made of."""
    objective: ObjectiveConfig = dataclasses.field(default_factory=NaturalConfig)
    """What a training step minimises: natural, adversarial or trades."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    """How training images are varied."""
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """The training loop."""


@configuration
class TrainClassifierConfig:
    """Train the stage that classifies the masked image."""

    prepared: Path
    """Directory of the prepared data set."""
    run: Path
    """Directory that the run is kept in; it must not hold one, but for resume."""
    resume: bool = False
    """Continue the run in that directory; begin it where there is none."""
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    """What the classifier is made of."""
    masks: MaskConfig = dataclasses.field(default_factory=lambda: MaskConfig(source=MaskSource.NONE))
    """Which mask the classifier sees images through in training, and what fills the rest."""
    segmenter_run: Path | None = None
    """Run of a segmenter (or the JSON of one of its checkpoints): for the mask sources learned, learned-hard and frozen."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes, 0 to 1."""
    objective: ObjectiveConfig = dataclasses.field(default_factory=NaturalConfig)
    """What a training step minimises: natural, adversarial or trades."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    """How training images are varied."""
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """The training loop."""

    def __post_init__(self) -> None:
        needs_segmenter = self.masks.source.needs_segmenter
        if needs_segmenter and self.segmenter_run is None:
            raise ValueError(
                f"masks.source={self.masks.source.value} needs a segmenter: set segmenter_run to the directory of its run"
            )
        if not needs_segmenter and self.segmenter_run is not None:
            raise ValueError(f"masks.source={self.masks.source.value} uses no segmenter: leave segmenter_run out")


def train_segmenter(config: TrainSegmenterConfig) -> None:
    """Train a segmenter on a prepared data set. Raises ``UserError`` of the kind that fits."""
    from pipeline.data.dataset import open_prepared
    from pipeline.runs.stages import new_segmenter
    from pipeline.training.job import Job
    from pipeline.training.tasks import bind_segmenter
    from pipeline.training.trainer import train

    dataset = open_prepared(config.prepared)
    module = new_segmenter(config.segmenter, seed=config.trainer.seed, image_size=dataset.image_size)
    train(
        Job(
            command="train-segmenter",
            config=to_plain(config),
            inputs={"data set": dataset.fingerprint},
            run=config.run,
            resume=config.resume,
            kind="segmenter",
            architecture=to_plain(config.segmenter),
            module=module,
            bind=bind_segmenter,
            objective=config.objective,
            trainer=config.trainer,
            dataset=dataset,
            augment=config.augment,
        )
    )


def train_classifier(config: TrainClassifierConfig) -> None:
    """Train a classifier behind a mask source on a prepared data set. Raises ``UserError`` of the kind that fits."""
    from pipeline.data.dataset import open_prepared
    from pipeline.data.substitutes import with_substitutes
    from pipeline.runs.checkpoints import load_segmenter, refer_to_segmenter
    from pipeline.runs.stages import new_classifier
    from pipeline.training.job import Job
    from pipeline.training.tasks import bind_classifier
    from pipeline.training.trainer import train

    dataset = with_substitutes(open_prepared(config.prepared), config.masks.source.substitute)
    segmenter, reference = None, None
    inputs = {"data set": dataset.fingerprint}
    if config.segmenter_run is not None:
        segmenter, checkpoint = load_segmenter(config.segmenter_run)
        reference = refer_to_segmenter(config.segmenter_run, sha256=checkpoint.sha256, run=config.run)
        inputs["segmenter"] = checkpoint.sha256
    module = new_classifier(
        config.classifier, num_classes=dataset.num_classes, seed=config.trainer.seed, image_size=dataset.image_size
    )
    train(
        Job(
            command="train-classifier",
            config=to_plain(config),
            inputs=inputs,
            run=config.run,
            resume=config.resume,
            kind="classifier",
            architecture=to_plain(config.classifier),
            module=module,
            bind=lambda classifier: bind_classifier(
                classifier,
                masks=config.masks,
                segmenter=segmenter,
                mean_colour=dataset.train_mean(),
                label_smoothing=config.label_smoothing,
            ),
            objective=config.objective,
            trainer=config.trainer,
            dataset=dataset,
            augment=config.augment,
            segmenter=reference,
        )
    )
