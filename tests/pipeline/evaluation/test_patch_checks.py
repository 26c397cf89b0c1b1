"""A patch is examined inside its most promising square; what the suite left standing falls to another place or more steps."""

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.attacks.diagnostics.places import patch_budget
from pipeline.attacks.patch_attack import PatchAttack, patch_side
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import Region, ThreatModel
from pipeline.evaluation.diagnostics import sanity_checks
from pipeline.evaluation.evaluator import EvaluationRun, attack_images
from pipeline.evaluation.records import RecordStore, read_records

CPU, SHARE = torch.device("cpu"), 0.06


def checked(small: ModuleType, path: Path, attack: PatchAttack) -> dict[str, Check]:
    run = evaluation(small, attack)
    store = RecordStore(path)
    attack_images(run, store, device=CPU, advance=lambda _: None)
    return {check.name: check for check in sanity_checks(run, store, read_records(path), num_images=6, device=CPU)}


def evaluation(small: ModuleType, attack: PatchAttack) -> EvaluationRun:
    suite = AttackSuite(threat=ThreatModel(norm="patch", epsilons=(SHARE,)), attacks={"patch": attack})
    run: EvaluationRun = dataclasses.replace(small.evaluation_run(), suite=suite)
    return run


@pytest.mark.parametrize("region", [Region.EVERYWHERE, Region.FOREGROUND, Region.BACKGROUND])
def test_the_budget_is_one_square_in_the_region_where_the_gradient_promises_most(small: ModuleType, region: Region) -> None:
    batch = evaluation(small, PatchAttack()).batch(np.arange(4), CPU)
    budget = patch_budget(batch, SHARE, ThreatModel(norm="patch", epsilons=(SHARE,), region=region))
    side = patch_side(SHARE, small.SIDE, small.SIDE)
    assert budget.region is not None
    assert budget.region.flatten(1).sum(dim=1).tolist() == [side**2] * 4
    inside = batch.region(ThreatModel(region=region))
    assert inside is None or bool((inside | ~budget.region).all())
    assert str(budget) == "one square of 6 % of the image"
    assert budget.select(torch.tensor([2])).region.equal(budget.region[2:3])  # type: ignore[union-attr]
    nothing = patch_budget(batch, 0.001, ThreatModel(norm="patch", epsilons=(0.001,)))
    assert not bool(nothing.region.any())  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_short_search_for_a_patch_fails_and_says_what_felled_its_survivors(small: ModuleType, tmp_path: Path) -> None:
    checks = checked(small, tmp_path, PatchAttack(num_promising=0, num_random=1, num_steps=1))
    steps = checks["loss against steps"]
    assert steps.outcome is not Outcome.SKIP
    assert "one square of 6 % of the image" in steps.finding
    felled = checks["survivors misclassified"]
    assert felled.outcome is Outcome.FAIL, felled.finding
    assert "gradients" in felled.finding or "other places" in felled.finding


@pytest.mark.slow
def test_a_long_search_for_a_patch_on_an_honest_system_fails_no_check_of_the_search(small: ModuleType, tmp_path: Path) -> None:
    checks = checked(small, tmp_path, PatchAttack(num_promising=6, num_random=8, num_steps=60))
    failed = {name: check.finding for name, check in checks.items() if check.outcome is Outcome.FAIL}
    assert failed == {}
