"""The sanity report of an evaluation: the diagnostics of ``attacks.diagnostics``, held against what was recorded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import polars as pl
import torch

from pipeline.attacks.diagnostics import gradient_free, search
from pipeline.attacks.diagnostics.check import Check, Outcome, judged, skipped
from pipeline.attacks.diagnostics.differences import gradients_against_differences, gradients_reach
from pipeline.attacks.diagnostics.from_boundary import descent_reaches_boundary, search_from_boundary
from pipeline.attacks.diagnostics.gradients import finite_numbers, zero_gradients
from pipeline.attacks.diagnostics.masking import mask_follows_image, mask_saturation, pixels_decide, shifted_images
from pipeline.attacks.diagnostics.places import other_places, patch_budget
from pipeline.attacks.diagnostics.probing import (
    NUM_STEPS,
    Budget,
    Images,
    climb,
    climb_to_targets,
    fresh_copy,
    half_precision,
    logits_of,
    objective,
    probe_points,
)
from pipeline.attacks.diagnostics.sameness import same_answers
from pipeline.attacks.outside import SquareAttack
from pipeline.attacks.patch_attack import PatchAttack
from pipeline.attacks.specs import ClassAttack, GradientPath
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Region, ThreatModel
from pipeline.evaluation.against_records import records_repeat, successes_stand, survivors_misclassified
from pipeline.evaluation.constant_predictor import constant_predictor
from pipeline.evaluation.evaluator import EvaluationRun, Store
from pipeline.evaluation.inputs import doubt_about_logits
from pipeline.evaluation.leakage import VALIDATION, against_validation
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.own import OwnImages
from pipeline.evaluation.rescoring import rescore

SQUARE_IMAGES, MOST_QUERIES, QUERIES_PER_IMAGE = 16, 1000, 32
"""Square's queries grow with the images that are asked for, so that a first look stays cheap."""
DECISION_IMAGES, DECISION_STEPS, DECISION_PROBES = 4, 4, 60
SAMENESS_IMAGES = 16
ASKED = 17
"""Questions about a system: of the system, of a search on it, and two of its records."""


@dataclass(frozen=True, kw_only=True)
class _Examination:
    """What the checks of one evaluation share."""

    run: EvaluationRun | OwnImages
    records: pl.DataFrame
    num_images: int
    device: torch.device
    epsilon: float

    @property
    def threat(self) -> ThreatModel:
        """Of the evaluation."""
        return self.run.suite.threat

    def batch(self, rows: np.ndarray) -> tuple[AttackBatch, Budget]:
        """Some images, and what may be changed of them."""
        batch = self.run.batch(rows, self.device)
        if self.threat.norm == "patch":
            return batch, patch_budget(batch, self.epsilon, self.threat)
        return batch, Budget(norm=self.threat.norm, epsilon=self.epsilon, region=batch.region(self.threat))

    def survivors(self) -> np.ndarray:
        """The first of the images that the records leave standing."""
        robust = set(robust_images(self.records, self.epsilon).filter("robust")["sample_id"])
        return self.run.rows[[one in robust for one in self.run.sample_ids(self.run.rows)]][: self.num_images]


def sanity_checks(
    run: EvaluationRun | OwnImages,
    store: Store,
    records: pl.DataFrame,
    *,
    num_images: int,
    device: torch.device,
    epsilon: float | None = None,
    class_names: Sequence[str] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> list[Check]:
    """Every check on the first ``num_images`` images that are right clean, and on as many of those that the records leave standing.

    ``records`` are the finished ones of the run, ``epsilon`` the one that the figure is about; None is the largest one at which an
    image stands, else the largest. ``advance`` is called up to ``ASKED`` times, whenever one more question is answered. Raises
    RunError for damaged or missing saved images.
    """
    checks = [constant_predictor(records, class_names), _rescoring(run, store, device)]
    checks += _numbers_or_failure(VALIDATION, lambda: [against_validation(run, records, device)])
    rows = _right(run, num_images, device)
    epsilons = [one for one in run.suite.threat.epsilons if one > 0]
    if not len(rows) or not epsilons:
        return [*checks, skipped("attacks", "no epsilon is above 0" if len(rows) else "no image is classified right")]
    batch, ids = run.batch(rows, device), run.sample_ids(rows)
    checks.append(records_repeat(ids, batch, records))
    standing = (one for one in sorted(epsilons, reverse=True) if robust_images(records, one)["robust"].any())
    chosen = epsilon if epsilon in epsilons else next(standing, max(epsilons))
    examination = _Examination(run=run, records=records, num_images=num_images, device=device, epsilon=chosen)
    batch, budget = examination.batch(rows)
    first = _to_mend_first(batch)
    return [
        *_answers(_of_the_system(batch, budget, ids, run.batch_size), advance, first),
        *_answers(_of_the_search(examination, batch, budget), advance, first),
        *_of_the_records(examination, advance),
        *checks,
    ]


Asked = dict[str, Callable[[], list[Check]]]
"""Questions by what they are about."""


def _answers(asked: Asked, advance: Callable[[], object], first: str | None) -> Iterator[Check]:
    for name, ask in asked.items():
        for check in _numbers_or_failure(name, ask):
            failed = check.outcome == Outcome.FAIL and first is not None
            yield replace(check, advice=f"{first}; where it fails then too: {check.advice}") if failed else check
        advance()


def _to_mend_first(batch: AttackBatch) -> str | None:
    """What hides gradients without anybody's intent, and is sooner mended than looked for by what a check says of its kind."""
    types = " and ".join(half_precision(batch))
    if types:
        return f"it computes in {types} inside, whose rounding hides what small steps do: attack it in float32, without autocast"
    return doubt_about_logits(logits_of(batch))


def _of_the_system(batch: AttackBatch, budget: Budget, ids: Sequence[str], batch_size: int) -> Asked:
    """What can be asked without an attack."""
    few = batch.select(torch.arange(min(len(batch), SAMENESS_IMAGES), device=batch.labels.device))
    places = cache(partial(probe_points, batch, budget))

    def places_of_few() -> dict[str, Images]:
        return {name: points[: len(few)] for name, points in places().items()}

    return {
        "finite numbers": lambda: [finite_numbers(batch, places, ids)],
        "zero gradients": lambda: [zero_gradients(batch, path, places) for path in (GradientPath.PIXELS, GradientPath.MASK)],
        "gradients against differences": lambda: [gradients_against_differences(batch, places)],
        "mask saturation": lambda: [mask_saturation(batch)],
        "same answers": lambda: [*same_answers(few, places_of_few, company=batch_size)],
        "mask follows image": lambda: [mask_follows_image(batch, places)],
        "pixels decide": lambda: [pixels_decide(batch, places)],
        "shifted images": lambda: [shifted_images(batch)],
    }


def _of_the_search(examination: _Examination, batch: AttackBatch, budget: Budget) -> Asked:
    """Whether a search gets anywhere, on images that are right clean."""
    everywhere = examination.run.suite.threat.region == Region.EVERYWHERE
    steps = [spec.num_steps for spec in examination.run.suite.attacks.values() if isinstance(spec, ClassAttack | PatchAttack)]
    num_steps = max(steps, default=NUM_STEPS)
    return {
        "loss against steps": lambda: [search.loss_against_steps(batch, budget, num_steps=num_steps)],
        "gradients reach": lambda: [gradients_reach(batch, budget)],
        "search from the boundary": lambda: [
            descent_reaches_boundary(batch, budget, search_from_boundary(batch, budget).distances)
        ],
        "search against verdict": lambda: [search.search_against_verdict(batch, budget)],
        "soft-to-hard transfer": lambda: [search.soft_to_hard_transfer(batch, budget)],
        "epsilon 0": lambda: [search.epsilon_zero(batch, norm=budget.norm)],
        "epsilon 1": lambda: [search.epsilon_one(batch, norm=budget.norm, region_everywhere=everywhere)],
    }


def _of_the_records(examination: _Examination, advance: Callable[[], object]) -> list[Check]:
    """What other searches find on the images that are robust under the suite, and whether its successes hold."""
    run = examination.run
    names = ["smoothed gradients", "Square against white-box", "survivors misclassified"]
    rows = examination.survivors()
    stand = _numbers_or_failure(
        "successes stand",
        lambda: [successes_stand(run, examination.records, examination.epsilon, examination.num_images)],
    )
    advance()
    if run.batch(run.rows[:1], examination.device).conditions(run.suite.threat).hides_seeds:
        return [*(skipped(name, "it would know the seeds that the attacker does not") for name in names), *stand]
    if not len(rows):
        return [*(skipped(name, f"no image is robust at epsilon {examination.epsilon:.4g}") for name in names), *stand]
    return [*_numbers_or_failure("survivors misclassified", lambda: _second_opinions(examination, rows)), *stand]


def _second_opinions(examination: _Examination, rows: np.ndarray) -> list[Check]:
    batch, budget = examination.batch(rows)
    smoothed, points = search.smoothed_gradients(batch, budget)
    fresh = replace(batch, system=fresh_copy(batch.system))  # what was told by a system that was asked often it is told anew
    found = {
        "gradients": climb(objective(fresh), fresh, budget).points,
        "targeted gradients": climb_to_targets(batch, budget),
        "gradients in whole steps of 1/255": search.climb_in_whole_steps(batch, budget),
        "smoothed gradients": points,
        "search from the boundary": budget.reached(batch.images, search_from_boundary(batch, budget)),
    }
    is_patch = examination.threat.norm == "patch"
    if is_patch:
        found["other places"] = other_places(batch, examination.epsilon, examination.threat)
    checks = [smoothed]
    name = "Square against white-box"
    reason = None if is_patch else SquareAttack().why_skipped(batch.conditions(examination.threat))
    if reason is not None:
        checks.append(skipped(name, reason))
    else:
        # Beside survivors some images that gradients mislead: what Square reaches of them is its power.
        total = min(SQUARE_IMAGES, examination.num_images)
        surviving = rows[: max(1, total * 3 // 4)]
        mixed = np.concatenate([surviving, _misclassified(examination)[: total - len(surviving)]])
        few, few_budget = examination.batch(mixed)
        queries = min(MOST_QUERIES, QUERIES_PER_IMAGE * examination.num_images)
        queried = gradient_free.square_points(few, few_budget, num_queries=queries)
        checks.append(gradient_free.square_against_white_box(few, few_budget, queried, num_queries=queries))
        found["Square"] = queried[: len(surviving)]
    few, few_budget = examination.batch(rows[:DECISION_IMAGES])
    found["HopSkipJump"] = gradient_free.hop_skip_jump_points(few, few_budget, num_steps=DECISION_STEPS, max_probes=DECISION_PROBES)
    ids = examination.run.sample_ids(rows)
    return [*checks, survivors_misclassified(ids, batch, found, examination.records, examination.epsilon)]


def _misclassified(examination: _Examination) -> np.ndarray:
    """The first of the images that are right clean and misclassified at the epsilon."""
    records = examination.records
    misled = set(robust_images(records, examination.epsilon).filter(~pl.col("robust"))["sample_id"])
    right = set(records.filter(pl.col("clean_prediction") == pl.col("label"))["sample_id"])
    run, misclassified = examination.run, misled & right
    return run.rows[[one in misclassified for one in run.sample_ids(run.rows)]]


def _numbers_or_failure(name: str, ask: Callable[[], list[Check]]) -> list[Check]:
    """The checks, or that they met NaN or infinite values: which images, ``finite numbers`` says."""
    try:
        return ask()
    except FloatingPointError as error:
        advice = "a search from a NaN is blind: see finite numbers, and mend the system"
        return [judged(name, True, str(error), advice, {})]


def _rescoring(run: EvaluationRun | OwnImages, store: Store, device: torch.device) -> Check:
    name = "re-scoring of saved images"
    if isinstance(run, OwnImages) or not run.save_images:
        return skipped(name, "no adversarial images were saved; say save_images=true")
    again = rescore(run, store, device=device)
    return judged(
        name,
        bool(again.changed),
        f"{len(again.changed)} of {again.num_images} outcomes changed; largest change of a margin {again.largest_difference:.1e}",
        f"the system or the files are not what was recorded (first: {', '.join(again.changed[:1])}): evaluate again",
        {"images": again.num_images, "changed": len(again.changed), "largest_difference": again.largest_difference},
    )


def _right(run: EvaluationRun | OwnImages, num_images: int, device: torch.device) -> np.ndarray:
    """The first images that are classified right clean."""
    right: list[int] = []
    for begin in range(0, len(run.rows), run.batch_size):
        some = run.rows[begin : begin + run.batch_size]
        right += some[run.chunk(some, device).clean_correct].tolist()
        if len(right) >= num_images:
            break
    return np.array(right[:num_images], dtype=np.int64)
