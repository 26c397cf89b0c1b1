"""What an ablation is made of. ``configs/experiment/`` holds ready ones."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from classifier.config import ClassifierConfig
from pipeline.ablation import recipes
from pipeline.ablation.recipes import Labels, Recipe
from pipeline.ablation.selection import EvaluationSettings, SurfaceConfig, TransferConfig
from pipeline.attacks.suite import AttackSuite
from pipeline.config import AnyPath, Changes, Count, Number, Seed, Whole, Workers, configuration
from pipeline.data.config import AnySource, AugmentConfig
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.training.config import ObjectiveConfig, TrainerConfig, check_attack_on, check_for_segmenters, check_smoothing
from pipeline.training.objectives import AdversarialConfig, TradesConfig
from segmenter.config import SegmenterConfig

MANIFEST = "ablation.json"
"""What an ablation says of itself, in its run."""
GAIN_NEEDS = (MaskSource.NONE, MaskSource.ORACLE, MaskSource.FOREIGN_SAME, MaskSource.RANDOM_ALIKE)
"""Pairs of masks, alike in training and in testing, that the split of the gain is made of."""
Degraded = Literal["eroded", "dilated", "shifted"]
SharedMasks = Annotated[Mapping[str, Any], Changes(MaskConfig, without=frozenset({"source"}), of_defaults=True)]


@configuration
class MaskPair:
    """Which masks a classifier is trained with, and which ones it is tested with."""

    train: MaskSource
    """Mask source in training."""
    test: MaskSource
    """Mask source in testing. A pair of two learned sources uses one segmenter for both."""
    segmenters: Labels | None = None
    """Objectives of the segmenters that make the masks, out of segmenter_objectives; null: all of these, one arm each."""
    objectives: Labels | None = None
    """Objectives of the classifiers, out of classifier_objectives; null: all of these, one arm each."""

    def __post_init__(self) -> None:
        of_others = self.test == MaskSource.JOINT and self.train != MaskSource.JOINT
        if of_others or (self.train == MaskSource.JOINT and self.test == MaskSource.LEARNED):
            raise ValueError("joint masks are those of stages that were trained together: say {train: joint, test: joint}")


@configuration
class JointSettings:
    """How both stages are trained together, for arms that are trained with joint masks."""

    classifier: Literal["oracle", "learned"] = "learned"
    """The classifier that it continues from, by its masks in training; its objective and the segmenter are the arm's."""
    mask_weight: Annotated[Number, Field(ge=0, le=1e6)] = 1.0
    """Weight of the mask loss (BCE + Dice) beside the classification loss, 0 or more."""
    attack_on: Literal["sum", "each"] = "sum"
    """What attacks in training climb: both losses together, or each by itself at twice the cost."""
    updates: Literal["together", "alternating"] = "together"
    """Which stage a step updates: both, or the segmenter and the classifier in turn."""


@configuration
class DegradationConfig:
    """How good must the mask be: classifiers trained on the oracle, tested with oracles that were made worse on purpose."""

    kinds: Annotated[tuple[Degraded, ...], Field(min_length=1)] = ("eroded", "dilated", "shifted")
    """In which ways: eroded, dilated, shifted (to the right)."""
    pixels: Annotated[tuple[Annotated[Whole, Field(ge=1, le=1024)], ...], Field(min_length=1)] = (1, 2, 4)
    """By how many pixels, each at least 1."""
    objectives: Labels = ("adversarial",)
    """Classifiers that are tested, by objective."""


@configuration
class DecompositionConfig:
    """Where did the robustness go: from the oracle to learned masks, through the mask or through the pixels."""

    objectives: Labels | None = None
    """Of the classifiers whose arms are decomposed, out of classifier_objectives; null: all of these."""
    num_steps: Count = 50
    """Gradient steps of the three attacks (Auto-PGD on the margin, alike but for the paths of their gradient), at least 1."""
    restarts: Annotated[Whole, Field(ge=1, le=1000)] = 1
    """Random starts of these attacks, at least 1."""


@configuration
class OwnSystem:
    """A system of the user's own, attacked and compared beside the arms that are trained here."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$", max_length=60)]
    """What the plan, the tables and the report call it."""
    system: str
    """my_package.module:build, a function or class that needs no argument and returns a torch.nn.Module from images (B,3,H,W) in
    [0,1], not normalized, to logits (B,K), whose class k is class k of the data set. It may lie in the working directory."""


@configuration
class AblateConfig:
    """Train, attack and compare systems over a grid of objectives, masks and seeds."""

    experiment: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
    """Name of the experiment, for directories and the report; experiment=NAME on the command line reads
    configs/experiment/NAME.yaml."""
    run: AnyPath
    """Directory of this ablation: what it consists of, its decomposition, its report."""
    resume: bool = True
    """Continue the ablation in that directory; false: refuse a directory that holds one."""
    shared: bool = False
    """Share the ablation with other processes: give this same command as often as you like, on all machines that see its directory.
    Each takes jobs that nobody has, and at last parts of evaluations that others are at; one reports."""
    devices: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """So many processes of this machine share the ablation: each on a GPU of its own, or on its share of the cores."""
    store: AnyPath | None = None
    """Directory of trained stages and evaluations, found again by what they were made from: experiments that share it share
    them. null: store/ in the directory of the ablation."""
    dry_run: bool = False
    """Only say what would be done."""
    data: AnySource
    """Where images, masks and labels come from."""
    prepared: AnyPath
    """Directory of the prepared data set; it is made where there is none."""
    workers: Workers | None = None
    """Processes that prepare the data; null: one per usable core, 0: none but this one."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Every arm is trained and attacked once for each seed."""
    folds: Annotated[Whole, Field(ge=2, le=1000)] | None = None
    """Cross-validation: photographs or tracks are dealt into so many folds. Every arm is trained once for each fold, on the others,
    and attacked on it, and its estimates pool the folds. null: the splits of the prepared data set."""
    only_folds: Annotated[tuple[Annotated[Whole, Field(ge=0, le=1000)], ...], Field(min_length=1)] | None = None
    """Of these folds alone, counted from 0; null: of all."""
    segmenter: SegmenterConfig = dataclasses.field(default_factory=SegmenterConfig)
    """What the segmenter is made of."""
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    """What the classifier is made of."""
    segmenter_objectives: Annotated[tuple[Recipe, ...], Field(min_length=1)] = ("natural",)
    """How segmenters are trained: names of files in configs/objective, or mappings such as {name: awp, gamma: 0.01, label: awp-1}
    with the keys that are other than there. Where an entry has none, attack, epsilon and validation are those of adversarial."""
    classifier_objectives: Annotated[tuple[Recipe, ...], Field(min_length=1)] = ("natural", "adversarial")
    """How classifiers are trained, likewise. Tables and other keys call an entry by its label, else by its name."""
    adversarial: AdversarialConfig = dataclasses.field(default_factory=AdversarialConfig)
    """Adversarial training, of either stage, and what the attack is in that of all other robust objectives but trades."""
    trades: TradesConfig = dataclasses.field(default_factory=TradesConfig)
    """TRADES, for either stage."""
    masks: Annotated[tuple[MaskPair, ...], Field(min_length=1)]
    """Masks in training and in testing, one arm for each pair (and segmenter): [{train: oracle, test: learned}]."""
    systems: tuple[OwnSystem, ...] = ()
    """Systems of your own as extra arms, under every seed: [{name: our-model, system: my_package.module:build}]."""
    masking: SharedMasks = dataclasses.field(default_factory=dict)
    """What all masks share, whatever their source."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the classifiers' target that is spread over all classes, 0 to 1."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    """How training images of both stages are varied."""
    segmenter_trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """The training loop of segmenters. Its seed is the arm's."""
    classifier_trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """The training loop of classifiers. Its seed is the arm's."""
    joint: JointSettings = dataclasses.field(default_factory=JointSettings)
    """How both stages are trained together, for pairs {train: joint, test: joint}."""
    joint_trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    """The training loop of both stages together. Its seed is the arm's."""
    attack: AttackSuite
    """Threat model and attacks; an image counts only if it is classified right under all of them."""
    primary_epsilon: Annotated[Number, Field(gt=0, le=10_000)] | None = None
    """Epsilon that the answer of the report is about, out of attack.threat.epsilons. To be chosen before anything is attacked;
    null: the largest."""
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)
    """How every arm is evaluated."""
    degradation: DegradationConfig | None = None
    """Also test with oracles made worse on purpose; null: no."""
    decomposition: DecompositionConfig | None = None
    """Also split the loss from the oracle to learned masks; null: no. For pairs that are tested with learned masks, if there is one
    that is tested with the oracle."""
    gain: bool = False
    """Also split what the oracle's masks add to none, with attackers confined to foreground and background on the arm without masks
    and with controls; for objectives with the pairs none, oracle, foreign-same and random-alike, trained and tested alike."""
    surface: SurfaceConfig | None = None
    """Also attack arms confined to foreground, to background, and to equal L2 lengths in the foreground: how much of what masks add
    is surface taken from the attacker; null: no. surface={} takes what it does by default."""
    transfer: TransferConfig | None = None
    """Also show adversarial images of every arm to all others, across seeds; null: no. transfer={} is as it does by default."""
    silhouette: bool = False
    """Also train a classifier that sees the oracle mask and nothing else: what the outline alone gives away."""

    def __post_init__(self) -> None:
        for name in ("seeds", "masks", "only_folds"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: names the same thing twice")
        self._check_objectives()
        for pair in self.masks:
            if not set(pair.segmenters or ()) <= set(self.segmenter_labels):
                raise ValueError(f"masks: segmenters={list(pair.segmenters or ())} names one that segmenter_objectives does not")
            if not set(pair.objectives or ()) <= set(self.classifier_labels):
                raise ValueError(f"masks: objectives={list(pair.objectives or ())} names one that classifier_objectives does not")
        if any(number >= (self.folds or 0) for number in self.only_folds or ()):
            raise ValueError(f"only_folds: names a fold that there is not; folds={self.folds} are counted from 0")
        if self.folds and self.evaluation.split != "test":
            raise ValueError("evaluation.split: with folds every image is tested once, in the test split of its fold: say test")
        self._check_systems()
        if self.primary_epsilon is not None and self.primary_epsilon not in self.attack.threat.epsilons:
            raise ValueError("primary_epsilon: is not one of attack.threat.epsilons")
        for name in ("segmenter_trainer", "classifier_trainer", "joint_trainer"):
            trainer = getattr(self, name)
            if trainer.seed:
                raise ValueError(f"{name}.seed: the seed of an arm is one of seeds: say seeds=[{trainer.seed}]")
            if trainer.devices * trainer.num_nodes > 1:
                raise ValueError(f"{name}: an ablation trains on one device; spread its seeds over several with --multirun")
        for name in ("decomposition", "transfer"):
            if getattr(self, name) is not None and self.attack.threat.norm == "patch":
                raise ValueError(f"{name}: its attack climbs inside a norm ball, and attack.threat.norm is patch; say null")
            if getattr(self, name) is not None and not self.evaluation.save_images:
                raise ValueError(f"{name}: scores the adversarial images again: it needs evaluation.save_images=true")
        if self.gain and not self.gain_objectives:
            needed = ", ".join(f"{{train: {source}, test: {source}}}" for source in GAIN_NEEDS)
            raise ValueError(f"gain: needs the pairs {needed} in masks, all of them for one classifier objective at least")
        for name in ("gain", "surface"):
            if getattr(self, name) and self.attack.threat.norm == "patch":
                raise ValueError(
                    f"{name}: an image without room for the square would count as robust: attack=patch has its regions"
                )
            if getattr(self, name) and self.attack.threat.region.value != "everywhere":
                raise ValueError(f"{name}: confines the attacker itself: attack.threat.region has to be everywhere")
        if self.degradation is not None and not set(self.degradation.objectives) <= set(self.classifier_labels):
            raise ValueError("degradation.objectives: names a classifier that classifier_objectives does not")

    def _check_objectives(self) -> None:
        together = any(pair.train == MaskSource.JOINT for pair in self.masks)
        for key, labels in (("segmenter_objectives", self.segmenter_labels), ("classifier_objectives", self.classifier_labels)):
            for number, name in enumerate(labels):
                if name in labels[:number]:
                    raise ValueError(f"{key}: two are called {name}: give one a label")
                try:
                    chosen = self.objective(name)
                    if key == "segmenter_objectives":
                        check_for_segmenters(chosen)
                    else:
                        check_smoothing(chosen, self.label_smoothing)
                        check_attack_on(chosen, self.joint.attack_on if together else "sum")
                except ValueError as error:
                    raise ValueError(f"{key}.{number}.{error}") from error
        both = {name for name in self.segmenter_labels if name in self.classifier_labels}
        if unlike := [name for name in both if len(set(map(repr, self._entries(name)))) > 1]:
            raise ValueError(f"classifier_objectives: {min(unlike)} is another one in segmenter_objectives: give one a label")
        known = {*recipes.names(), *self.classifier_labels}
        choices = {key: getattr(self, key) for key in ("decomposition", "surface", "transfer")}
        for key, settings in {"evaluation.sanity": self.evaluation.sanity, **choices}.items():
            if strange := set(settings.objectives or () if settings else ()) - known:
                raise ValueError(
                    f"{key}.objectives: {min(strange)} is neither in classifier_objectives nor the name of an objective"
                )

    def _check_systems(self) -> None:
        if self.systems and self.folds:
            raise ValueError(
                "systems: nobody knows which images a system of your own was trained on, so no fold is new to it: leave folds out"
            )
        for key in ("name", "system"):
            values = [getattr(own, key) for own in self.systems]
            if len(set(values)) < len(values):
                raise ValueError(f"systems: two have the same {key}")
        names = {*recipes.names(), *self.classifier_labels, *(source.value for source in MaskSource)}
        if taken := {own.name for own in self.systems} & names:
            raise ValueError(f"systems: {min(taken)} is the name of an objective or a mask source: choose another name")

    @property
    def is_shared(self) -> bool:
        """Several processes work in the directory of the ablation."""
        return self.shared or self.devices > 1

    @property
    def segmenter_labels(self) -> tuple[str, ...]:
        """What the entries of segmenter_objectives are called."""
        return tuple(map(recipes.label, self.segmenter_objectives))

    @property
    def classifier_labels(self) -> tuple[str, ...]:
        """What the entries of classifier_objectives are called."""
        return tuple(map(recipes.label, self.classifier_objectives))

    @property
    def gain_objectives(self) -> list[str]:
        """Classifier objectives that have all arms that the split of the oracle's gain is made of."""
        arms = {
            (objective, pair.train)
            for pair in self.masks
            if pair.train == pair.test
            for objective in pair.objectives or self.classifier_labels
        }
        return [one for one in self.classifier_labels if all((one, source) in arms for source in GAIN_NEEDS)]

    def mask_config(self, source: MaskSource, *, pixels: int | None = None) -> MaskConfig:
        """Masks from a source; ``pixels`` is how far eroded, dilated and shifted ones are changed, in place of what all share."""
        masks = MaskConfig(source=source, **self.masking)
        return masks if pixels is None else dataclasses.replace(masks, radius=pixels, shift=pixels)

    def objective(self, name: str) -> ObjectiveConfig:
        """The objective of that label, or else of that name."""
        entry = next(iter(self._entries(name)), name)
        return recipes.objective(entry, adversarial=self.adversarial, trades=self.trades)

    def _entries(self, name: str) -> list[Recipe]:
        return [entry for entry in (*self.segmenter_objectives, *self.classifier_objectives) if recipes.label(entry) == name]

    @property
    def store_path(self) -> Path:
        """Where stages and evaluations are kept."""
        return self.run / "store" if self.store is None else self.store
