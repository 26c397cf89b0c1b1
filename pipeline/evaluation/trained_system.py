"""A trained system without the data that it was trained on: for images that nobody has labelled or outlined."""

from pathlib import Path

import torch

from pipeline.checkpoints import Checkpoint, load_classifier, load_segmenter
from pipeline.config import validate
from pipeline.data.prepared import read_manifest
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.override import MaskOverride
from pipeline.evaluation.subject import trained_segmenter
from pipeline.masking import Fill, MaskConfig, MaskSource
from pipeline.system import TwoStage


def load_trained_system(
    classifier_run: Path, segmenter_run: Path | None, masks: MaskOverride, *, prepared: Path | None, device: torch.device
) -> tuple[TwoStage, Checkpoint]:
    """Join the best checkpoints of two runs; the checkpoint returned is the classifier's.

    Without ``segmenter_run`` it is the segmenter that the classifier was trained with. ``prepared`` is where the data set of
    training lies, for the fill ``mean``; None: where it lay. Raises ConfigError where the masks are made from an oracle, which
    such images do not have, and where a segmenter is missing or not needed; CheckpointError for a run that cannot be used;
    DataError where the mean colour cannot be found.
    """
    classifier, checkpoint = load_classifier(classifier_run)
    config = masks.applied(validate(MaskConfig, checkpoint.config.get("masks", {})))
    if config.source.needs_oracle:
        raise ConfigError(
            f"masks.source: {config.source.value} masks are made from the data set's own, and your images have none;"
            " say masks.source=learned segmenter_run=..., or masks.source=none"
        )
    segmenter = None
    if config.source.is_learned or config.source is MaskSource.FROZEN:
        segmenter, _ = load_segmenter(segmenter_run or trained_segmenter(classifier_run, checkpoint, config.source))
    elif segmenter_run is not None:
        raise ConfigError(f"segmenter_run: masks.source={config.source.value} uses no segmenter: leave segmenter_run out")
    mean = _mean_colour(checkpoint, prepared) if config.fill is Fill.MEAN else None
    system = TwoStage(classifier, masking=config, segmenter=segmenter, mean_colour=mean)
    return system.to(device=device).eval(), checkpoint


def _mean_colour(checkpoint: Checkpoint, prepared: Path | None) -> tuple[float, float, float]:
    path = prepared or Path(checkpoint.config["prepared"])
    try:
        manifest = read_manifest(path)
    except DataError as error:
        raise DataError(f"prepared: the fill mean needs the data set of training: {error}") from error
    if manifest["fingerprint"] != checkpoint.data_fingerprint:
        raise DataError(f"prepared: {path} is not the data set that the classifier was trained on (its fingerprint differs)")
    red, green, blue = manifest["mean"]
    return red, green, blue
