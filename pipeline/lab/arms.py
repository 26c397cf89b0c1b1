"""The systems of a run that can be set side by side, finished or not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.ablation.config import MANIFEST
from pipeline.ablation.manifest import ArmEntry, read_ablation
from pipeline.config import validate
from pipeline.errors import CheckpointError, ConfigError, RunError
from pipeline.evaluation.loading import trained_segmenter
from pipeline.evaluation.primary_comparison import primary_rank
from pipeline.lab.config import MOST_ARMS
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.prediction.choice import ChosenSystem, choose_system, system_of_arm
from pipeline.runs.checkpoints import Checkpoint, checkpoint_path, read_checkpoint
from pipeline.runs.directory import RUN, read_run
from pipeline.runs.exported import EXPORTED
from pipeline.training.result import RESULT

AGAIN = "look again in a while"


class NotYetError(RunError):
    """There is nothing to attack so far, and there will be."""


_TITLES = {
    MaskSource.NONE: "No mask",
    MaskSource.ORACLE: "Oracle mask",
    MaskSource.LEARNED: "Learned mask",
    MaskSource.LEARNED_HARD: "Learned mask, hard",
    MaskSource.JOINT: "Joint system",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One system."""

    name: str
    """Told apart by it."""
    source: MaskSource
    """Where its masks come from under attack."""
    detail: str
    """How it was trained, in a few words."""
    chosen: ChosenSystem

    @property
    def title(self) -> str:
        """What its mask is, for people."""
        return _TITLES.get(self.source, f"Mask {self.source.value}")


@dataclass(frozen=True, kw_only=True)
class RunArms:
    """What a run has."""

    arms: tuple[Arm, ...]
    shown: tuple[str, ...]
    """Names of those to begin with."""
    notices: tuple[str, ...] = ()


def arms_of_run(run: Path, segmenter_run: Path | None) -> RunArms:
    """The systems of an ablation that are finished, or the stages of another run behind every mask that they allow.

    Masks of other images, and random ones, are left out: they are controls and no systems. Raises RunError, CheckpointError and
    ConfigError where there is none, in a sentence that also says when there will be.
    """
    if (run / MANIFEST).is_file():
        if segmenter_run is not None:
            raise ConfigError("segmenter_run: an ablation has segmenters of its own: leave it out")
        return _of_ablation(run)
    begun = read_run(run) if (run / RUN).is_file() else None
    if begun is not None and begun.command == "ablate":
        raise NotYetError(f"{run}: is being written, and no system of it is finished yet; {AGAIN}")
    trains = begun is not None and begun.command.startswith("train-")
    if begun is not None and begun.command == "train-segmenter":
        raise RunError(f"{run}: is a segmenter, which names no class: name the run of a classifier or an ablation")
    if trains and not checkpoint_path(run, "classifier").is_file():
        raise NotYetError(f"{run}: is being trained, and has no checkpoint yet; {AGAIN}")
    if segmenter_run is not None:
        read_checkpoint(segmenter_run, "segmenter")
    found = _of_stages(choose_system(run, segmenter_run, {}))
    unfinished = trains and not (run / RESULT).is_file()
    notice = (f"This training is not finished: its best checkpoint so far is attacked. {AGAIN.capitalize()} for a later one.",)
    return replace(found, notices=found.notices + (notice if unfinished else ()))


def _of_ablation(run: Path) -> RunArms:
    manifest, _ = read_ablation(run)
    entries = [arm for arm in manifest.arms if arm.role == "main" and _is_system(arm.test_masks)]
    if not entries:
        raise NotYetError(f"{run}: no system of it that can be watched is finished yet; {AGAIN}")
    arms = tuple(_arm(run, entry, entries) for entry in entries)
    notice = f"This ablation is not finished: {len(arms)} of its systems are, and can be attacked. {AGAIN.capitalize()} for more."
    return RunArms(arms=arms, shown=_side_by_side(entries), notices=() if manifest.finished else (notice,))


def _is_system(source: MaskSource) -> bool:
    return source in _TITLES or (source.needs == "oracle" and not source.uses_seeds)


def _arm(run: Path, entry: ArmEntry, entries: Sequence[ArmEntry]) -> Arm:
    """An arm; of how it was trained it says what sets it apart."""
    chosen, parts = system_of_arm(run, entry), [f"{entry.classifier_objective} classifier"]
    if chosen.segmenter_run is not None and entry.segmenter_objective:
        parts.append(f"{entry.segmenter_objective} segmenter")
    alike = [one for one in entries if (one.test_masks, one.classifier_objective) == (entry.test_masks, entry.classifier_objective)]
    if len({one.train_masks for one in alike}) > 1:
        parts.append(f"trained with {entry.train_masks.value} masks")
    if len({one.seed for one in entries}) > 1:
        parts.append(f"seed {entry.seed}")
    return Arm(name=entry.name, source=entry.test_masks, detail=", ".join(parts), chosen=chosen)


def _side_by_side(entries: list[ArmEntry]) -> tuple[str, ...]:
    """No mask, the oracle's, the primary learned one and the joint system: of the adversarially trained classifiers, first seed."""
    objectives = {entry.classifier_objective for entry in entries}
    objective = "adversarial" if "adversarial" in objectives else entries[0].classifier_objective
    alike = [entry for entry in entries if entry.classifier_objective == objective]
    first = [entry for entry in alike if entry.seed == min(one.seed for one in alike)]
    wanted = [
        [entry for entry in first if entry.test_masks == MaskSource.NONE],
        [entry for entry in first if entry.test_masks == MaskSource.ORACLE],
        sorted((entry for entry in first if entry.test_masks in (MaskSource.LEARNED, MaskSource.LEARNED_HARD)), key=primary_rank),
        [entry for entry in first if entry.test_masks == MaskSource.JOINT],
    ]
    shown = [some[0].name for some in wanted if some]
    return tuple(shown or [entry.name for entry in first])[:MOST_ARMS]


def _of_stages(chosen: ChosenSystem) -> RunArms:
    """The stages of one run behind each mask: none, the oracle's, the learned one, and that of its training or attack."""
    checkpoint = read_checkpoint(chosen.classifier_run, "classifier")
    own = validate(MaskConfig, {**checkpoint.config.get("masks", {}), **chosen.masks}).source
    segmenter = _segmenter(chosen, checkpoint, own)
    learned = [own] if own.is_learned else [MaskSource.LEARNED]
    sources = [MaskSource.NONE, MaskSource.ORACLE, *(learned if segmenter is not None else ())]
    if own not in sources and _is_system(own) and not own.needs_segmenter:
        sources.append(own)
    arms = []
    for source in sources:
        behind = segmenter if source.needs_segmenter else None
        masks = {**chosen.masks, "source": source}
        detail = "as it was trained" if source == own else "the same classifier"
        system = ChosenSystem(chosen.name, chosen.classifier_run, behind, masks)
        arms.append(Arm(name=source.value, source=source, detail=detail, chosen=system))
    notices = () if segmenter is not None else (NO_SEGMENTER,)
    return RunArms(arms=tuple(arms), shown=tuple(arm.name for arm in arms)[:MOST_ARMS], notices=notices)


NO_SEGMENTER = "This run has no segmenter, so there is no learned mask to attack: name an ablation, or start with segmenter_run=..."


def _segmenter(chosen: ChosenSystem, checkpoint: Checkpoint, source: MaskSource) -> Path | None:
    """The segmenter that the classifier is used with, where there is one."""
    if chosen.segmenter_run is not None:
        return chosen.segmenter_run
    if (chosen.classifier_run / EXPORTED).is_file() or checkpoint.segmenter is None:
        return None
    try:
        return trained_segmenter(chosen.classifier_run, checkpoint, source)
    except CheckpointError:
        return None
