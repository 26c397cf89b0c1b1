"""The grid of an ablation: its arms, and the jobs they need, each once and in an order that finishes arm by arm."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from pipeline.ablation.config import AblateConfig, MaskPair, Objective
from pipeline.ablation.decomposition import DecompositionJob
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.job import Job
from pipeline.ablation.training_jobs import ClassifierJob, SegmenterJob, SilhouetteJob
from pipeline.attacks.two_stage import GradientPath
from pipeline.masks import MaskSource

Family = Callable[[AblateConfig], Iterable[Job]]
_MAIN = (MaskSource.NONE, MaskSource.ORACLE, MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.RANDOM)
_DIAGNOSES = (GradientPath.BOTH, GradientPath.PIXELS, GradientPath.MASK)


def arms(config: AblateConfig) -> list[EvaluationJob]:
    """Every system that is attacked with the whole suite: seed by seed, the main ones of a seed first."""
    found: list[EvaluationJob] = []
    for seed in config.seeds:
        found += (arm for arm in _of_pairs(config, seed) if arm.role == "main")
        found += (arm for arm in _of_pairs(config, seed) if arm.role == "diagnostic")
        found += _degraded(config, seed)
    return list(dict.fromkeys(found))


def decompositions(config: AblateConfig) -> list[DecompositionJob]:
    """One for every main arm that is tested with learned masks and has an arm with the oracle to be compared with."""
    if config.decomposition is None:
        return []
    main = [arm for arm in arms(config) if arm.role == "main"]
    found = []
    for arm in main:
        oracle = _compared_with(arm, main)
        wanted = arm.masks.source.is_learned and arm.classifier.objective in config.decomposition.objectives
        if wanted and oracle is not None:
            diagnoses = tuple(dataclasses.replace(arm, role="diagnostic", diagnosis=path) for path in _DIAGNOSES)
            found.append(DecompositionJob(arm=arm, oracle=oracle, diagnoses=diagnoses))
    return found


def silhouettes(config: AblateConfig) -> list[SilhouetteJob]:
    """One a seed, where they are asked for."""
    return [SilhouetteJob(seed=seed) for seed in config.seeds] if config.silhouette else []


FAMILIES: tuple[Family, ...] = (arms, decompositions, silhouettes)
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


def _of_pairs(config: AblateConfig, seed: int) -> Iterator[EvaluationJob]:
    for objective in config.classifier_objectives:
        for pair in config.masks:
            for segmenter in _segmenters(config, pair, seed):
                yield _arm(config, objective, pair, segmenter, seed)


def _segmenters(config: AblateConfig, pair: MaskPair, seed: int) -> list[SegmenterJob | None]:
    if not (pair.train.needs_segmenter or pair.test.needs_segmenter):
        return [None]
    return [SegmenterJob(objective=objective, seed=seed) for objective in pair.segmenters or config.segmenter_objectives]


def _arm(config: AblateConfig, objective: Objective, pair: MaskPair, segmenter: SegmenterJob | None, seed: int) -> EvaluationJob:
    classifier = ClassifierJob(
        objective=objective,
        seed=seed,
        masks=config.masking.masks(pair.train),
        segmenter=segmenter if pair.train.needs_segmenter else None,
    )
    return EvaluationJob(
        classifier=classifier,
        masks=config.masking.masks(pair.test),
        segmenter=segmenter if pair.test.needs_segmenter else None,
        role="main" if pair.test in _MAIN else "diagnostic",
    )


def _degraded(config: AblateConfig, seed: int) -> Iterator[EvaluationJob]:
    if config.degradation is None:
        return
    for objective in config.degradation.objectives:
        masks = config.masking.masks(MaskSource.ORACLE)
        classifier = ClassifierJob(objective=objective, seed=seed, masks=masks, segmenter=None)
        for kind in config.degradation.kinds:
            for pixels in config.degradation.pixels:
                worse = config.masking.masks(MaskSource(kind), pixels=pixels)
                yield EvaluationJob(classifier=classifier, masks=worse, segmenter=None, role="degradation")


def _compared_with(arm: EvaluationJob, main: list[EvaluationJob]) -> EvaluationJob | None:
    """The oracle's arm of the same objective and seed: of the same classifier if there is one, else trained on the oracle."""
    alike = [
        other
        for other in main
        if other.masks.source is MaskSource.ORACLE
        and (other.classifier.objective, other.seed) == (arm.classifier.objective, arm.seed)
    ]
    same = [other for other in alike if other.classifier == arm.classifier]
    return next(iter(same + [other for other in alike if other.classifier.masks.source is MaskSource.ORACLE]), None)
