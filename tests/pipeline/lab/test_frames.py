"""What is seen of an attack is the shipped attack: its points, its result and what a decomposition says of it."""

from types import ModuleType

import polars as pl
import pytest
import torch
from torch import Tensor

from pipeline import attack
from pipeline.ablation.counterfactual import Attribution, decompose_arm, path_margins
from pipeline.attacks.objectives import margin
from pipeline.attacks.specs import GuidedAttack
from pipeline.attacks.threat import ThreatModel
from pipeline.lab.bench import Sample
from pipeline.lab.config import Settings, lab_attacks
from pipeline.lab.frames import AttackedImage, Frame, Phase, num_points
from pipeline.masks.config import MaskSource
from segmenter.metrics import intersection_over_union

CPU = torch.device("cpu")
SETTINGS = {
    "end to end": Settings(epsilon=0.03, steps=4),
    "Euclidean, in two phases": Settings(attack="guided-collapse", norm="l2", epsilon=0.5, steps=5, seed=3),
    "of few pixels, first in larger balls": Settings(norm="l1", epsilon=6.0, steps=10),
    "of few pixels, too short for that": Settings(norm="l1", epsilon=6.0, steps=4),
    "of few pixels, in two phases": Settings(attack="guided-collapse", norm="l1", epsilon=6.0, steps=4),
    "through the mask alone, fixed steps": Settings(attack="mask-path", epsilon=0.05, steps=3),
    "the mask alone": Settings(attack="collapse", epsilon=0.05, steps=3),
    "on the background": Settings(attack="pgd-margin", epsilon=0.1, steps=3, region="background"),
}


def subject_of(small: ModuleType, source: MaskSource, row: int = 5, *, labelled: bool = True, masked: bool = True) -> AttackedImage:
    system = small.system(source).requires_grad_(False)
    images, context = small.pictures()
    label = int(system(images, system.freeze(images, context)).argmax(dim=1)[row]) if labelled else None
    mask = context.oracle_masks[row : row + 1] if masked else None
    return AttackedImage(system, Sample(name="one", image=images[row : row + 1], label=label, mask=mask), CPU)


def shipped(subject: AttackedImage, settings: Settings) -> Tensor:
    """What somebody gets who calls the library with what the page shows."""
    threat = ThreatModel(norm=settings.norm, region=settings.region)
    image, label, mask = subject.sample.image, torch.tensor([subject.label]), subject.sample.mask
    return attack(
        subject.system, image, label, settings.spec, epsilon=settings.epsilon, masks=mask, threat=threat, seed=settings.seed
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD])
def test_the_last_frame_is_what_attack_returns_to_the_bit(small: ModuleType, source: MaskSource, settings: Settings) -> None:
    subject = subject_of(small, source)
    frames = list(subject.frames(settings))
    points = num_points(settings)
    assert [frame.phase for frame in frames] == [Phase.CLEAN, *[Phase.SEARCH] * (points - 1), Phase.RESULT]
    assert [frame.number for frame in frames] == [*range(points), points - 1]
    assert torch.equal(frames[-1].image[None], shipped(subject, settings))
    assert torch.equal(frames[0].image[None], subject.sample.image)
    assert frames[-1].margin == pytest.approx(max(frame.margin for frame in frames), abs=1e-4)


@pytest.mark.parametrize("source", [MaskSource.NONE, MaskSource.ORACLE, MaskSource.FROZEN, MaskSource.LEARNED])
def test_every_frame_says_what_the_system_says_of_its_image(small: ModuleType, source: MaskSource) -> None:
    subject = subject_of(small, source)
    frames = list(subject.frames(SETTINGS["end to end"]))
    images, oracle = torch.stack([frame.image for frame in frames]), subject.batch.context
    assert oracle is not None
    context = oracle.select(torch.zeros(len(frames), dtype=torch.int64))
    logits, masks = subject.system(images, context), subject.system.masks(images, context)
    labels = torch.full((len(frames),), subject.label)
    for frame, row, mask, expected in zip(frames, logits, masks, margin(logits, labels), strict=True):
        torch.testing.assert_close(frame.probabilities, row.softmax(dim=0))
        torch.testing.assert_close(frame.mask, mask[0])
        assert frame.margin == pytest.approx(float(expected), abs=1e-5)
        assert frame.misclassified == (frame.prediction != subject.label)
        assert frame.mask_iou == pytest.approx(float(intersection_over_union(mask[None], subject.sample.mask)))
        assert (frame.pixels_margin is None) == (source != MaskSource.LEARNED)


def decomposed(frame: Frame, subject: AttackedImage) -> str:
    """By the decomposition of an ablation, from the tables that it reads."""
    assert subject.batch.context is not None
    scores = path_margins(
        subject.system, subject.sample.image, frame.image[None], torch.tensor([subject.label]), subject.batch.context
    )
    assert frame.pixels_margin == pytest.approx(float(scores["pixels_margin"]), abs=1e-5)
    assert frame.mask_margin == pytest.approx(float(scores["mask_margin"]), abs=1e-5)
    key = {"sample_id": ["one"], "epsilon": [0.1]}
    arm = pl.DataFrame({**key, "robust": [not frame.misclassified], "group": ["one"], "clean_correct": [True]})
    oracle = pl.DataFrame({**key, "robust": [True]})
    margins = pl.DataFrame({**key, **{name: [float(value)] for name, value in scores.items()}})
    return str(decompose_arm(arm, oracle, margins, {})["attribution"][0])


def test_by_what_an_image_was_lost_is_what_the_decomposition_says(small: ModuleType) -> None:
    found = set()
    for row in range(small.IMAGES):
        subject = subject_of(small, MaskSource.LEARNED, row)
        frame = list(subject.frames(Settings(attack="mask-path", epsilon=0.1, steps=3)))[-1]
        expected = decomposed(frame, subject)
        found.add(expected)
        assert (subject.attribution(frame) or Attribution.ROBUST) == expected
    assert len(found) >= 3, "the images were all lost alike: the test compares too little"


def test_a_photo_that_nobody_has_named_is_attacked_away_from_the_systems_own_answer(small: ModuleType) -> None:
    subject = subject_of(small, MaskSource.LEARNED, labelled=False, masked=False)
    frames = list(subject.frames(Settings(epsilon=0.1, steps=4)))
    assert subject.label == frames[0].prediction
    assert not frames[0].misclassified
    assert frames[0].mask_iou == 1  # with its own clean mask
    assert frames[-1].misclassified
    assert torch.equal(frames[-1].image[None], shipped(subject, Settings(epsilon=0.1, steps=4)))


def test_epsilon_0_shows_the_clean_image_and_the_same_as_result(small: ModuleType) -> None:
    subject = subject_of(small, MaskSource.LEARNED)
    clean, result = subject.frames(Settings(epsilon=0, steps=4))
    assert torch.equal(clean.image, result.image)
    assert result.phase == Phase.RESULT


def test_attacks_that_can_be_watched_are_those_with_one_search_from_one_start() -> None:
    assert {"apgd-margin", "pgd-margin", "pixel-path", "mask-path", "joint-collapse", "guided-flood"} <= set(lab_attacks())
    assert not {"apgd-targeted", "guided-steal", "steal", "square"} & set(lab_attacks())
    for name in lab_attacks():
        for steps in (1, 2, 7):
            settings = Settings(attack=name, steps=steps)
            assert settings.spec.num_starts(5) == 1
            expected = max(2, steps) if isinstance(settings.spec, GuidedAttack) else steps
            assert settings.spec.passes(5).backward == expected


@pytest.mark.parametrize(("key", "value"), [("attack", "square"), ("epsilon", 8), ("steps", 0), ("norm", "l7"), ("region", "left")])
def test_settings_that_cannot_be_are_refused_with_the_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        Settings(**{key: value})  # type: ignore[arg-type]
