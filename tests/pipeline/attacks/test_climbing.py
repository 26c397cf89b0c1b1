"""What an attack of a suite climbs, from its settings and the number of the start."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.attacks.climbing import class_objective
from pipeline.attacks.specs import ClassAttack
from pipeline.attacks.start import AttackBatch, AttackStart
from pipeline.attacks.threat import ThreatModel
from pipeline.masks.config import MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage


@pytest.mark.parametrize("num_targets", [0, 1, 2, 9])
def test_each_restart_of_a_target_goes_for_the_wrong_class_of_that_rank_on_the_clean_image(
    make_system: Callable[..., TwoStage], make_batch: Callable[..., tuple[Tensor, Tensor, MaskContext]], num_targets: int
) -> None:
    system = make_system(MaskSource.LEARNED_HARD)
    images, labels, context = make_batch(system, 3)
    batch = AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(3))
    spec = ClassAttack(num_targets=num_targets, restarts=2, loss="margin", gate="soft", path="mask")
    logits = system(images, context).numpy()
    assert spec.num_starts(5) == 2 * max(1, min(num_targets, 4))
    for number in range(spec.num_starts(5)):
        start = AttackStart(batch=batch, threat=ThreatModel(), epsilon=0.1, number=number, num_classes=5, run_seed=0, name="a")
        objective = class_objective(spec, start)
        assert (objective.soft, objective.path) == (True, "mask")
        if not num_targets:
            assert objective.target_labels is None
            continue
        assert objective.target_labels is not None
        ranked = [[one for one in np.argsort(-row) if one != label] for row, label in zip(logits, labels.tolist(), strict=True)]
        assert objective.target_labels.tolist() == [classes[number // 2] for classes in ranked]
    assert not class_objective(ClassAttack(), start).soft


@pytest.mark.parametrize("search", ["pgd", "apgd"])
@pytest.mark.parametrize("num_targets", [0, 2])
@pytest.mark.parametrize("knowledge", ["white-box", "hidden-seed"])
def test_descent_with_a_fixed_step_away_from_the_label_by_who_knows_the_seeds_goes_over_a_queue_and_nothing_else(
    make_system: Callable[..., TwoStage],
    make_batch: Callable[..., tuple[Tensor, Tensor, MaskContext]],
    search: str,
    num_targets: int,
    knowledge: str,
) -> None:
    system = make_system(MaskSource.RANDOM)
    images, labels, context = make_batch(system, 2)
    batch = AttackBatch(system=system, images=images, labels=labels, context=context, seeds=torch.arange(2))
    threat = ThreatModel(knowledge=knowledge)
    start = AttackStart(batch=batch, threat=threat, epsilon=0.1, number=0, num_classes=5, run_seed=0, name="a")
    spec = ClassAttack(search=search, num_targets=num_targets, num_steps=1)
    found = spec.run_over_a_queue(start, batch, batch_size=2, warm_start=None)
    assert (found is not None) == ((search, num_targets, knowledge) == ("pgd", 0, "white-box"))
