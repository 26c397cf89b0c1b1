"""The system that is evaluated, from the runs that trained its stages."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from classifier.model import Classifier
from pipeline.config import to_plain, validate
from pipeline.data.dataset import PreparedDataset
from pipeline.errors import CheckpointError, ConfigError
from pipeline.masks.config import MaskChanges, MaskConfig, MaskSource
from pipeline.runs.checkpoints import Checkpoint, checkpoint_path, find_segmenter, load_classifier, load_segmenter
from pipeline.runs.exported import check_whole, read_exported
from pipeline.runs.files import canonical_sha256
from pipeline.runs.stages import check_size
from pipeline.system import System, TwoStage
from segmenter.model import Segmenter


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedSystem:
    """A system ready to be attacked, and what it is made of."""

    system: System
    """In eval mode, float32, on its device; channels-last where it is made of trained stages."""
    system_id: str
    """The same for the same weights and mask settings, wherever they lie."""
    masks: MaskConfig | None
    """Its masks; None for a system of the user's own, which has or makes its masks itself."""
    trained_masks: MaskConfig | None
    """What the classifier was trained with; None likewise."""
    inputs: dict[str, str]
    """Digests of the weights, by stage, and of an exported system's masks, which no configuration says; or of the state of a system
    of the user's own."""
    dataset: PreparedDataset
    """The data, labelled with the classifier's classes."""


def load_from_runs(
    *,
    classifier_run: Path,
    segmenter_run: Path | None,
    masks: MaskChanges,
    dataset: PreparedDataset,
    allow_other_data: bool,
    device: torch.device,
    class_map: Mapping[str, str] | None = None,
) -> LoadedSystem:
    """Join the best checkpoints of two runs. Without ``segmenter_run`` it is the segmenter that the classifier was trained with.
    Where ``classifier_run`` is a directory of ``foreguard export``, it is the system that was exported.

    With ``allow_other_data`` the classes of the data are matched by name, or by ``class_map``. The fill ``mean`` is that of the
    data that the classifier was trained on.

    Raises CheckpointError: a run without a usable checkpoint, other classes than the data set's, other data than the stage
    was trained on (unless ``allow_other_data``), a segmenter that is not the one of training any more. Raises ConfigError where
    the mask source needs a segmenter and none is named, or one is named and not needed.
    """
    if class_map and not allow_other_data:
        raise ConfigError("class_map: is for other data than those of training: say allow_other_data=true")
    if (exported := read_exported(classifier_run)) is not None:
        masks = {**vars(validate(MaskConfig, exported.masks)), **masks}
        segmenter_run = segmenter_run or (exported.segmenter if masks["source"].needs_segmenter else None)
    classifier, checkpoint = load_classifier(classifier_run, classes=None if allow_other_data else dataset.classes)
    check_whole(classifier_run, checkpoint)
    _check_stage(classifier_run, classifier, checkpoint, dataset, allow_other_data)
    trained = validate(MaskConfig, checkpoint.config.get("masks", {}))
    config = dataclasses.replace(trained, **masks)
    inputs = {"classifier": checkpoint.sha256}
    segmenter: Segmenter | None = None
    if (path := needed_segmenter(config.source, segmenter_run, classifier_run, checkpoint)) is not None:
        segmenter, described = load_segmenter(path)
        _check_stage(path, segmenter, described, dataset, allow_other_data)
        inputs["segmenter"] = described.sha256
    system = TwoStage(classifier, masks=config, segmenter=segmenter, mean_color=checkpoint.mean_color)
    of_export = {} if exported is None else {"mask configuration": canonical_sha256(to_plain(config))}
    return LoadedSystem(
        system=system.to(device=device, memory_format=torch.channels_last).eval(),  # type: ignore[call-overload]
        system_id=canonical_sha256({"weights": inputs, "masks": to_plain(config)})[:16],
        masks=config,
        trained_masks=trained,
        inputs=inputs | of_export,
        dataset=dataset.relabelled(checkpoint.classes, class_map or {}) if allow_other_data else dataset,
    )


def _check_stage(
    path: Path, stage: Classifier | Segmenter, checkpoint: Checkpoint, dataset: PreparedDataset, allow_other_data: bool
) -> None:
    """It was trained on the data, unless other data may be meant, and takes images of their size."""
    where = checkpoint_path(path, checkpoint.kind)
    if checkpoint.data_fingerprint != dataset.fingerprint and not allow_other_data:
        raise CheckpointError(
            f"{where}: trained on other data than {dataset.path} (fingerprints"
            f" {checkpoint.data_fingerprint[:12]} and {dataset.fingerprint[:12]}), whose test images it may have seen; if that is"
            " meant, say allow_other_data=true"
        )
    if checkpoint.image_size != dataset.image_size:
        try:
            check_size(stage, dataset.image_size)
        except ValueError as error:
            raise CheckpointError(f"{where}: the {checkpoint.kind} {error}") from error


def needed_segmenter(source: MaskSource, named: Path | None, classifier_run: Path, checkpoint: Checkpoint) -> Path | None:
    """The run of the segmenter that makes masks of that source: the one that is named, else that of training; None where the source
    needs none. Raises ConfigError where one is named and not needed, and what ``trained_segmenter`` raises."""
    if source.needs_segmenter:
        return named or trained_segmenter(classifier_run, checkpoint, source)
    if named is not None:
        raise ConfigError(f"segmenter_run: masks.source={source.value} uses no segmenter: leave segmenter_run out")
    return None


def trained_segmenter(classifier_run: Path, checkpoint: Checkpoint, source: MaskSource) -> Path:
    """The run of the segmenter that the classifier was trained with, as long as it is still the same.

    Raises ConfigError where it was trained without, CheckpointError where the run is gone or holds another segmenter now.
    """
    if checkpoint.segmenter is None:
        raise ConfigError(
            f"segmenter_run: masks.source={source.value} needs a segmenter, and the classifier was trained without:"
            " say segmenter_run=..."
        )
    return find_segmenter(classifier_run, checkpoint.segmenter)
