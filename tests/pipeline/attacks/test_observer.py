"""Looking on while an attack searches: every point that it visits, in order, and nothing changed by it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline import attack
from pipeline.attacks.objectives import margin
from pipeline.attacks.specs import AttackSpec, ClassAttack, GuidedAttack, MaskAttack, MaskGoal
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage

STEPS = 6
SPECS = {
    "apgd": (ClassAttack(search="apgd", loss="margin", num_steps=STEPS), STEPS + 2),
    "pgd through the mask": (ClassAttack(search="pgd", loss="margin", path="mask", num_steps=STEPS), STEPS + 2),
    "the mask alone": (MaskAttack(goal=MaskGoal.COLLAPSE, num_steps=STEPS), STEPS + 2),
    "first the mask, then the class": (GuidedAttack(goal=MaskGoal.FLOOD, mask_steps=2, class_steps=4), (2 + 2) + (4 + 2)),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("spec", "visited"), SPECS.values(), ids=SPECS)
def test_an_observer_sees_every_point_and_the_attack_returns_the_one_of_the_largest_margin_as_without_it(
    make_system: Callable[..., TwoStage],
    make_batch: Callable[..., tuple[Tensor, Tensor, MaskContext]],
    spec: AttackSpec,
    visited: int,
    norm: str,
) -> None:
    system = make_system()
    images, labels, context = make_batch(system, 3)
    seen: list[tuple[Tensor, Tensor]] = []
    options = {"epsilon": 0.05 if norm == "linf" else 0.8, "norm": norm, "masks": context.oracle_masks}
    found = attack(system, images, labels, spec, observer=lambda points, margins: seen.append((points, margins)), **options)
    assert torch.equal(found, attack(system, images, labels, spec, **options))
    assert len(seen) == visited
    assert torch.equal(seen[0][0], images)
    for points, margins in seen:
        torch.testing.assert_close(margins, margin(system(points), labels), rtol=1e-3, atol=1e-3)
    strongest = torch.stack([margins for _, margins in seen]).argmax(dim=0)
    assert torch.equal(found, torch.stack([points for points, _ in seen])[strongest, torch.arange(3)])


def test_what_an_observer_raises_ends_the_attack_and_leaves_the_system_as_it_was(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple[Tensor, Tensor, MaskContext]]
) -> None:
    system = make_system()
    images, labels, _ = make_batch(system, 2)
    system.classifier.train().requires_grad_(True)
    told = []

    def enough(points: Tensor, margins: Tensor) -> None:
        told.append((points, margins))
        if len(told) == 3:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        attack(system, images, labels, SPECS["apgd"][0], observer=enough)
    assert len(told) == 3
    assert all(parameter.requires_grad for parameter in system.classifier.parameters())
    assert all(part.training for part in system.classifier.modules())
