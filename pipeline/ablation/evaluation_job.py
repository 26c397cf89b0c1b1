"""Jobs that attack a system: an arm of the grid, or the same under one attack of the decomposition."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from pipeline.ablation.config import AblateConfig, DecompositionConfig
from pipeline.ablation.job import DataView, Fold, ImageCounts, Job, JobState, Materials, Passes
from pipeline.ablation.passes import attack_passes
from pipeline.ablation.selection import TransferConfig
from pipeline.ablation.training_jobs import ClassifierJob, JointJob, SegmenterJob
from pipeline.attacks.specs import ClassAttack, ClassLoss, GradientPath
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import Region
from pipeline.evaluation.config import EvaluateConfig, EvaluationBasics
from pipeline.evaluation.evaluate import evaluate, order_of_attacks
from pipeline.evaluation.summary import SUMMARY, Summary, epsilon_text, is_checked
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.masks.traits import MaskTraits
from pipeline.runs.checkpoints import StageKind

_ALONG = {GradientPath.BOTH: "both paths", GradientPath.PIXELS: "the pixel path only", GradientPath.MASK: "the mask path only"}
Role = Literal["main", "degradation", "diagnostic"]


@dataclass(frozen=True, kw_only=True)
class AttackJob(Job):
    """Attack a system, whoever made it."""

    kind: ClassVar[str] = "evaluation"
    command: ClassVar[str] = "evaluate"
    result: ClassVar[str] = SUMMARY
    verb: ClassVar[str] = "attack"
    divisible: ClassVar[bool] = True

    def is_finished(self, path: Path, config: EvaluateConfig) -> bool:
        """Records are there, and what is asked for was checked for false robustness."""
        images, epsilon = config.sanity_images, config.sanity_epsilon
        return super().is_finished(path, config) and (not config.sanity or is_checked(path, images=images, epsilon=epsilon))

    def run(self, state: JobState) -> None:
        evaluate(state.config)

    def finding(self, path: Path) -> str:
        return evaluation_line(path)


def common_settings(materials: Materials, run: Path) -> dict[str, Any]:
    """What the evaluations of an ablation share, whatever system they attack."""
    settings = materials.ablation.evaluation
    return {
        **{field.name: getattr(settings, field.name) for field in dataclasses.fields(EvaluationBasics)},
        "prepared": materials.prepared,
        "run": run,
        "resume": True,
        "sanity_images": 1 if settings.sanity is None else settings.sanity.images,
        "sanity_epsilon": materials.ablation.primary_epsilon,
        "shared": materials.ablation.shared,
    }


@dataclass(frozen=True, kw_only=True)
class EvaluationJob(AttackJob):
    """Attack a system of the grid."""

    classifier: ClassifierJob | JointJob
    masks: MaskConfig
    segmenter: SegmenterJob | None
    """Of the masks in testing; what it was before, where both stages were trained together."""
    role: Role = field(compare=False)
    diagnosis: GradientPath | None = None
    """The gradient that the one attack of the decomposition follows; None: the whole suite."""
    region: Region = Region.EVERYWHERE
    """Where the attacker may change the image, other than the threat model says."""
    equal_l2: bool = False
    """The attacker has, in place of the largest changes of the threat model, L2 lengths: see ``equal_l2``."""
    transfers: bool = False
    """One attack, run to its end: its images are shown to other arms."""

    @property
    def masked_by(self) -> SegmenterJob | JointJob | None:
        """The training of the segmenter that makes the masks in testing."""
        return self.classifier if self.segmenter and isinstance(self.classifier, JointJob) else self.segmenter

    @property
    def seed(self) -> int:
        """Of training and attack."""
        return self.classifier.seed

    @property
    def fold(self) -> Fold | None:
        """Of a cross-validation: the images that are attacked."""
        return self.classifier.fold

    @property
    def data(self) -> DataView:
        return DataView(fold=self.fold)

    @property
    def name(self) -> str:
        """The arm's, which all folds share."""
        how = f", one attack along {_ALONG[self.diagnosis]}" if self.diagnosis else ""
        how += f", attacker confined to the {self.region}" if self.is_confined else ""
        how += " at equal L2" if self.equal_l2 else ""
        how += ", one attack to show its images to others" if self.transfers else ""
        return f"{self.classifier.objective} classifier, masks {self._masks(' to ')}, seed {self.seed}{how}"

    @property
    def is_confined(self) -> bool:
        """The attacker may change a part of the image only."""
        return self.region != Region.EVERYWHERE

    @property
    def example(self) -> "EvaluationJob":
        """What tells what an arm is: as long as no folds are pooled, itself."""
        return self

    @property
    def title(self) -> str:
        return f"{self.name}{self.fold.title if self.fold else ''}"

    @property
    def slug(self) -> str:
        how = (f"-along-{self.diagnosis}" if self.diagnosis else "") + (f"-on-{self.region}" if self.is_confined else "")
        how += "-l2" * self.equal_l2 + "-shown" * self.transfers
        fold = self.fold.slug if self.fold else ""
        return f"{self.classifier.objective}-{self._masks('-')}-seed{self.seed}{how}{fold}".replace(" ", "-")

    @property
    def stages(self) -> Mapping[StageKind, Job]:
        """Both, as far as there are two."""
        masked_by: dict[StageKind, Job] = {"segmenter": self.masked_by} if self.masked_by else {}
        return {**masked_by, "classifier": self.classifier}

    @property
    def alike(self) -> tuple[object, ...]:
        """Robust systems take longer than others, those with learned masks have two stages, and main arms are looked at closer."""
        attack = (self.diagnosis and self.diagnosis.value, self.region.value, self.equal_l2, self.transfers)
        return (self.classifier.objective, self.masks.source.is_learned, self.role, *attack)

    def suite(self, ablation: AblateConfig, foreground: float = 1.0) -> AttackSuite:
        """What the system is attacked with. ``foreground`` is the mean share of the image that L2 lengths are reckoned with."""
        if self.transfers:
            assert ablation.transfer is not None
            return one_attack(ablation, GradientPath.BOTH, ablation.transfer)
        if self.diagnosis is not None:
            assert ablation.decomposition is not None
            return one_attack(ablation, self.diagnosis, ablation.decomposition)
        if not self.is_confined:
            return ablation.attack
        threat = dataclasses.replace(ablation.attack.threat, region=self.region)
        if self.equal_l2:
            lengths = equal_l2(threat.epsilons, side=ablation.data.image_size, foreground=foreground)
            threat = dataclasses.replace(threat, norm="l2", epsilons=lengths)
        return dataclasses.replace(ablation.attack, threat=threat, measurements={})

    def config(self, materials: Materials, run: Path) -> EvaluateConfig:
        ablation, finished = materials.ablation, materials.finished
        sanity = ablation.evaluation.sanity
        main = self.role == "main"
        strongest = self.transfers or self.diagnosis == GradientPath.BOTH  # run to its end: its images are scored again
        checked = (
            sanity is not None
            and self.masks.source in sanity.sources
            and self.classifier.objective in (sanity.objectives or ablation.classifier_labels)
        )
        settings = common_settings(materials, run) | ({} if main else {"gallery_images": 0})
        settings |= {"sanity_epsilon": None} if self.equal_l2 else {}
        foreground = mean_foreground(materials.prepared, materials.data_fingerprint) if self.equal_l2 else 1.0
        return EvaluateConfig(
            **settings,
            classifier_run=finished[self.classifier].path,
            segmenter_run=None if self.masked_by is None else finished[self.masked_by].path,
            masks=vars(self.masks),
            attack=self.suite(ablation, foreground),
            seed=self.seed,
            attack_all=strongest,
            save_images=ablation.evaluation.save_images and (strongest or (main and self.masks.source.is_learned)),
            sanity=main and checked,
        )

    def inputs(self, materials: Materials) -> dict[str, str]:
        return super().inputs(materials) | order_of_attacks(self.suite(materials.ablation))

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        """Of the whole suite, if nothing falls."""
        stages = 2 if self.masks.source.is_learned else 1
        return attack_passes(ablation, self.suite(ablation), MaskTraits.of(self.masks), counts, stages=stages)

    def _masks(self, to: str) -> str:
        source = self.masks.source
        pixels = {MaskSource.SHIFTED: self.masks.shift, MaskSource.ERODED: self.masks.radius, MaskSource.DILATED: self.masks.radius}
        size = f" {pixels[source]} px" if source in pixels else ""
        behind = f" {self.segmenter.objective} segmenter" if self.segmenter else ""
        trained = f" {self.classifier.segmenter.objective} segmenter" if self.classifier.segmenter and not self.segmenter else ""
        return f"{self.classifier.masks.source.value}{trained}{to}{source.value}{size}{behind}"


def one_attack(ablation: AblateConfig, path: GradientPath, settings: DecompositionConfig | TransferConfig) -> AttackSuite:
    """The threat model of the experiment with one attack: the same for every path but for its gradient."""
    attack = ClassAttack(loss=ClassLoss.MARGIN, path=path, num_steps=settings.num_steps, restarts=settings.restarts)
    return AttackSuite(threat=ablation.attack.threat, attacks={f"along-{path.value}": attack})


def equal_l2(epsilons: Sequence[float], *, side: int, foreground: float) -> tuple[float, ...]:
    """For each L-infinity epsilon, the L2 length of a perturbation that changes every value of a foreground of that share by it.

    The same for every image, however large its object: to four digits, which is what a table shows.
    """
    return tuple(float(f"{epsilon * math.sqrt(3 * side**2 * foreground):.4g}") for epsilon in epsilons)


@cache
def mean_foreground(prepared: Path, fingerprint: str) -> float:
    """The mean foreground share over all images of a prepared data set that have a split: the same in every fold."""
    del fingerprint  # of the data set, which may be made anew in its place
    samples = pl.read_parquet(prepared / "samples.parquet", columns=["split", "foreground_share"])
    return float(samples.filter(pl.col("split").is_in(["train", "val", "test"]))["foreground_share"].to_numpy().mean())


def evaluation_line(path: Path) -> str:
    """``clean 91.0 %, robust 44.0 % at 4/255, 12.0 % at 8/255``"""
    result = Summary.read(path / SUMMARY)
    robust = [f"{point.robust_accuracy.number()} % at {epsilon_text(point.epsilon)}" for point in result.curve]
    return f"clean {result.clean_accuracy.number()} %, robust {', '.join(robust)}"
