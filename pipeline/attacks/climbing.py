"""How the attacks that climb a gradient run: from the settings in ``specs`` to an objective, and from there to the best point."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.attacks.apgd import apgd
from pipeline.attacks.eot import over_hidden_seeds
from pipeline.attacks.objectives import class_score
from pipeline.attacks.pgd import pgd_in
from pipeline.attacks.specs import ClassAttack, GuidedAttack, MaskAttack, Search
from pipeline.attacks.start import AttackBatch, AttackStart, clean_logits
from pipeline.attacks.streaming import streamed_pgd
from pipeline.attacks.tracker import BestPoint, MarginObjective, of_batch, verdict
from pipeline.attacks.two_stage import SystemObjective, guided, mask_targets
from pipeline.shapes import Images, Indices, Scores
from pipeline.system import attacked, with_attackable_mask


def climb_class_score(spec: ClassAttack, start: AttackStart) -> Images:
    """The point with the largest margin that one start of the attack visits: a search from a random point, for one target where
    there are any."""
    return _climb(start, class_objective(spec, start), spec.search, spec.num_steps)


def climb_mask_score(spec: MaskAttack, start: AttackStart) -> Images:
    """The point with the largest margin that one start of the attack visits."""
    return _climb(start, _mask_objective(spec, start), spec.search, spec.num_steps)


def climb_guided(spec: GuidedAttack, start: AttackStart) -> Images:
    """The point with the largest margin that the two searches of one start visit."""
    return guided(
        as_known(_mask_objective(MaskAttack(goal=spec.goal), start), start),
        as_known(class_objective(ClassAttack(loss=spec.loss), start), start),
        start.batch.images,
        norm=start.norm,
        epsilon=start.epsilon,
        mask_steps=spec.mask_steps,
        class_steps=spec.class_steps,
        region=start.region,
        seeds=start.seeds,
        observer=start.observer,
    )


def climb_over_a_queue(
    spec: ClassAttack, start: AttackStart, judge: AttackBatch, *, batch_size: int, warm_start: Images | None
) -> Images:
    """What all starts of the attack find for any number of images, each of which leaves when ``judge`` misclassifies it.

    ``judge`` is the batch with the system itself, where that of the start is a faster copy.
    """
    objective: MarginObjective = class_objective(spec, start)
    if judge.system is not start.batch.system:
        objective = Confirmed(objective=objective, judge=judge, rows=torch.arange(len(judge), device=judge.labels.device))
    seeds = torch.stack([replace(start, number=number).seeds for number in range(spec.restarts)])
    with attacked(start.batch.system):
        return streamed_pgd(
            objective, start.ball, seeds=seeds, batch_size=batch_size, num_steps=spec.num_steps, warm_start=warm_start
        )


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """An objective of a copy of the system whose successes are asked of the system itself, before an image leaves for one."""

    objective: MarginObjective
    judge: AttackBatch
    rows: Int64[Tensor, " batch"]
    """Which images of the judge's the objective is of."""

    def __call__(self, images: Images) -> Scores:
        return self.objective(images)

    def scores_and_margins(self, images: Images) -> tuple[Scores, Scores]:
        """The scores of the copy; its margins where it classifies right, the system's where it claims a success."""
        scores, margins = self.objective.scores_and_margins(images)
        claimed = margins > 0
        if claimed.any():
            batch = self.judge.select(self.rows[claimed])
            with of_batch(claimed.nonzero().flatten()):
                own = verdict(batch.system, images.detach()[claimed], batch.labels, batch.context).margins
            margins = margins.masked_scatter(claimed, own.to(margins))
        return scores, margins

    def select(self, indices: Indices) -> "Confirmed":
        """The same objective for some images of the batch, in the order of ``indices``."""
        return replace(self, objective=self.objective.select(indices), rows=self.rows[indices])


def _climb(start: AttackStart, objective: SystemObjective, search: Search, num_steps: int) -> Tensor:
    best, known = BestPoint(start.batch.images, start.observer), as_known(objective, start)
    tracked, images, region, seeds = best.track(known), start.batch.images, start.region, start.seeds
    epsilon = start.epsilon
    if search == "apgd":
        apgd(tracked, images, norm=start.norm, epsilon=epsilon, num_steps=num_steps, region=region, seeds=seeds, explored=known)
    else:
        pgd_in(start.norm, tracked, images, epsilon=epsilon, num_steps=num_steps, region=region, seeds=seeds)
    return best.points


def class_objective(spec: ClassAttack, start: AttackStart) -> SystemObjective:
    """What an attack on the class climbs."""
    targeted = spec.num_targets > 0
    return SystemObjective(
        system=start.batch.system,
        labels=start.batch.labels,
        context=start.batch.context,
        class_score=class_score(spec.loss, num_classes=start.num_classes, targeted=targeted),
        target_labels=_target_labels(start, start.number // spec.restarts) if targeted else None,
        path=spec.path,
        soft=spec.gate == "soft",
    )


def _mask_objective(spec: MaskAttack, start: AttackStart) -> SystemObjective:
    batch, staged = start.batch, with_attackable_mask(start.batch.system)
    assert staged is not None, "the suite leaves out what does not apply"
    return SystemObjective(
        system=batch.system,
        labels=batch.labels,
        context=batch.context,
        class_score=None if spec.loss is None else class_score(spec.loss, num_classes=start.num_classes),
        mask_targets=mask_targets(spec.goal, staged, batch.images, batch.labels, start.known_context, batch.guides),
        mask_weight=spec.weight,
    )


def as_known(objective: SystemObjective, start: AttackStart) -> MarginObjective:
    """The objective, or its expectation over the seeds that the attacker does not know."""
    return over_hidden_seeds(objective, num_draws=start.threat.num_draws) if start.hides_seeds else objective


def _target_labels(start: AttackStart, rank: int) -> Tensor:
    """The wrong class of that rank, by the logits of the clean image."""
    logits = clean_logits(replace(start.batch, context=start.known_context))
    wrong = logits.scatter(1, start.batch.labels[:, None], -torch.inf)
    return wrong.argsort(dim=1, descending=True, stable=True)[:, rank]
