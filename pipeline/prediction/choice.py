"""A trained system without the data that it was trained on: for images that nobody has labelled or outlined.

What reads an ablation is imported for one alone: with the packages of data and statistics it takes 90 MiB.
"""

import dataclasses
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from pipeline.ablation.config import MANIFEST as ABLATION
from pipeline.config import validate
from pipeline.errors import CheckpointError, ConfigError, RunError
from pipeline.evaluation.loading import needed_segmenter
from pipeline.evaluation.primary_comparison import Rank, primary_rank
from pipeline.masks.config import MaskChanges, MaskConfig
from pipeline.runs.checkpoints import Checkpoint, StageKind, load_classifier, load_segmenter, weights_digest
from pipeline.runs.directory import read_run
from pipeline.runs.exported import EXPORTED, check_whole, read_exported
from pipeline.runs.files import parse_json
from pipeline.runs.zoo import SCHEME, find
from pipeline.system import TwoStage

if TYPE_CHECKING:
    from pipeline.ablation.manifest import ArmEntry, Manifest


class ChosenSystem(NamedTuple):
    """Which stages make a system, and which masks."""

    name: str
    """For people."""
    classifier_run: Path
    segmenter_run: Path | None
    """None: the one that the classifier was trained with."""
    masks: MaskChanges
    """What is other than in the classifier's training."""
    evaluation: Path | None = None
    """Where this system was attacked, if that is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    classifier_run: Path
    segmenter_run: Path | None
    masks: MaskChanges


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
    classifier: str
    """SHA-256 of the weights, like that of the segmenter, which is None where no segmenter took part."""
    segmenter: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """What is read of an evaluation's ``run.json``."""

    config: _Settings
    inputs: _Inputs


def choose_system(run: Path, segmenter_run: Path | None, masks: MaskChanges, *, arm: str | None = None) -> ChosenSystem:
    """The system of an ablation, an evaluation, an export, ``zoo:NAME`` or a classifier's run, with what the user wants otherwise.

    Of an ablation it is the finished system with learned masks that the report's answer is about (``primary_rank``), of the
    adversarially trained ones if there is one, of the first seed; without learned masks one whose masks need no oracle. Of an
    evaluation it is the system that was attacked, by its weights: where they are not where they were, they are looked for in the
    store of the evaluation. Raises RunError for a directory that holds none of these, a damaged one, or no such system.
    """
    chosen = _found(find(str(run))[0] if str(run).startswith(SCHEME) else run, arm)
    both = {**chosen.masks, **masks}
    needs_none = "source" in both and not both["source"].needs_segmenter
    return chosen._replace(
        masks=both,
        segmenter_run=segmenter_run or (None if needs_none else chosen.segmenter_run),
        evaluation=None if masks or segmenter_run else chosen.evaluation,
    )


def _found(run: Path, arm: str | None) -> ChosenSystem:
    if (run / ABLATION).is_file():
        from pipeline.ablation.manifest import read_ablation

        manifest, _ = read_ablation(run)
        return _of_ablation(run, manifest) if arm is None else _of_arm(run, manifest, arm)
    if arm is not None:
        raise ConfigError(f"{run}: is no ablation, so it has no arm {arm!r}: leave arm out")
    if (run / EXPORTED).is_file():
        return _of_export(run)
    begun = read_run(run) if (run / "run.json").is_file() else None
    if begun is None or begun.command != "evaluate":
        return ChosenSystem(f"classifier of {run}", run, None, {})
    if (own := begun.config.get("system")) is not None and str(own).startswith(SCHEME):
        return _of_export(find(own)[0])._replace(evaluation=run)
    if own is not None:
        raise RunError(f"{run}: the system that was attacked is {own}, which no run holds: import it")
    remedy = "evaluate again, or name the run of a classifier"
    evaluation = parse_json(run / "run.json", vars(begun), _Evaluation, remedy=remedy)
    config, digests = evaluation.config, evaluation.inputs
    classifier, segmenter = _attacked(run, "classifier", config.classifier_run, digests.classifier), None
    if digests.segmenter is not None and config.segmenter_run is not None:  # else it is the one of the classifier's training
        segmenter = _attacked(run, "segmenter", config.segmenter_run, digests.segmenter)
    masks = config.masks
    if (exported := read_exported(classifier)) is not None:
        masks = {**vars(validate(MaskConfig, exported.masks)), **masks}
        segmenter = segmenter or (exported.segmenter if digests.segmenter is not None else None)
    return ChosenSystem(f"that of {run}", classifier, segmenter, masks, run)


def _of_export(path: Path) -> ChosenSystem:
    exported = read_exported(path)
    assert exported is not None
    name = exported.name.rpartition(", masks ")[0] or exported.name  # who names a system says its masks, and they may be others
    return ChosenSystem(name, path, exported.segmenter, vars(validate(MaskConfig, exported.masks)))


def _attacked(run: Path, kind: StageKind, recorded: Path, digest: str) -> Path:
    """The stage with these weights: where it was, or in the store that the evaluation lies in."""
    store = run.resolve().parent.parent
    for path in (recorded, *sorted((store / f"{kind}s").glob("*")), *sorted((store / "joints").glob("*"))):
        try:
            if weights_digest(path, kind) == digest:
                return path
        except CheckpointError:
            continue
    raise RunError(
        f"{run}: the {kind} that was attacked is neither {recorded} nor in the store of the evaluation; name a classifier's run"
    )


def _of_ablation(run: Path, manifest: "Manifest") -> ChosenSystem:
    usable = [arm for arm in manifest.arms if arm.role == "main" and not arm.test_masks.needs_data]
    if not usable:
        raise RunError(f"{run}: no arm is finished that can see images without an oracle; name the run of a classifier instead")
    objectives = list(dict.fromkeys(arm.classifier_objective for arm in usable))

    def rank(arm: "ArmEntry") -> tuple[bool, bool, int, Rank]:
        objective = arm.classifier_objective
        return not arm.test_masks.needs_segmenter, objective != "adversarial", objectives.index(objective), primary_rank(arm)

    chosen = system_of_arm(run, min(usable, key=rank))
    return chosen._replace(name=f"{chosen.name} (another one: run={chosen.evaluation} and its like)")


def _of_arm(run: Path, manifest: "Manifest", name: str) -> ChosenSystem:
    arms = {arm.name: arm for arm in manifest.arms}
    own = {one.name: one.system for one in manifest.systems}
    if name in own:
        raise RunError(f"{run}: the arm {name} is {own[name]}, which no run holds: import it")
    if name not in arms:
        near = get_close_matches(name, list(arms), n=3, cutoff=0.3) or list(arms)
        raise ConfigError(f"{run}: no arm {name!r} is finished: did you mean {' or '.join(map(repr, near))}?")
    return system_of_arm(run, arms[name])


def system_of_arm(run: Path, arm: "ArmEntry") -> ChosenSystem:
    """The system of a finished arm of the ablation in a directory."""
    segmenter = run / arm.segmenter if arm.segmenter and arm.test_masks.needs_segmenter else None
    return ChosenSystem(arm.name, run / arm.classifier, segmenter, vars(arm.masks), run / arm.evaluation)


def load_trained_system(chosen: ChosenSystem, *, device: torch.device, with_data: bool = False) -> tuple[TwoStage, Checkpoint]:
    """Join the best checkpoints of two runs; the checkpoint returned is the classifier's.

    ``with_data`` says that the images will come with a data set's masks. Raises ConfigError where the masks are made from an oracle
    and there is none, and where a segmenter is missing or not needed; CheckpointError for a run that cannot be used.
    """
    classifier_run, segmenter_run, masks = chosen.classifier_run, chosen.segmenter_run, chosen.masks
    classifier, checkpoint = load_classifier(classifier_run)
    check_whole(classifier_run, checkpoint)
    config = dataclasses.replace(validate(MaskConfig, checkpoint.config.get("masks", {})), **masks)
    if config.source.needs_data and not with_data:
        raise ConfigError(
            f"masks.source: {config.source.value} masks are made from the data set's own, and your images have none;"
            " say masks.source=learned segmenter_run=..., or masks.source=none"
        )
    path = needed_segmenter(config.source, segmenter_run, classifier_run, checkpoint)
    segmenter = None if path is None else load_segmenter(path)[0]
    system = TwoStage(classifier, masks=config, segmenter=segmenter, mean_color=checkpoint.mean_color)
    system.image_size = checkpoint.image_size
    return system.to(device=device).eval(), checkpoint
