"""The sanity report of an evaluation: the diagnostics of ``attacks.sanity``, and what can be told from records alone."""

import numpy as np
import polars as pl
import torch

from pipeline.attacks import diagnostics as sanity
from pipeline.attacks.attempt import Victims
from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.attacks.regions import Region
from pipeline.attacks.specs import SquareAttack, inapplicable
from pipeline.attacks.two_stage import GradientPath
from pipeline.evaluation.chunks import Chunk
from pipeline.evaluation.evaluator import Plan, run_in_batches
from pipeline.evaluation.metrics import standing
from pipeline.evaluation.records import RecordStore
from pipeline.evaluation.rescoring import rescore
from pipeline.evaluation.statistics import wilson

SQUARE_IMAGES = 16
SQUARE_QUERIES = 500


def sanity_checks(plan: Plan, store: RecordStore, records: pl.DataFrame, *, num_images: int, device: torch.device) -> list[Check]:
    """Every check on the first ``num_images`` images that are right clean, at the middle one of the epsilons above 0.

    ``records`` are the finished ones of the plan. Raises RunError for damaged or missing saved images.
    """
    victims = _right(plan, plan.rows, num_images, device)
    epsilons = [epsilon for epsilon in plan.suite.threat.epsilons if epsilon > 0]
    checks = [_rescoring(plan, store, device)]
    if victims is None or not epsilons:
        reason = "no image is classified right" if epsilons else "no epsilon is above 0"
        return [*checks, Check(name="attacks", outcome=Outcome.SKIP, finding=reason)]
    norm, epsilon = plan.suite.threat.norm, epsilons[len(epsilons) // 2]
    everywhere = plan.suite.threat.region is Region.EVERYWHERE
    return [
        sanity.zero_gradients(victims, GradientPath.PIXELS),
        sanity.zero_gradients(victims, GradientPath.MASK),
        sanity.mask_saturation(victims),
        sanity.loss_against_steps(victims, norm=norm, epsilon=epsilon),
        _square_against_white_box(plan, records, min(SQUARE_IMAGES, num_images), device),
        sanity.soft_to_hard_transfer(victims, norm=norm, epsilon=epsilon),
        sanity.epsilon_zero(victims, norm=norm),
        sanity.epsilon_one(victims, norm=norm, region_everywhere=everywhere),
        sanity.batch_invariance(victims),
        *checks,
    ]


def _square_against_white_box(plan: Plan, records: pl.DataFrame, num_images: int, device: torch.device) -> Check:
    """Search without gradients may not fell what the suite left standing."""
    name, threat = "Square against white-box", plan.suite.threat
    side = plan.dataset.image_size
    reason = inapplicable(
        SquareAttack(), plan.system.mask_traits, threat, image_shape=(side, side), has_guides=False, has_oracle=True
    )
    if reason is not None:
        return Check(name=name, outcome=Outcome.SKIP, finding=reason)
    for epsilon in sorted((epsilon for epsilon in threat.epsilons if epsilon > 0), reverse=True):
        stands = standing(records, epsilon).filter("standing")["sample_id"]
        if len(stands):
            break
    else:
        return Check(name=name, outcome=Outcome.SKIP, finding="the suite left no image standing at any epsilon")
    ids = plan.dataset.samples["sample_id"].gather(plan.rows)
    rows = plan.rows[ids.is_in(stands.to_list()).to_numpy()][:num_images]
    chunk = Chunk(plan.system, plan.dataset, rows, batch_size=plan.batch_size, device=device, guides=plan.guides)
    found = run_in_batches(
        "sanity-square",
        SquareAttack(num_queries=SQUARE_QUERIES),
        chunk.victims,
        threat=threat,
        epsilon=epsilon,
        run_seed=plan.seed,
        num_classes=plan.dataset.num_classes,
        batch_size=plan.batch_size,
    )
    fell, tried = int(found.fallen.sum()), len(found.fallen)
    failed = fell > 0.05 * tried
    most = wilson(fell, tried).high
    return Check(
        name=name,
        outcome=Outcome.FAIL if failed else Outcome.PASS,
        finding=f"{fell} of {tried} images that the suite left standing at epsilon {epsilon:.4g} fell to {SQUARE_QUERIES} queries"
        f" (so up to {most:.0%} of all such images may)",
        advice="the gradients mislead: put square into the suite and find out what hides them" if failed else "",
        figures={"fallen": fell, "tried": tried, "epsilon": epsilon},
    )


def _rescoring(plan: Plan, store: RecordStore, device: torch.device) -> Check:
    name = "re-scoring of saved images"
    if not plan.save_images:
        return Check(name=name, outcome=Outcome.SKIP, finding="no adversarial images were saved; say save_images=true")
    again = rescore(plan, store, device=device)
    failed = bool(again.changed)
    return Check(
        name=name,
        outcome=Outcome.FAIL if failed else Outcome.PASS,
        finding=f"{len(again.changed)} of {again.num_images} outcomes changed; largest change of a margin"
        f" {again.largest_difference:.1e}",
        advice=f"the system or the files are not what was recorded (first: {again.changed[0]}): evaluate again" if failed else "",
        figures={"images": again.num_images, "changed": len(again.changed), "largest_difference": again.largest_difference},
    )


def _right(plan: Plan, rows: np.ndarray, num_images: int, device: torch.device) -> Victims | None:
    """The first images that are classified right clean; None where there is none."""
    right: list[int] = []
    for begin in range(0, len(rows), plan.batch_size):
        some = rows[begin : begin + plan.batch_size]
        chunk = Chunk(plan.system, plan.dataset, some, batch_size=plan.batch_size, device=device, guides=plan.guides)
        right += some[chunk.clean_correct].tolist()
        if len(right) >= num_images:
            break
    if not right:
        return None
    chosen = np.array(right[:num_images], dtype=np.int64)
    return Chunk(plan.system, plan.dataset, chosen, batch_size=plan.batch_size, device=device, guides=plan.guides).victims
