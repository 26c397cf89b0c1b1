"""``foreguard train-segmenter`` and ``foreguard train-classifier``.

What only training needs is imported when it begins: it takes seconds, which neither ``--help`` nor a typo should cost.
"""

from pipeline.config import to_plain
from pipeline.training.config import TrainClassifierConfig, TrainSegmenterConfig


def train_segmenter(config: TrainSegmenterConfig) -> None:
    """Train a segmenter on a prepared data set. Raises ``UserError`` of the kind that fits."""
    from pipeline.data.dataset import open_prepared
    from pipeline.runs.stages import new_segmenter
    from pipeline.training.tasks import Training, bind_segmenter
    from pipeline.training.trainer import train

    dataset = open_prepared(config.prepared).for_segmenters()
    module = new_segmenter(config.segmenter, seed=config.trainer.seed, image_size=dataset.image_size)
    train(
        Training(
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
    from pipeline.training.tasks import Training, bind_classifier
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
        Training(
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
