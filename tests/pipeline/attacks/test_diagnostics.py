"""The checks pass on an honest system and each catches the cheat that it is there for."""

import math
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.diagnostics import Check, Outcome, differences, gradients, masking, sameness, search
from pipeline.attacks.diagnostics.probing import Budget, climb, misclassified, objective, probe_points
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage, as_system

SIDE, CLASSES, IMAGES = 12, 4, 24
EPSILON = 0.01


class NoSurrogate(TwoStage):
    """A hard gate that lets no gradient through."""

    def gate(self, mask_logits: Tensor) -> Tensor:
        return (mask_logits > 0).to(mask_logits.dtype)


class RandomAtTestTime(TwoStage):
    """Masks that are drawn anew at every call."""

    def masks(self, images: Tensor, context: MaskContext | None = None) -> Tensor:
        return super().masks(images, context) * (torch.rand_like(images[:, :1]) > 0.2)


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.network(images)


@dataclass(frozen=True, kw_only=True)
class Cheat:
    kind: type[TwoStage] = TwoStage
    scale: float = 1.0
    mask_scale: float = 1.0


def attacked_batch(source: MaskSource = MaskSource.LEARNED, cheat: Cheat = Cheat()) -> AttackBatch:
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 1, 3, padding=1))
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Conv2d(8, 8, 3, stride=2), nn.Softplus(), nn.Flatten())
    network = nn.Sequential(body, nn.Linear(8 * 25, CLASSES))
    images = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        segmenter[2].bias -= segmenter(images).mean()
    masks = torch.zeros(IMAGES, 1, SIDE, SIDE)
    masks[:, :, 3:9, 2:10] = 1
    config = MaskConfig(source=source)
    context = MaskContext(oracle_masks=masks, substitutes=masks, sample_seeds=torch.arange(IMAGES))
    honest = TwoStage(network, masks=config, segmenter=segmenter).eval()
    context = honest.freeze(images, context)
    with torch.no_grad():
        network[1].bias -= honest(images, context).mean(dim=0)  # so that all classes occur
        gain = 3 / honest(images, context).abs().mean()  # as sure as a trained network
        network[1].weight *= gain
        network[1].bias *= gain
        labels = honest(images, context).argmax(dim=1)
    system = cheat.kind(Scaled(network, cheat.scale), masks=config, segmenter=Scaled(segmenter, cheat.mask_scale)).eval()
    return AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(IMAGES))


BUDGET = Budget(norm="linf", epsilon=EPSILON)


def every_check(found: AttackBatch) -> dict[str, Check]:
    places = cache(partial(probe_points, found, BUDGET))
    checks = [
        gradients.zero_gradients(found, GradientPath.PIXELS, places),
        gradients.zero_gradients(found, GradientPath.MASK, places),
        differences.gradients_against_differences(found, places),
        masking.mask_saturation(found),
        search.loss_against_steps(found, BUDGET),
        search.epsilon_zero(found, norm="linf"),
        search.epsilon_one(found, norm="linf", region_everywhere=True),
        search.soft_to_hard_transfer(found, BUDGET),
        *sameness.same_answers(found, places, company=64),
    ]
    return {check.name: check for check in checks}


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [MaskSource.LEARNED, MaskSource.LEARNED_HARD, MaskSource.ORACLE, MaskSource.NONE, MaskSource.RANDOM]
)
def test_an_honest_system_fails_no_check(source: MaskSource) -> None:
    checks = every_check(attacked_batch(source))
    assert {name: check.finding for name, check in checks.items() if check.outcome is Outcome.FAIL} == {}
    assert checks["zero gradients, pixel path"].outcome is Outcome.PASS
    assert (checks["zero gradients, mask path"].outcome is Outcome.PASS) == source.is_learned
    assert (checks["soft-to-hard transfer"].outcome is Outcome.PASS) == (source is MaskSource.LEARNED_HARD)
    for check in checks.values():
        assert check.advice == ""
        assert check.finding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheat", "source", "caught_by"),
    [
        (Cheat(kind=NoSurrogate), MaskSource.LEARNED_HARD, "zero gradients, mask path"),
        (Cheat(kind=RandomAtTestTime), MaskSource.LEARNED, "repeated calls"),
        (Cheat(mask_scale=1e4), MaskSource.LEARNED, "mask saturation"),
    ],
)
def test_a_cheat_fails_a_named_check_that_says_what_to_do(cheat: Cheat, source: MaskSource, caught_by: str) -> None:
    check = every_check(attacked_batch(source, cheat))[caught_by]
    assert check.outcome is Outcome.FAIL
    assert check.advice


class Deaf(nn.Module):
    """Says the first class, with a gradient that points at nothing in particular."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), CLASSES)
        logits[:, 0] = 1
        noise = images.sin().flatten(1).sum(dim=1, keepdim=True)
        return logits + (noise - noise.detach()) * torch.arange(CLASSES)


def test_gradients_that_lead_nowhere_fail_the_steps_and_epsilon_one() -> None:
    found = attacked_batch(MaskSource.NONE)
    system = TwoStage(Deaf(), masks=MaskConfig(source=MaskSource.NONE)).eval()
    deaf = AttackBatch(system=system, images=found.images, labels=torch.zeros_like(found.labels), context=None, seeds=found.seeds)
    assert gradients.zero_gradients(deaf, GradientPath.PIXELS, partial(probe_points, deaf, BUDGET)).outcome is Outcome.PASS
    steps = search.loss_against_steps(deaf, BUDGET)
    assert (steps.outcome, steps.figures["stuck"]) == (Outcome.FAIL, 1.0)
    everything = search.epsilon_one(deaf, norm="linf", region_everywhere=True)
    assert (everything.outcome, everything.figures["robust"]) == (Outcome.FAIL, 1.0)


def test_what_nobody_can_see_is_not_counted_at_epsilon_one() -> None:
    found = attacked_batch(MaskSource.ORACLE)
    assert found.context is not None
    assert found.context.oracle_masks is not None
    masks = found.context.oracle_masks.clone()
    masks[:6] = 0
    context = found.context._replace(oracle_masks=masks)
    with torch.no_grad():
        labels = found.system(found.images, context).argmax(dim=1)
    hidden = AttackBatch(system=found.system, images=found.images, labels=labels, context=context, seeds=found.seeds)
    check = search.epsilon_one(hidden, norm="linf", region_everywhere=True)
    assert (check.outcome, check.figures["invisible"]) == (Outcome.PASS, 0.25)
    assert search.epsilon_one(hidden, norm="linf", region_everywhere=False).outcome is Outcome.SKIP
    nothing = hidden.select(torch.arange(6))
    assert search.epsilon_one(nothing, norm="l2", region_everywhere=True).outcome is Outcome.SKIP


def test_the_figures_of_a_linear_system_are_its_closed_form() -> None:
    # One weight per pixel, all positive: the margin rises by epsilon * sum of |differences|, reached in one step of any descent.
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2, bias=False))
    with torch.no_grad():
        network[1].weight[0], network[1].weight[1] = 1.0, 0.0
    images = torch.full((4, 3, SIDE, SIDE), 0.5)
    images[2:] = 0.001
    system = TwoStage(network, masks=MaskConfig(source=MaskSource.NONE, fill=Fill.GREY)).eval()
    labels = torch.zeros(4, dtype=torch.int64)
    found = AttackBatch(system=system, images=images, labels=labels, context=None, seeds=torch.arange(4))
    check = search.loss_against_steps(found, Budget(norm="linf", epsilon=0.1))
    # the sum of the pixels stays positive unless every one of them reaches 0, and at 0 the tie is not above 0
    assert math.isclose(check.figures["robust_after_40"], 1.0)
    assert check.figures["stuck"] == 0


class KnowsFiles(nn.Module):
    """Class 1 where the sum of the changes of grey images is 5.5 steps of 1/255 a value; images that no file of 8 bits holds are of
    class 0 whatever happens, the surer the larger they are."""

    def forward(self, images: Tensor) -> Tensor:
        steps = 255 * images
        is_file = (steps - steps.round()).abs().flatten(1).amax(dim=1) < 1e-3
        risen = steps.mean(dim=(1, 2, 3)) - 105.5
        return torch.stack([torch.zeros_like(risen), torch.where(is_file, risen, -1 - steps.mean(dim=(1, 2, 3)))], dim=1)


def test_a_search_in_whole_steps_fells_what_knows_images_that_no_file_holds() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    images = torch.full((2, 3, 5, 4), 100 / 255)
    batch = AttackBatch(system=as_system(KnowsFiles()), images=images, labels=labels, context=None, seeds=torch.arange(2))
    budget = Budget(norm="linf", epsilon=6.5 / 255)
    assert not misclassified(batch, climb(objective(batch), batch, budget).points).any()
    found = search.climb_in_whole_steps(batch, budget)
    assert misclassified(batch, found).all()
    assert torch.equal((255 * (found - images)).round(), torch.full_like(images, 6))
    assert float((found - images).abs().max()) <= budget.epsilon
