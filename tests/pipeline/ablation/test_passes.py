"""Counted passes against those that real trainings and attacks make, and against counts done by hand."""

from pathlib import Path

import pytest
import torch

from classifier.model import Classifier
from pipeline.ablation.cache import RunCache
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.grid import jobs
from pipeline.ablation.job import ImageCounts, Job
from pipeline.ablation.passes import training_passes
from pipeline.ablation.training_jobs import ClassifierJob, SegmenterJob
from pipeline.cli.composition import compose
from pipeline.config import validate
from pipeline.data.dataset import open_prepared

COUNTS = ImageCounts(train=1000, val=100, test=50, classes=10)
SMALL = ImageCounts(train=96, val=32, test=32, classes=10)
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


def only(kind: type, config: AblateConfig, objective: str, source: str | None = None) -> Job:
    """The one job of a kind, by the objective of what is trained in it and its masks."""
    found = [job for job in jobs(config) if isinstance(job, kind) and getattr(job, "classifier", job).objective == objective]
    (job,) = [job for job in found if source in (None, getattr(getattr(job, "masks", None), "source", None))]
    return job


def test_passes_of_training_are_those_counted_by_hand() -> None:
    measured = 3 * 100 + 100 + 50
    natural = only(ClassifierJob, config(), "natural", "none").passes(config(), COUNTS)
    assert natural == (3 * 1000 + measured, 3 * 1000)
    steps = 3 * (1000 + 60) * 4
    checked = (1 + 1) + 2  # the image and the last point of the attack on it; both answers
    own = (3 * 1000 + measured + 3 * 60 * checked + steps, 3 * 1000 + steps)
    assert only(ClassifierJob, config(), "adversarial", "none").passes(config(), COUNTS) == own
    # Behind a segmenter every image passes that too, and every attack goes back through it, but it is not trained.
    learned = only(ClassifierJob, config(), "adversarial", "learned").passes(config(), COUNTS)
    assert learned == (2 * own[0], own[1] + steps)
    segmenter = only(SegmenterJob, config(), "adversarial").passes(config(), COUNTS)
    steps = 2 * (1000 + 60) * 4
    assert segmenter == (2 * 1000 + 2 * 100 + 100 + 50 + 2 * 60 * checked + steps, 2 * 1000 + steps)
    # Two losses a step under MART; one gradient step in fast training, validated with ten; AWP takes its losses twice.
    recipes = config(classifier_objectives=["mart", "fast", "awp", "noise"])
    counted = {name: only(ClassifierJob, recipes, name, "none").passes(recipes, COUNTS) for name in recipes.classifier_labels}
    assert counted["mart"] == (own[0] + 3 * 1000, own[1] + 3 * 1000) == counted["awp"]
    steps = 3 * (1000 + 60 * 10)
    assert counted["fast"] == (3 * 1000 + measured + 3 * 60 * checked + steps, 3 * 1000 + steps)
    assert counted["noise"] == natural
    # Images that train segmenters alone count for these alone.
    more = COUNTS._replace(for_segmenters=300)
    assert only(SegmenterJob, config(), "adversarial").passes(config(), more).backward == 2 * 1300 + 2 * (1300 + 60) * 4
    assert only(ClassifierJob, config(), "natural", "none").passes(config(), more) == natural


def test_attacks_that_say_nothing_about_a_system_cost_nothing() -> None:
    """Of the suite quickstart the second attack has three targets, the third moves masks; three epsilons, 20 images, ten steps."""
    none, learned = (only(EvaluationJob, config(), "natural", source).passes(config(), COUNTS) for source in ("none", "learned"))
    assert none == (20 * 3 * (1 + 3) * 10, 20 * 3 * (1 + 3) * 10)
    assert learned == (2 * none.forward * 5 // 4, 2 * none.backward * 5 // 4)
    assert learned.total == 2 * learned.forward


def count_passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Forward and backward passes of images through classifiers, counted where they happen from now on."""
    seen = {"forward": 0, "backward": 0}
    forward = Classifier.forward

    def counting(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        seen["forward"] += len(images)
        logits = forward(self, images)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: seen.__setitem__("backward", seen["backward"] + len(gradient)))
        return logits

    monkeypatch.setattr(Classifier, "forward", counting)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["natural", "adversarial", "trades", "n_fgsm", "mart", "awp", "noise"])
def test_real_training_passes_as_many_images_as_were_counted(
    synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    seen = count_passes(monkeypatch)
    changes = {"run": str(tmp_path / "run"), "prepared": str(synthetic_set), "classifier_objectives": [objective]}
    changes["adversarial"] = {"attack": {"num_steps": 4}, "validation": {"max_images": 20}}
    settings = config(**changes, classifier_trainer={"epochs": 2, "batch_size": 32})
    job = only(ClassifierJob, settings, objective, "none")
    state = RunCache(settings, open_prepared(synthetic_set).fingerprint, {}).find(job)
    job.run(state)
    counted = job.passes(settings, SMALL)
    assert seen["backward"] == counted.backward
    assert seen["forward"] == counted.forward + 32 + 1  # a batch and an image that are tried before the first step
    assert counted == training_passes(settings.objective(objective), SMALL, epochs=2, behind_segmenter=False)


def test_what_is_measured_beside_the_attacks_is_counted() -> None:
    """By hand: 20 images; 7 steps forward and back, the last score and the answer; 2 backdrops and the original; and 2 stages."""
    suite = {
        "threat": {"epsilons": [0]},
        "attacks": {"clean": {"kind": "class"}},
        "measurements": {
            "nearest": {"kind": "minimum-norm", "num_steps": 7},
            "backgrounds": {"kind": "backgrounds", "backdrops": ["same-class", "other-class"]},
            "patches": {"kind": "patches", "shares": [0.1], "regions": ["background"], "attack": {"num_steps": 5}},
            "smoothing": {
                "kind": "smoothing",
                "num_selection": 3,
                "num_draws": 11,
                "radii": [0.5],
                "num_steps": 2,
                "attack_draws": 4,
            },
        },
    }
    forward = (7 + 2) + 3 + (8 * 5 + 4 + 1) + (3 + 2 * 11 + 2 * 4)
    backward = 7 + 0 + (8 * 5 + 4) + 2 * 4
    ablation = config(attack=suite, primary_epsilon=None)
    plain = only(EvaluationJob, ablation, "natural", "none").passes(ablation, COUNTS)
    assert plain == (20 * forward, 20 * backward)
    learned = only(EvaluationJob, ablation, "natural", "learned").passes(ablation, COUNTS)
    assert learned == (2 * plain.forward, 2 * plain.backward)
