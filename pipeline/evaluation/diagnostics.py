"""The sanity report of an evaluation: the diagnostics of ``attacks.sanity``, and what can be told from records alone."""

import numpy as np
import polars as pl
import torch

from pipeline.attacks import diagnostics
from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.attacks.outside import SquareAttack
from pipeline.attacks.runner import run_attack
from pipeline.attacks.specs import GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Region
from pipeline.evaluation.evaluator import EvaluationRun, Store
from pipeline.evaluation.metrics import standing
from pipeline.evaluation.own import OwnImages
from pipeline.evaluation.rescoring import rescore
from pipeline.evaluation.statistics import wilson

SQUARE_IMAGES = 16
SQUARE_QUERIES = 500


def sanity_checks(
    run: EvaluationRun | OwnImages, store: Store, records: pl.DataFrame, *, num_images: int, device: torch.device
) -> list[Check]:
    """Every check on the first ``num_images`` images that are right clean, at the middle one of the epsilons above 0.

    ``records`` are the finished ones of the run. Raises RunError for damaged or missing saved images.
    """
    batch = _right(run, run.rows, num_images, device)
    epsilons = [epsilon for epsilon in run.suite.threat.epsilons if epsilon > 0]
    checks = [_rescoring(run, store, device)]
    if batch is None or not epsilons:
        reason = "no image is classified right" if epsilons else "no epsilon is above 0"
        return [*checks, Check(name="attacks", outcome=Outcome.SKIP, finding=reason)]
    norm, epsilon = run.suite.threat.norm, epsilons[len(epsilons) // 2]
    if norm == "patch":
        skipped = Check(name="attacks", outcome=Outcome.SKIP, finding="they climb inside a norm ball, and the threat is a patch")
        return [*_of_gradients(batch), diagnostics.batch_invariance(batch), *checks, skipped]
    everywhere = run.suite.threat.region == Region.EVERYWHERE
    return [
        *_of_gradients(batch),
        diagnostics.loss_against_steps(batch, norm=norm, epsilon=epsilon),
        _square_against_white_box(run, records, min(SQUARE_IMAGES, num_images), device),
        diagnostics.soft_to_hard_transfer(batch, norm=norm, epsilon=epsilon),
        diagnostics.epsilon_zero(batch, norm=norm),
        diagnostics.epsilon_one(batch, norm=norm, region_everywhere=everywhere),
        diagnostics.batch_invariance(batch),
        *checks,
    ]


def _of_gradients(batch: AttackBatch) -> list[Check]:
    return [
        diagnostics.zero_gradients(batch, GradientPath.PIXELS),
        diagnostics.zero_gradients(batch, GradientPath.MASK),
        diagnostics.mask_saturation(batch),
    ]


def _square_against_white_box(
    run: EvaluationRun | OwnImages, records: pl.DataFrame, num_images: int, device: torch.device
) -> Check:
    """Search without gradients may not find what the suite has not found."""
    name, threat = "Square against white-box", run.suite.threat
    square = SquareAttack(num_queries=SQUARE_QUERIES)
    reason = square.why_skipped(run.batch(run.rows[:1], device).conditions(threat))
    if reason is not None:
        return Check(name=name, outcome=Outcome.SKIP, finding=reason)
    for epsilon in sorted((epsilon for epsilon in threat.epsilons if epsilon > 0), reverse=True):
        robust = standing(records, epsilon).filter("standing")["sample_id"]
        if len(robust):
            break
    else:
        return Check(name=name, outcome=Outcome.SKIP, finding="no image is robust to the suite at any epsilon")
    survivors = set(robust)
    rows = run.rows[[sample_id in survivors for sample_id in run.sample_ids(run.rows)]][:num_images]
    found = run_attack(
        "sanity-square",
        square,
        run.batch(rows, device),
        threat=threat,
        epsilon=epsilon,
        run_seed=run.seed,
        batch_size=run.batch_size,
    )
    wrong, tried = int(found.misclassified.sum()), len(found.misclassified)
    failed = wrong > 0.05 * tried
    most = wilson(wrong, tried).high
    return Check(
        name=name,
        outcome=Outcome.FAIL if failed else Outcome.PASS,
        finding=f"{wrong} of {tried} images that were robust to the suite at epsilon {epsilon:.4g} fell to {SQUARE_QUERIES} queries"
        f" (so up to {most:.0%} of all such images may)",
        advice="the gradients mislead: put square into the suite and find out what hides them" if failed else "",
        figures={"misclassified": wrong, "tried": tried, "epsilon": epsilon},
    )


def _rescoring(run: EvaluationRun | OwnImages, store: Store, device: torch.device) -> Check:
    name = "re-scoring of saved images"
    if isinstance(run, OwnImages) or not run.save_images:
        return Check(name=name, outcome=Outcome.SKIP, finding="no adversarial images were saved; say save_images=true")
    again = rescore(run, store, device=device)
    failed = bool(again.changed)
    return Check(
        name=name,
        outcome=Outcome.FAIL if failed else Outcome.PASS,
        finding=f"{len(again.changed)} of {again.num_images} outcomes changed; largest change of a margin"
        f" {again.largest_difference:.1e}",
        advice=f"the system or the files are not what was recorded (first: {again.changed[0]}): evaluate again" if failed else "",
        figures={"images": again.num_images, "changed": len(again.changed), "largest_difference": again.largest_difference},
    )


def _right(run: EvaluationRun | OwnImages, rows: np.ndarray, num_images: int, device: torch.device) -> AttackBatch | None:
    """The first images that are classified right clean; None where there is none."""
    right: list[int] = []
    for begin in range(0, len(rows), run.batch_size):
        some = rows[begin : begin + run.batch_size]
        chunk = run.chunk(some, device)
        right += some[chunk.clean_correct].tolist()
        if len(right) >= num_images:
            break
    return run.batch(np.array(right[:num_images]), device) if right else None
