"""``foreguard train-segmenter``, ``foreguard train-classifier`` and ``foreguard train-joint``.

To import this takes seconds, which nothing but a training should cost: whoever may train imports it when that begins.
"""

from dataclasses import replace

from pipeline.config import to_plain, validate
from pipeline.data.dataset import open_prepared
from pipeline.data.substitutes import with_substitutes
from pipeline.errors import CheckpointError
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.runs.checkpoints import load_classifier, load_segmenter, refer_to_segmenter
from pipeline.runs.stages import new_classifier, new_segmenter
from pipeline.training.config import TrainClassifierConfig, TrainJointConfig, TrainSegmenterConfig
from pipeline.training.joint import JointStages, SeparatelyAttacked, bind_joint
from pipeline.training.tasks import SavedStage, bind_classifier, bind_segmenter, training_of
from pipeline.training.trainer import train


def train_segmenter(config: TrainSegmenterConfig) -> None:
    """Train a segmenter on a prepared data set. Raises ``UserError`` of the kind that fits."""
    dataset = open_prepared(config.prepared).for_segmenters()
    module = new_segmenter(config.segmenter, seed=config.trainer.seed, image_size=dataset.image_size)
    training = training_of(
        config,
        dataset,
        command="train-segmenter",
        inputs={"data set": dataset.fingerprint},
        stages=(SavedStage(kind="segmenter", architecture=to_plain(config.segmenter)),),
        module=module,
        bind=bind_segmenter,
    )
    train(training)


def train_classifier(config: TrainClassifierConfig) -> None:
    """Train a classifier behind a mask source on a prepared data set. Raises ``UserError`` of the kind that fits."""
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
    training = training_of(
        config,
        dataset,
        command="train-classifier",
        inputs=inputs,
        stages=(SavedStage(kind="classifier", architecture=to_plain(config.classifier), segmenter=reference),),
        module=module,
        bind=lambda classifier: bind_classifier(
            classifier,
            masks=config.masks,
            segmenter=segmenter,
            mean_color=dataset.train_mean(),
            label_smoothing=config.label_smoothing,
        ),
    )
    train(training)


def train_joint(config: TrainJointConfig) -> None:
    """Train both stages of two runs on, on a prepared data set. Raises ``UserError`` of the kind that fits."""
    dataset = open_prepared(config.prepared)
    segmenter, of_segmenter = load_segmenter(config.segmenter_run)
    classifier, of_classifier = load_classifier(config.classifier_run, classes=dataset.classes)
    for path, checkpoint in ((config.segmenter_run, of_segmenter), (config.classifier_run, of_classifier)):
        if checkpoint.data_fingerprint != dataset.fingerprint:
            raise CheckpointError(f"{path}: was trained on other data than {config.prepared}, whose test images it may have seen")
    trained = validate(MaskConfig, of_classifier.config.get("masks", {}))
    masks = replace(trained, **config.masks, source=MaskSource.JOINT)
    weights = {"mask_weight": config.mask_weight, "label_smoothing": config.label_smoothing}
    separate = SeparatelyAttacked(config.objective, dataset.num_classes, **weights)
    training = training_of(
        config,
        dataset,
        command="train-joint",
        settled={"masks": to_plain(masks)},
        inputs={"data set": dataset.fingerprint, "segmenter": of_segmenter.sha256, "classifier": of_classifier.sha256},
        stages=(
            SavedStage(kind="segmenter", architecture=of_segmenter.architecture, part="segmenter"),
            SavedStage(kind="classifier", architecture=of_classifier.architecture, part="classifier"),
        ),
        module=JointStages(segmenter.train(), classifier.train(), masks=masks, mean_color=of_classifier.mean_color),
        bind=lambda stages: bind_joint(stages, num_classes=dataset.num_classes, **weights),
        objective=separate if config.attack_on == "each" else config.objective,
        turns=("segmenter", "classifier") if config.updates == "alternating" else (),
    )
    train(training)
