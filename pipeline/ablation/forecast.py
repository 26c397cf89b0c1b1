"""How long pieces should take of which none has been measured here yet: passes through the stages are counted, one pass is timed.

A forecast is rough. How many attacked images stand, and so are attacked on, is not known beforehand.
"""

import dataclasses
import time
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import nn

from classifier.model import build_classifier
from pipeline.ablation.config import AblateConfig, Objective
from pipeline.ablation.grid import ClassifierPiece, DecompositionPiece, EvaluationPiece, Piece, SegmenterPiece, SilhouettePiece
from pipeline.ablation.jobs import diagnosis_suite
from pipeline.attacks.runner import num_starts
from pipeline.attacks.specs import AttackSpec, AutoAttack, ClassAttack, GuidedAttack, MaskAttack, SquareAttack, inapplicable
from pipeline.attacks.two_stage import GradientPath
from pipeline.evaluation.evaluate import choose_device
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, TradesConfig
from segmenter.model import build_segmenter

STANDING: dict[Objective, float] = {"natural": 0.25, "adversarial": 0.6, "trades": 0.6}
"""Assumed share of all steps of a suite that are really taken, since fallen images leave it; by objective of the classifier."""
FORWARD = 1 / 3
"""A forward pass alone, in forward and backward passes to the image."""
TRAINING = 1.5
"""A pass of training, which also asks for the gradients of the weights and makes the batch, in the same."""
_CLASSES = 10
_GRADIENT_PASSES_OF_AUTOATTACK = {"apgd-ce": 100, "apgd-dlr": 100, "apgd-t": 900, "fab": 100, "fab-t": 900}


class Passes(NamedTuple):
    """Forward and backward passes of one image through each stage."""

    classifier: float
    segmenter: float


class _Training(NamedTuple):
    """Images that pass through a stage while it is trained."""

    trained: float
    """Forward and backward, for the gradients of the weights."""
    measured: float
    """Forward alone."""
    attacked: float
    """Forward and backward, for the gradient of the image."""

    @property
    def of_stage(self) -> float:
        """In passes of the stage that is trained."""
        return TRAINING * self.trained + FORWARD * self.measured + self.attacked

    @property
    def of_masks(self) -> float:
        """In passes of the segmenter that makes the masks of a classifier in training, and is not trained itself."""
        return FORWARD * (self.trained + self.measured) + self.attacked


class Forecast:
    """Seconds that pieces of an ablation should take on this machine."""

    def __init__(self, config: AblateConfig, counts: Mapping[str, int], speed: Passes | None = None) -> None:
        """``counts``: images in the splits train, val and test. ``speed``: seconds of a pass, by stage; None measures it once
        a forecast is asked for."""
        self._config, self._counts, self._given = config, counts, speed

    def seconds(self, piece: Piece) -> float:
        """Of one piece. Rough: 2 x too much or too little is nothing unusual."""
        passes = self.passes(piece)
        return passes.classifier * self._speed.classifier + passes.segmenter * self._speed.segmenter

    @cached_property
    def _speed(self) -> Passes:
        return self._given or measure_speed(self._config)

    def passes(self, piece: Piece) -> Passes:
        """Of one piece, over all its images."""
        match piece:
            case SegmenterPiece(objective=objective):
                return Passes(classifier=0, segmenter=self._training(objective, self._config.segmenter_trainer.epochs).of_stage)
            case ClassifierPiece(objective=objective, segmenter=segmenter):
                training = self._training(objective, self._config.classifier_trainer.epochs)
                return Passes(classifier=training.of_stage, segmenter=training.of_masks if segmenter else 0)
            case SilhouettePiece():
                return Passes(classifier=self._training("natural", self._config.classifier_trainer.epochs).of_stage, segmenter=0)
            case EvaluationPiece():
                return self._attacking(piece)
            case DecompositionPiece():
                rescored = 2 * FORWARD * self._attacked_images * len(self._config.attack.threat.epsilons)  # of two evaluations
                return Passes(classifier=3 * rescored, segmenter=2 * rescored)

    def _training(self, objective: Objective, epochs: int) -> _Training:
        train, val, test = (self._counts.get(split, 0) for split in ("train", "val", "test"))
        measured = epochs * val + val + test
        match self._config.objective(objective):
            case NaturalConfig():
                return _Training(trained=epochs * train, measured=measured, attacked=0)
            case AdversarialConfig(attack=attack, validation=validation) as settings:
                trained = epochs * train
            case TradesConfig(attack=attack, validation=validation) as settings:
                trained, measured = 2 * epochs * train, measured + epochs * train
        robust, checked = validation.attack or settings.attack, min(val, validation.max_images)
        steps = train * attack.num_steps + checked * robust.num_steps * robust.restarts
        return _Training(trained=trained, measured=measured + epochs * (train + checked), attacked=epochs * steps)

    @property
    def _attacked_images(self) -> int:
        settings = self._config.evaluation
        images = self._counts.get(settings.split, 0)
        return min(images, settings.max_images or images)

    def _attacking(self, piece: EvaluationPiece) -> Passes:
        suite = self._config.attack if piece.diagnosis is None else diagnosis_suite(self._config, piece.diagnosis)
        side = self._config.data.image_size
        steps = sum(
            gradient_passes(spec)
            for spec in suite.attacks.values()
            if not inapplicable(spec, piece.masks, suite.threat, image_shape=(side, side), has_guides=True, has_oracle=True)
        )
        to_its_end = piece.diagnosis is GradientPath.BOTH
        share = 1.0 if to_its_end else STANDING[piece.classifier.objective]
        total = share * self._attacked_images * steps * sum(epsilon > 0 for epsilon in suite.threat.epsilons)
        return Passes(classifier=total, segmenter=total if piece.masks.source.is_learned else 0)


def gradient_passes(spec: AttackSpec) -> float:
    """Forward and backward passes that an attack spends on an image that it never fells."""
    starts = num_starts(spec, _CLASSES)
    match spec:
        case ClassAttack() | MaskAttack():
            return starts * spec.num_steps
        case GuidedAttack():
            return starts * (spec.mask_steps + spec.class_steps)
        case SquareAttack():
            return starts * spec.num_queries * FORWARD
        case AutoAttack():
            square = spec.num_queries * FORWARD
            return sum(_GRADIENT_PASSES_OF_AUTOATTACK.get(member, square) for member in spec.attacks)


def measure_speed(config: AblateConfig) -> Passes:
    """Seconds that a forward and backward pass of one image takes through each stage, at the batch size of the evaluation."""
    device = choose_device(config.evaluation.accelerator)
    side = config.data.image_size
    images = torch.rand(config.evaluation.batch_size, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    classifier = build_classifier(dataclasses.replace(config.classifier, weights=None), num_classes=_CLASSES, seed=0)
    segmenter = build_segmenter(dataclasses.replace(config.segmenter, encoder_weights=None), seed=0)
    return Passes(classifier=_timed(classifier.to(device), images), segmenter=_timed(segmenter.to(device), images))


def _timed(stage: nn.Module, images: torch.Tensor) -> float:
    stage = stage.eval().to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        (gradient,) = torch.autograd.grad(stage(images).sum(), images)
        gradient.sum().item()  # waits for a GPU
        seconds.append(time.perf_counter() - began)
    return min(seconds) / len(images)
