"""The jobs that train a stage."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.job import DataView, Fold, ImageCounts, Job, JobState, Materials, Passes
from pipeline.ablation.passes import training_passes
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.runs.checkpoints import StageKind
from pipeline.training.config import TrainClassifierConfig, TrainerConfig, TrainJointConfig, TrainSegmenterConfig
from pipeline.training.result import RESULT, TrainingResult


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Job):
    """Train a stage."""

    result: ClassVar[str] = RESULT
    verb: ClassVar[str] = "train"

    seed: int
    fold: Fold | None = None
    """What it is trained without, of a cross-validation."""

    @property
    def data(self) -> DataView:
        return DataView(fold=self.fold)

    @property
    def _which(self) -> str:
        return f", seed {self.seed}{self.fold.title if self.fold else ''}"

    @property
    def _which_slug(self) -> str:
        return f"-seed{self.seed}{self.fold.slug if self.fold else ''}"

    def _settings(self, materials: Materials, run: Path, objective: str, trainer: TrainerConfig) -> dict[str, Any]:
        """What all trainings of an ablation share."""
        return {
            "prepared": materials.prepared,
            "run": run,
            "resume": True,
            "objective": materials.ablation.objective(objective),
            "augment": materials.ablation.augment,
            "trainer": dataclasses.replace(trainer, seed=self.seed),
        }

    def run(self, state: JobState) -> None:
        from pipeline.training import commands  # here, so that plans and reports do not wait for it

        getattr(commands, self.command.replace("-", "_"))(state.config)

    def finding(self, path: Path) -> str:
        """What it reaches on the splits that it is not trained on."""
        return training_line(path)


@dataclass(frozen=True, kw_only=True)
class SegmenterJob(TrainingJob):
    """Train a segmenter."""

    kind: ClassVar[str] = "segmenter"
    command: ClassVar[str] = "train-segmenter"

    objective: str

    @property
    def title(self) -> str:
        return f"segmenter, {self.objective}{self._which}"

    @property
    def slug(self) -> str:
        return f"{self.objective}{self._which_slug}"

    @property
    def alike(self) -> tuple[object, ...]:
        """Seeds take equally long."""
        return (self.objective,)

    def config(self, materials: Materials, run: Path) -> TrainSegmenterConfig:
        settings = self._settings(materials, run, self.objective, materials.ablation.segmenter_trainer)
        return TrainSegmenterConfig(**settings, segmenter=materials.ablation.segmenter)

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        epochs, seen = ablation.segmenter_trainer.epochs, counts._replace(train=counts.train + counts.for_segmenters)
        return training_passes(ablation.objective(self.objective), seen, epochs=epochs, behind_segmenter=False)


@dataclass(frozen=True, kw_only=True)
class ClassifierJob(TrainingJob):
    """Train a classifier behind a mask source."""

    kind: ClassVar[str] = "classifier"
    command: ClassVar[str] = "train-classifier"

    objective: str
    masks: MaskConfig
    segmenter: SegmenterJob | None
    """Of the masks in training."""

    @property
    def title(self) -> str:
        behind = f" ({self.segmenter.objective} segmenter)" if self.segmenter else ""
        return f"classifier, {self.objective}, masks {self.masks.source.value}{behind}{self._which}"

    @property
    def slug(self) -> str:
        behind = f"-{self.segmenter.objective}" if self.segmenter else ""
        return f"{self.objective}-{self.masks.source.value}{behind}{self._which_slug}"

    @property
    def stages(self) -> Mapping[StageKind, Job]:
        """The segmenter of the masks in training."""
        return {"segmenter": self.segmenter} if self.segmenter else {}

    @property
    def alike(self) -> tuple[object, ...]:
        """Seeds and masks take equally long, but for masks that a segmenter makes."""
        return (self.objective, self.segmenter is not None)

    def config(self, materials: Materials, run: Path) -> TrainClassifierConfig:
        ablation = materials.ablation
        return TrainClassifierConfig(
            **self._settings(materials, run, self.objective, ablation.classifier_trainer),
            classifier=ablation.classifier,
            masks=self.masks,
            segmenter_run=None if self.segmenter is None else materials.finished[self.segmenter].path,
            label_smoothing=ablation.label_smoothing,
        )

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        epochs, behind = ablation.classifier_trainer.epochs, self.segmenter is not None
        return training_passes(ablation.objective(self.objective), counts, epochs=epochs, behind_segmenter=behind)


@dataclass(frozen=True, kw_only=True)
class JointJob(TrainingJob):
    """Train a segmenter and a classifier on, together."""

    kind: ClassVar[str] = "joint"
    command: ClassVar[str] = "train-joint"

    masks: MaskConfig
    """Those of the source joint."""
    segmenter: SegmenterJob
    """What the segmenter is before."""
    classifier: ClassifierJob
    """What the classifier is before, trained for the same objective."""

    @property
    def objective(self) -> str:
        """Of the classifier, before and together."""
        return self.classifier.objective

    @property
    def title(self) -> str:
        before = f"{self.segmenter.objective} segmenter and classifier with masks {self.classifier.masks.source.value}"
        return f"both stages, {self.objective} (from {before}){self._which}"

    @property
    def slug(self) -> str:
        return f"{self.objective}-{self.segmenter.objective}-{self.classifier.masks.source.value}{self._which_slug}"

    @property
    def stages(self) -> Mapping[StageKind, Job]:
        """Both as they are before."""
        return {"segmenter": self.segmenter, "classifier": self.classifier}

    @property
    def alike(self) -> tuple[object, ...]:
        """Seeds and beginnings take equally long."""
        return (self.objective,)

    def config(self, materials: Materials, run: Path) -> TrainJointConfig:
        ablation, finished = materials.ablation, materials.finished
        return TrainJointConfig(
            **self._settings(materials, run, self.objective, ablation.joint_trainer),
            segmenter_run=finished[self.segmenter].path,
            classifier_run=finished[self.classifier].path,
            mask_weight=ablation.joint.mask_weight,
            attack_on=ablation.joint.attack_on,
            updates=ablation.joint.updates,
            label_smoothing=ablation.label_smoothing,
        )

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        """Of the whole training, all of it through both stages; at most, where each loss has its own attack."""
        epochs, attacks = ablation.joint_trainer.epochs, 2 if ablation.joint.attack_on == "each" else 1
        own = training_passes(ablation.objective(self.objective), counts, epochs=epochs, behind_segmenter=False)
        return Passes(forward=2 * attacks * own.forward, backward=2 * attacks * own.backward)


@dataclass(frozen=True, kw_only=True)
class SilhouetteJob(TrainingJob):
    """Train a classifier that sees the oracle mask in place of the image: what the outline alone gives away."""

    kind: ClassVar[str] = "silhouette"
    command: ClassVar[str] = ClassifierJob.command

    @property
    def title(self) -> str:
        return f"classifier of silhouettes{self._which}"

    @property
    def slug(self) -> str:
        return f"silhouettes{self._which_slug}"

    @property
    def data(self) -> DataView:
        """The data set of silhouettes."""
        return DataView(silhouettes=True, fold=self.fold)

    @property
    def _as_classifier(self) -> ClassifierJob:
        """On its data set, it is a classifier of images without masks."""
        masks = MaskConfig(source=MaskSource.NONE)
        return ClassifierJob(objective="natural", seed=self.seed, fold=self.fold, masks=masks, segmenter=None)

    def config(self, materials: Materials, run: Path) -> TrainClassifierConfig:
        return self._as_classifier.config(materials, run)

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        return self._as_classifier.passes(ablation, counts)


def training_line(path: Path) -> str:
    """``val accuracy 0.812, test accuracy 0.790, 12 s``"""
    result = TrainingResult.read(path / RESULT)
    tested = f", test {_score(result.test)}" if result.test else ""
    return f"val {_score(result.val)}{tested}, {result.seconds:.0f} s"


def _score(scores: Mapping[str, float]) -> str:
    """That of a segmenter is its IoU, that of a classifier, or of both together, the accuracy."""
    name = "accuracy" if "accuracy" in scores else "iou"
    return f"{name} {scores[name]:.3f}"
