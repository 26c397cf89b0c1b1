"""The command that does a piece of an ablation: what a person would have typed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipeline.ablation.config import AblateConfig, Objective
from pipeline.ablation.grid import (
    ClassifierPiece,
    DecompositionPiece,
    EvaluationPiece,
    Piece,
    SegmenterPiece,
    SilhouettePiece,
)
from pipeline.attacks.objectives import ClassLoss
from pipeline.attacks.specs import AttackSuite, ClassAttack
from pipeline.attacks.two_stage import GradientPath
from pipeline.evaluation.evaluate import EvaluateConfig
from pipeline.evaluation.override import MaskOverride
from pipeline.masks import MaskConfig, MaskSource
from pipeline.training.commands import TrainClassifierConfig, TrainSegmenterConfig
from pipeline.training.config import TrainerConfig

Command = TrainSegmenterConfig | TrainClassifierConfig | EvaluateConfig


def command_of(
    config: AblateConfig, piece: Piece, run: Path, paths: Mapping[Piece, Path], *, silhouettes: Path | None
) -> Command | None:
    """The configuration of the command that does a piece in the directory ``run``; None for a decomposition, which is no command.

    ``paths`` are the directories of the pieces that it needs; ``silhouettes`` is the data set of a silhouette's classifier.
    """
    match piece:
        case SegmenterPiece():
            return TrainSegmenterConfig(
                prepared=config.prepared,
                run=run,
                resume=True,
                segmenter=config.segmenter,
                objective=config.objective(piece.objective),
                augment=config.augment,
                trainer=_seeded(config.segmenter_trainer, piece.seed),
            )
        case ClassifierPiece(segmenter=segmenter):
            segmenter_run = None if segmenter is None else paths[segmenter]
            return _classifier(config, config.prepared, run, piece.masks, segmenter_run, piece.objective, piece.seed)
        case SilhouettePiece():
            assert silhouettes is not None
            return _classifier(config, silhouettes, run, MaskConfig(source=MaskSource.NONE), None, "natural", piece.seed)
        case EvaluationPiece():
            return _evaluation(config, piece, run, paths)
        case DecompositionPiece():
            return None


def diagnosis_suite(config: AblateConfig, path: GradientPath) -> AttackSuite:
    """The threat model of the experiment with the one attack of the decomposition: the same for every path but for its gradient."""
    assert config.decomposition is not None
    attack = ClassAttack(
        loss=ClassLoss.MARGIN, path=path, num_steps=config.decomposition.num_steps, restarts=config.decomposition.restarts
    )
    return AttackSuite(threat=config.attack.threat, attacks={f"along-{path.value}": attack})


def _classifier(
    config: AblateConfig,
    prepared: Path,
    run: Path,
    masks: MaskConfig,
    segmenter_run: Path | None,
    objective: Objective,
    seed: int,
) -> TrainClassifierConfig:
    return TrainClassifierConfig(
        prepared=prepared,
        run=run,
        resume=True,
        classifier=config.classifier,
        masks=masks,
        segmenter_run=segmenter_run,
        label_smoothing=config.label_smoothing,
        objective=config.objective(objective),
        augment=config.augment,
        trainer=_seeded(config.classifier_trainer, seed),
    )


def _evaluation(config: AblateConfig, piece: EvaluationPiece, run: Path, paths: Mapping[Piece, Path]) -> EvaluateConfig:
    settings, diagnosis = config.evaluation, piece.diagnosis
    main = piece.role == "main" and diagnosis is None
    strongest = diagnosis is GradientPath.BOTH  # run to its end: its images are scored again
    sanity = settings.sanity
    checked = sanity is not None and piece.classifier.objective in sanity.objectives and piece.masks.source in sanity.sources
    return EvaluateConfig(
        prepared=config.prepared,
        run=run,
        resume=True,
        classifier_run=paths[piece.classifier],
        segmenter_run=None if piece.segmenter is None else paths[piece.segmenter],
        masks=MaskOverride(**vars(piece.masks)),
        attack=config.attack if diagnosis is None else diagnosis_suite(config, diagnosis),
        split=settings.split,
        max_images=settings.max_images,
        batch_size=settings.batch_size,
        part_size=settings.part_size,
        seed=piece.seed,
        keep_all=strongest,
        save_images=settings.save_images and (main or strongest),
        gallery_images=settings.gallery_images if main else 0,
        sanity=main and checked,
        sanity_images=1 if sanity is None else sanity.images,
        accelerator=settings.accelerator,
    )


def _seeded(trainer: TrainerConfig, seed: int) -> TrainerConfig:
    return dataclasses.replace(trainer, seed=seed)
