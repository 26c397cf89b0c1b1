"""A trained system without the data that it was trained on: for images that nobody has labelled or outlined."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.checkpoints import Checkpoint, load_classifier, load_segmenter
from pipeline.config import validate
from pipeline.data.prepared import read_manifest
from pipeline.errors import ConfigError, DataError, RunError
from pipeline.evaluation.manifest import MANIFEST as ABLATION
from pipeline.evaluation.override import MaskOverride
from pipeline.evaluation.subject import trained_segmenter
from pipeline.masking import Fill, MaskConfig, MaskSource
from pipeline.system import TwoStage
from pipeline.training.run import read_json


class ChosenSystem(NamedTuple):
    """Which stages make a system, and which masks."""

    name: str
    """For people."""
    classifier_run: Path
    segmenter_run: Path | None
    """None: the one that the classifier was trained with."""
    masks: MaskOverride
    """What is other than in the classifier's training."""


def choose_system(run: Path, segmenter_run: Path | None, masks: MaskOverride) -> ChosenSystem:
    """The system of an ablation, an evaluation or a classifier's run, with what the user wants otherwise.

    Of an ablation it is the first finished main arm with learned masks, an adversarially trained one if there is one, else the
    first whose masks need no oracle. Raises RunError for a directory that holds none of these, or no such arm.
    """
    chosen = _found(run)
    wanted = {name: value for name, value in vars(masks).items() if value is not None}
    both = dataclasses.replace(chosen.masks, **wanted)
    needs_none = both.source is not None and not _uses_segmenter(both.source)
    return chosen._replace(masks=both, segmenter_run=segmenter_run or (None if needs_none else chosen.segmenter_run))


def _found(run: Path) -> ChosenSystem:
    if (run / ABLATION).is_file():
        return _of_ablation(run)
    about = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    if about.get("command") != "evaluate":
        return ChosenSystem(f"classifier of {run}", run, None, MaskOverride())
    config = about["config"]
    segmenter = config["segmenter_run"]
    masks = validate(MaskOverride, config["masks"])
    return ChosenSystem(f"that of {run}", Path(config["classifier_run"]), Path(segmenter) if segmenter else None, masks)


def _of_ablation(run: Path) -> ChosenSystem:
    arms = [arm for arm in read_json(run / ABLATION)["arms"] if arm["role"] == "main"]
    usable = [arm for arm in arms if not MaskSource(arm["test_masks"]).needs_oracle]
    if not usable:
        raise RunError(f"{run}: no arm is finished that can see images without an oracle; name the run of a classifier instead")

    def rank(arm: dict[str, Any]) -> tuple[bool, bool]:
        return arm["test_masks"] != MaskSource.LEARNED, arm["classifier_objective"] != "adversarial"

    arm = min(usable, key=rank)
    segmenter = run / arm["segmenter"] if arm["segmenter"] else None
    name = f"{arm['name']} (another one: run={run / arm['evaluation']} and its like)"
    return ChosenSystem(name, run / arm["classifier"], segmenter, validate(MaskOverride, arm["masks"]))


def load_trained_system(chosen: ChosenSystem, *, prepared: Path | None, device: torch.device) -> tuple[TwoStage, Checkpoint]:
    """Join the best checkpoints of two runs; the checkpoint returned is the classifier's.

    ``prepared`` is where the data set of training lies, for the fill ``mean``; None: where it lay. Raises ConfigError where the
    masks are made from an oracle, which such images do not have, and where a segmenter is missing or not needed; CheckpointError
    for a run that cannot be used; DataError where the mean colour cannot be found.
    """
    _, classifier_run, segmenter_run, masks = chosen
    classifier, checkpoint = load_classifier(classifier_run)
    config = masks.applied(validate(MaskConfig, checkpoint.config.get("masks", {})))
    if config.source.needs_oracle:
        raise ConfigError(
            f"masks.source: {config.source.value} masks are made from the data set's own, and your images have none;"
            " say masks.source=learned segmenter_run=..., or masks.source=none"
        )
    segmenter = None
    if _uses_segmenter(config.source):
        segmenter, _ = load_segmenter(segmenter_run or trained_segmenter(classifier_run, checkpoint, config.source))
    elif segmenter_run is not None:
        raise ConfigError(f"segmenter_run: masks.source={config.source.value} uses no segmenter: leave segmenter_run out")
    mean = _mean_colour(checkpoint, prepared) if config.fill is Fill.MEAN else None
    system = TwoStage(classifier, masking=config, segmenter=segmenter, mean_colour=mean)
    return system.to(device=device).eval(), checkpoint


def _uses_segmenter(source: MaskSource) -> bool:
    return source.is_learned or source is MaskSource.FROZEN


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
