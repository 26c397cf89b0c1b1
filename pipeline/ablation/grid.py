"""The grid of an ablation: its arms, and the jobs they need, each once and in an order that finishes arm by arm."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import product

from pipeline.ablation.config import GAIN_NEEDS, AblateConfig, MaskPair
from pipeline.ablation.decomposition import DecompositionJob
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.job import Fold, Job
from pipeline.ablation.own_job import OwnJob
from pipeline.ablation.pooled_job import PooledJob
from pipeline.ablation.selection import SurfaceConfig, TransferConfig
from pipeline.ablation.training_jobs import ClassifierJob, JointJob, SegmenterJob, SilhouetteJob
from pipeline.ablation.transfer_job import TransferJob
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.threat import Region
from pipeline.masks.config import MaskSource

Family = Callable[[AblateConfig], Iterable[Job]]
_MAIN = (
    *(MaskSource.NONE, MaskSource.ORACLE, MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.JOINT),
    *(MaskSource.RANDOM, MaskSource.RANDOM_ALIKE, MaskSource.FOREIGN_SAME, MaskSource.FOREIGN_OTHER),
)
_DIAGNOSES = (GradientPath.BOTH, GradientPath.PIXELS, GradientPath.MASK)


def folds(config: AblateConfig) -> list[Fold | None]:
    """The folds of a cross-validation; without one, a single None."""
    if config.folds is None:
        return [None]
    return [Fold(number, config.folds) for number in config.only_folds or range(config.folds)]


def evaluations(config: AblateConfig, seed: int, fold: Fold | None) -> list[EvaluationJob]:
    """Every system that is attacked with the whole suite under one seed and in one fold: the main ones first."""
    pairs = list(_of_pairs(config, seed, fold))
    found = [arm for arm in pairs if arm.role == "main"] + [arm for arm in pairs if arm.role == "diagnostic"]
    return list(dict.fromkeys([*found, *_degraded(config, seed, fold)]))


def arms(config: AblateConfig) -> list[EvaluationJob | PooledJob]:
    """What the report compares, seed by seed: evaluations, or with cross-validation what their folds come to together."""
    found: list[EvaluationJob | PooledJob] = []
    for seed in config.seeds:
        by_fold = [evaluations(config, seed, fold) for fold in folds(config)]
        found += by_fold[0] if config.folds is None else (PooledJob(folds=parts) for parts in zip(*by_fold, strict=True))
    return found


def own_systems(config: AblateConfig) -> list[OwnJob]:
    """The user's own, seed by seed."""
    return [OwnJob(name=own.name, system=own.system, seed=seed) for seed, own in product(config.seeds, config.systems)]


def decompositions(config: AblateConfig) -> list[DecompositionJob]:
    """One for every main arm that is tested with learned masks and has an arm with the oracle to be compared with."""
    if config.decomposition is None:
        return []
    wanted_objectives = config.decomposition.objectives or config.classifier_labels
    found = []
    for seed, fold in product(config.seeds, folds(config)):
        main = [arm for arm in evaluations(config, seed, fold) if arm.role == "main"]
        for arm in main:
            oracle = _compared_with(arm, main)
            wanted = arm.masks.source.is_learned and arm.classifier.objective in wanted_objectives
            if wanted and oracle is not None:
                diagnoses = tuple(dataclasses.replace(arm, role="diagnostic", diagnosis=path) for path in _DIAGNOSES)
                found.append(DecompositionJob(arm=arm, oracle=oracle, diagnoses=diagnoses))
    return found


def confined(config: AblateConfig) -> list[EvaluationJob | PooledJob]:
    """Arms under attackers who may change a part of the image: for the split of the oracle's gain those without masks, under
    attackers who keep to foreground or background; for ``surface`` all that it names, also at equal L2 lengths."""
    found = []
    for arm in arms(config):
        one = arm.example
        of_gain = (
            config.gain
            and one.masks.source == one.classifier.masks.source == MaskSource.NONE
            and one.classifier.objective in config.gain_objectives
        )
        asked = config.surface is not None and _selected(config, arm, config.surface)
        if of_gain or asked:
            found += [_confined(arm, region=region) for region in (Region.FOREGROUND, Region.BACKGROUND)]
        if asked and config.attack.threat.norm == "linf":
            found.append(_confined(arm, region=Region.FOREGROUND, equal_l2=True))
    return found


def gain_systems(config: AblateConfig, objective: str) -> dict[str, list[EvaluationJob | PooledJob]]:
    """By level of ``gain``: the arms of one classifier objective that its masks name, trained and tested alike, and those without
    masks under confined attackers; one a seed. What ``surface`` confines besides is none of them."""
    systems: dict[str, list[EvaluationJob | PooledJob]] = {}
    for arm in (*arms(config), *confined(config)):
        one = arm.example
        source, of_objective = one.masks.source, one.classifier.objective == objective
        counts = not one.is_confined or (source == MaskSource.NONE and not one.equal_l2)
        if of_objective and counts and source == one.classifier.masks.source in GAIN_NEEDS:
            systems.setdefault(one.region.value if one.is_confined else source.value, []).append(arm)
    return systems


def transfers(config: AblateConfig) -> list[TransferJob]:
    """One for every arm that takes part, seed by seed and fold by fold. Its images are shown to the arms of all seeds."""
    if config.transfer is None:
        return []
    found = []
    for fold in folds(config):
        taking = [
            arm for seed in config.seeds for arm in evaluations(config, seed, fold) if _selected(config, arm, config.transfer)
        ]
        for arm in taking:
            attack = dataclasses.replace(arm, role="diagnostic", transfers=True)
            found.append(TransferJob(arm=arm, attack=attack, targets=tuple(taking)))
    return found


def _selected(config: AblateConfig, arm: EvaluationJob | PooledJob, selection: SurfaceConfig | TransferConfig) -> bool:
    one, objectives = arm.example, selection.objectives or config.classifier_labels
    return one.role == "main" and one.classifier.objective in objectives and one.masks.source in selection.sources


def _confined(arm: EvaluationJob | PooledJob, *, region: Region, equal_l2: bool = False) -> EvaluationJob | PooledJob:
    if isinstance(arm, PooledJob):
        parts = (dataclasses.replace(one, role="diagnostic", region=region, equal_l2=equal_l2) for one in arm.folds)
        return PooledJob(folds=tuple(parts))
    return dataclasses.replace(arm, role="diagnostic", region=region, equal_l2=equal_l2)


def silhouettes(config: AblateConfig) -> list[SilhouetteJob]:
    """One for each seed and fold, where they are asked for."""
    if not config.silhouette:
        return []
    return [SilhouetteJob(seed=seed, fold=fold) for seed, fold in product(config.seeds, folds(config))]


FAMILIES: tuple[Family, ...] = (arms, own_systems, confined, transfers, decompositions, silhouettes)
"""What an ablation consists of: the jobs of a family, and whatever these need, are done in this order."""


def jobs(config: AblateConfig, families: Iterable[Family] = FAMILIES) -> list[Job]:
    """All work in order, each job after those that it needs."""
    ordered: dict[Job, None] = {}
    for family in families:
        for job in family(config):
            ordered |= dict.fromkeys((*_before(job), job))
    return list(ordered)


def _before(job: Job) -> Iterator[Job]:
    """All that a job needs, and what that needs."""
    for other in job.needs:
        yield from _before(other)
        yield other


def _of_pairs(config: AblateConfig, seed: int, fold: Fold | None) -> Iterator[EvaluationJob]:
    for objective in config.classifier_labels:
        for pair in (pair for pair in config.masks if objective in (pair.objectives or config.classifier_labels)):
            if not (pair.train.needs_segmenter or pair.test.needs_segmenter):
                yield _arm(config, objective, pair, None, seed, fold)
                continue
            for label in pair.segmenters or config.segmenter_labels:
                yield _arm(config, objective, pair, SegmenterJob(objective=label, seed=seed, fold=fold), seed, fold)


def _arm(
    config: AblateConfig, objective: str, pair: MaskPair, segmenter: SegmenterJob | None, seed: int, fold: Fold | None
) -> EvaluationJob:
    source = MaskSource(config.joint.classifier) if pair.train == MaskSource.JOINT else pair.train
    alone = ClassifierJob(
        objective=objective,
        seed=seed,
        fold=fold,
        masks=config.mask_config(source),
        segmenter=segmenter if source.needs_segmenter else None,
    )
    joint = None
    if pair.train == MaskSource.JOINT:
        assert segmenter is not None
        masks = config.mask_config(pair.train)
        joint = JointJob(seed=seed, fold=fold, masks=masks, segmenter=segmenter, classifier=alone)
    return EvaluationJob(
        classifier=joint or alone,
        masks=config.mask_config(pair.test),
        segmenter=segmenter if pair.test.needs_segmenter else None,
        role="main" if pair.test in _MAIN else "diagnostic",
    )


def _degraded(config: AblateConfig, seed: int, fold: Fold | None) -> Iterator[EvaluationJob]:
    if config.degradation is None:
        return
    for objective in config.degradation.objectives:
        masks = config.mask_config(MaskSource.ORACLE)
        classifier = ClassifierJob(objective=objective, seed=seed, fold=fold, masks=masks, segmenter=None)
        for kind, pixels in product(config.degradation.kinds, config.degradation.pixels):
            worse = config.mask_config(MaskSource(kind), pixels=pixels)
            yield EvaluationJob(classifier=classifier, masks=worse, segmenter=None, role="degradation")


def _compared_with(arm: EvaluationJob, main: list[EvaluationJob]) -> EvaluationJob | None:
    """The oracle's arm of the same objective, seed and fold: of the same classifier if there is one, else trained on the oracle."""
    alike = [
        other
        for other in main
        if other.masks.source == MaskSource.ORACLE and other.classifier.objective == arm.classifier.objective
    ]
    same = [other for other in alike if other.classifier == arm.classifier]
    return next(iter(same + [other for other in alike if other.classifier.masks.source == MaskSource.ORACLE]), None)
