"""Forecasts: counted passes against those that real training makes, and against counts done by hand."""

from pathlib import Path

import pytest
import torch

from classifier.model import Classifier
from pipeline.ablation.cache import Store
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.forecast import FORWARD, TRAINING, Forecast, Passes, measure_speed
from pipeline.ablation.grid import ClassifierPiece, EvaluationPiece, Piece, SegmenterPiece, pieces
from pipeline.config import compose, validate
from pipeline.data.dataset import open_prepared
from pipeline.training.commands import train_classifier

COUNTS = {"train": 1000, "val": 100, "test": 50}
CHANGES = {
    "masks": [{"train": "none", "test": "none"}, {"train": "learned", "test": "learned"}],
    "segmenter_objectives": ["adversarial"],
    "classifier_trainer": {"epochs": 3},
    "segmenter_trainer": {"epochs": 2},
    "adversarial": {"attack": {"num_steps": 4}, "validation": {"max_images": 60}},
    "evaluation": {"max_images": 20},
    "degradation": None,
    "decomposition": None,
}


def config(**changes: object) -> AblateConfig:
    return validate(AblateConfig, compose("ablate", AblateConfig, []) | CHANGES | changes)


def only(kind: type, config: AblateConfig, objective: str, source: str | None = None) -> Piece:
    """The one piece of a kind, by the objective of what is trained in it and its masks."""
    found = []
    for piece in pieces(config):
        trained = getattr(piece, "classifier", piece)
        if (
            isinstance(piece, kind)
            and trained.objective == objective
            and source in (None, getattr(getattr(piece, "masks", None), "source", None))
        ):
            found.append(piece)
    (piece,) = found
    return piece


def test_passes_of_training_are_those_counted_by_hand() -> None:
    forecast = Forecast(config(), COUNTS, Passes(1.0, 1.0))
    measured = FORWARD * (3 * 100 + 100 + 50)
    own = TRAINING * 3 * 1000
    attack = 3 * (1000 + 60) * (4 + FORWARD)
    assert forecast.passes(only(ClassifierPiece, config(), "natural", "none")) == pytest.approx((own + measured, 0))
    assert forecast.passes(only(ClassifierPiece, config(), "adversarial", "none")) == pytest.approx((own + measured + attack, 0))
    masks = FORWARD * 3 * 1000 + measured + attack
    learned = only(ClassifierPiece, config(), "adversarial", "learned")
    assert forecast.passes(learned) == pytest.approx((own + measured + attack, masks))
    segmenter = TRAINING * 2 * 1000 + FORWARD * (2 * 100 + 100 + 50) + 2 * (1000 + 60) * (4 + FORWARD)
    assert forecast.passes(only(SegmenterPiece, config(), "adversarial")) == pytest.approx((0, segmenter))


def test_attacks_that_say_nothing_about_a_system_cost_nothing() -> None:
    """Of the quickstart's suite the third attack moves masks; three epsilons, 20 images, ten steps an attack."""
    forecast = Forecast(config(), COUNTS, Passes(1.0, 1.0))
    none, learned = (forecast.passes(only(EvaluationPiece, config(), "natural", source)) for source in ("none", "learned"))
    assert none.segmenter == 0
    assert learned.segmenter == learned.classifier == pytest.approx(none.classifier * 3 / 2)
    robust = forecast.passes(only(EvaluationPiece, config(), "adversarial", "none"))
    assert none.classifier < robust.classifier <= 20 * 3 * 2 * 10


def test_seconds_are_passes_times_seconds_of_a_pass() -> None:
    piece = only(ClassifierPiece, config(), "adversarial", "learned")
    passes = Forecast(config(), COUNTS, Passes(1.0, 1.0)).passes(piece)
    expected = 0.5 * passes.classifier + 0.25 * passes.segmenter
    assert Forecast(config(), COUNTS, Passes(0.5, 0.25)).seconds(piece) == pytest.approx(expected)
    speed = measure_speed(config(data={"source": "synthetic", "image_size": 32}))
    assert speed.classifier > 0
    assert speed.segmenter > 0


def test_real_training_passes_as_many_images_as_were_counted(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward passes of the classifier, counted where they happen."""
    seen = {"with gradients": 0, "without": 0}
    forward = Classifier.forward

    def counting(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        seen["with gradients" if torch.is_grad_enabled() else "without"] += len(images)
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", counting)
    settings = config(prepared=str(synthetic_set), run=str(tmp_path / "run"), classifier_trainer={"epochs": 2, "batch_size": 32})
    dataset = open_prepared(synthetic_set)
    counts = {"train": 96, "val": 32, "test": 32}
    training = Forecast(settings, counts)._training("adversarial", 2)
    work = Store(settings, dataset.fingerprint).look(only(ClassifierPiece, settings, "adversarial", "none"))
    train_classifier(work.command)
    assert seen["with gradients"] == pytest.approx(training.trained + training.attacked, rel=0.02)
    assert seen["without"] == pytest.approx(training.measured, rel=0.02)
