"""What a measurement observes is what its search finds when it is called by hand with every setting of the measurement."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.acceleration import attacked_copy
from pipeline.attacks.hop_skip_jump import hop_skip_jump
from pipeline.attacks.measurements import DecisionBased, Distances, MinimumNorm, Patches, Smoothing
from pipeline.attacks.measuring import Donors, MeasuredBatch, Observation
from pipeline.attacks.minimum_norm import Nearest, ddn, fmn
from pipeline.attacks.objectives import ModelObjective, margin
from pipeline.attacks.patch_attack import PatchAttack
from pipeline.attacks.patches import allowed_corners, observe_patches, patch_share
from pipeline.attacks.pgd import pgd_l2
from pipeline.attacks.regions import region_masks
from pipeline.attacks.smoothing import SmoothedObjective, certify, observe_attacked, observe_certified, predict
from pipeline.attacks.threat import Region, ThreatModel
from pipeline.masks.config import MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage, attacked

MakeBatch = Callable[..., tuple[Tensor, Tensor, MaskContext]]
SEEDS = torch.tensor([7, -2, 2**50])


@pytest.fixture
def measured(make_system: Callable[..., TwoStage], make_batch: MakeBatch) -> MeasuredBatch:
    """Three images, the last of them misclassified as it is."""
    system = make_system(MaskSource.LEARNED)
    images, labels, context = make_batch(system, 3)
    labels[2] = (labels[2] + 1) % 5
    none = Donors(images=images, masks=context.oracle_masks, found=labels >= 0)
    return MeasuredBatch(system=system, images=images, labels=labels, context=context, seeds=SEEDS, donors=lambda _: none)


def objective(batch: MeasuredBatch) -> ModelObjective:
    return ModelObjective(model=batch.system, score=margin, targets=(batch.labels,), context=batch.context)


def boundary(batch: MeasuredBatch, radius: int) -> Tensor:
    return region_masks(Region.BOUNDARY, batch.masks, radius=radius)


def assert_observed(distances: Tensor, correct: Tensor, found: Nearest) -> None:
    torch.testing.assert_close(distances, found.distances, rtol=1e-6, atol=0)
    assert torch.equal(correct, found.distances.isinf())


def observe_only(spec: Distances, measured: MeasuredBatch) -> Observation:
    """Under the one condition of its kind."""
    (condition,) = spec.conditions()
    return spec.observe(measured, condition)


@pytest.mark.parametrize("radius", [1, 3])
def test_distances_by_gradients(measured: MeasuredBatch, radius: int) -> None:
    in_band = {"region": "boundary", "region_radius": radius}
    with attacked(measured.system):
        by_fmn = fmn(objective(measured), measured.images, norm="l2", num_steps=9, region=boundary(measured, radius))
        by_ddn = ddn(objective(measured), measured.images, seeds=SEEDS, num_steps=7, region=boundary(measured, radius))
    observed = observe_only(MinimumNorm(norm="l2", num_steps=9, **in_band), measured)
    assert_observed(observed.values, observed.correct, by_fmn)
    observed = observe_only(MinimumNorm(search="ddn", norm="l2", num_steps=7, **in_band), measured)
    assert_observed(observed.values, observed.correct, by_ddn)
    assert not torch.equal(by_fmn.distances, by_ddn.distances)
    assert observed.values[2] == 0
    assert observed.counted.all()


def test_a_copy_is_climbed_and_the_system_decides(measured: MeasuredBatch) -> None:
    spec = MinimumNorm(norm="l2", num_steps=15)
    plain = observe_only(spec, measured)
    fast = observe_only(spec, replace(measured, copy=attacked_copy(measured.system, measured.images)))
    torch.testing.assert_close(fast.values, plain.values, rtol=1e-3, atol=0)
    assert plain.values[:2].isfinite().all()
    liar = deepcopy(measured.system)
    with torch.no_grad():
        liar.classifier[4].bias += 5 * torch.arange(5)  # it claims that images fall which do not
    eager = observe_only(spec, replace(measured, copy=liar))
    assert torch.equal(eager.correct, eager.values.isinf())
    assert (eager.values >= 0.9 * plain.values).all()
    assert torch.equal(eager.correct, plain.correct)  # no image is robust for want of a search of the system itself


class Ruled(nn.Module):
    """One class more, which a constant rules out."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, logits: Tensor) -> Tensor:
        return torch.cat([logits, torch.full_like(logits[:, :1], self.value)], dim=1)


@pytest.mark.parametrize("value", [-1e9, -torch.inf])
def test_a_class_that_is_ruled_out_hides_no_distance_from_the_copy(measured: MeasuredBatch, value: float) -> None:
    spec = MinimumNorm(norm="l2", num_steps=10)
    plain = observe_only(spec, measured)
    measured.system.classifier = nn.Sequential(measured.system.classifier, Ruled(value))  # type: ignore[attr-defined]
    found = observe_only(spec, replace(measured, copy=attacked_copy(measured.system, measured.images)))
    torch.testing.assert_close(found.values, plain.values, rtol=1e-3, atol=0)


def test_distances_by_decisions(measured: MeasuredBatch) -> None:
    with attacked(measured.system), torch.no_grad():
        found = hop_skip_jump(
            lambda images: measured.logits(images).argmax(dim=1) != measured.labels,
            measured.images,
            norm="linf",
            seeds=SEEDS,
            num_steps=2,
            max_probes=20,
            region=boundary(measured, 3),
        )
    spec = DecisionBased(norm="linf", num_steps=2, max_probes=20, region="boundary", region_radius=3)
    observed = observe_only(spec, measured)
    assert_observed(observed.values, observed.correct, found)
    assert found.distances[2] == 0


def test_certificates_and_attacks_on_the_smoothed_system(measured: MeasuredBatch) -> None:
    spec = Smoothing(sigma=0.03, num_selection=5, num_draws=30, error_rate=0.02, num_steps=3, attack_draws=2)
    votes = {"sigma": 0.03, "seeds": SEEDS, "num_draws": 30, "error_rate": 0.02}
    with attacked(measured.system), torch.no_grad():
        certificate = certify(measured.logits, measured.images, num_selection=5, **votes)
        smoothed = SmoothedObjective(
            model=measured.system, labels=measured.labels, context=measured.context, sigma=0.03, seeds=SEEDS, num_draws=2
        )
        points = pgd_l2(smoothed, measured.images, epsilon=2.0, num_steps=3, seeds=SEEDS)
        answers = predict(measured.logits, points, **votes)
    observed = observe_certified(spec, measured)
    assert torch.equal(observed.predictions, certificate.predictions)
    assert torch.equal(observed.correct, certificate.predictions == measured.labels)
    assert torch.equal(observed.values, certificate.radii * observed.correct)
    assert not observed.correct[2]
    assert certificate.radii[2] >= observed.values[2] == 0
    under_attack = observe_attacked(spec, measured, 2.0)
    assert torch.equal(under_attack.predictions, answers)
    assert torch.equal(under_attack.correct, (answers == measured.labels) | (answers < 0))


def test_an_answer_that_cannot_be_told_from_a_tie_is_not_misclassified(measured: MeasuredBatch) -> None:
    spec = Smoothing(sigma=0.03, num_selection=5, num_draws=4, error_rate=0.001, num_steps=1, attack_draws=1)
    under_attack = observe_attacked(spec, measured, 0.01)  # of 4 votes none is sure
    assert under_attack.predictions.tolist() == [-1, -1, -1]
    assert under_attack.correct.all()


def test_patches_keep_to_their_share_and_region_and_count_only_where_there_is_room(measured: MeasuredBatch) -> None:
    spec = Patches(shares=(0.04,), attack=PatchAttack(num_promising=1, num_random=1, num_steps=2))
    everywhere = observe_patches(spec, measured, spec.conditions()[0])
    assert everywhere.counted.all()
    assert not everywhere.correct[2]
    whole = spec.conditions()[1]._replace(level=1.0)
    assert whole.name == "foreground"
    assert not observe_patches(spec, measured, whole).counted.any()  # no object fills the image
    nothing = observe_patches(spec, measured, whole._replace(level=0.5 / 256))
    assert not nothing.counted.any()
    assert patch_share(measured.images, measured.images).tolist() == [0, 0, 0]


@pytest.mark.parametrize("region", list(Region))
def test_an_image_counts_where_the_attack_itself_has_room_for_its_patch(measured: MeasuredBatch, region: Region) -> None:
    """A square of 3 pixels fits into the band around an outline as wide as a threat model has it, and into every other region."""
    spec = Patches(shares=(9 / 256,), regions=(region,), attack=PatchAttack(num_promising=1, num_random=0, num_steps=1))
    (condition,) = spec.conditions()
    threat = ThreatModel(norm="patch", epsilons=(condition.level,), region=region)
    allowed = region_masks(region, measured.masks, radius=threat.region_radius)
    seen = observe_patches(spec, measured, condition)
    assert torch.equal(seen.counted, allowed_corners(3, (16, 16), allowed, 3).flatten(1).any(1))
    assert seen.counted.any()
