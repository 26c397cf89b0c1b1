"""The one loop over the starts of an attack: full batches, images that are misclassified leave, what is found is judged afresh.

Neither its batch nor the attacks before have any part in what an attack finds for an image, so its verdict is the same as if every
attack had been run to its end on it alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pipeline.attacks.specs import AttackSpec
from pipeline.attacks.start import AttackBatch, AttackStart, clean_logits
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import ThreatModel
from pipeline.attacks.tracker import BestPoint, Observer, Verdict, of_batch, verdict
from pipeline.errors import ConfigError
from pipeline.shapes import Images, Scores
from pipeline.system import System, attacked


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an attack found, in the order of the images."""

    images: Images
    """The point with the largest margin that was found (perhaps the image itself)."""
    margins: Scores
    """Largest other logit minus the label's at that point, scored afresh."""
    misclassified: Bool[Tensor, " batch"]
    """The system misclassifies that point."""


def run_attack(
    name: str,
    spec: AttackSpec,
    batch: AttackBatch,
    *,
    threat: ThreatModel,
    epsilon: float,
    run_seed: int,
    batch_size: int | None = None,
    stop_at_success: bool = True,
    warm_start: Images | None = None,
    copy: System | None = None,
    observer: Observer | None = None,
) -> AttackResult:
    """The worst case of each image over all starts of one attack.

    Args:
        name: part of the seed: another name draws other starts.
        spec: the attack. It has to apply to the system (``specs.AttackSpec.inapplicable``).
        batch: any number of images, which are attacked ``batch_size`` at a time (None: all together).
        threat: what the attacker may change, but for its epsilons.
        epsilon: largest norm of the perturbation; at 0 nothing is run.
        run_seed: the other part of the seed.
        batch_size: images in a batch. Changes speed and memory, and verdicts no more than rounding does.
        stop_at_success: an image leaves at the first misclassified point; else all starts are run to their end and the point with
            the largest margin is kept, for galleries and transfer.
        warm_start: a point of a smaller ball for each image: descent with a fixed step tries it as one more start.
        copy: what gradients are taken of in place of the system (``acceleration.attacked_copy``). Success is decided by the system.
        observer: told of the points that searches of a gradient visit start by start, a batch at a time; of the queue that images
            leave at their first success, of attacks without a gradient and of other libraries it hears nothing.

    A success is counted by the point that is returned, scored afresh. Raises what the attacks raise: ValueError for one that does
    not apply, FloatingPointError for a NaN score or gradient.
    """
    size = batch_size or max(1, len(batch))
    if epsilon == 0 or not len(batch):
        return _judged(batch, size)
    num_classes = clean_logits(batch.select(torch.zeros_like(batch.seeds[:1]))).shape[1]
    searched = batch if copy is None or spec.needs_exact_logits else replace(batch, system=copy)
    start = AttackStart(
        batch=searched,
        threat=threat,
        epsilon=epsilon,
        number=0,
        num_classes=num_classes,
        run_seed=run_seed,
        name=name,
        observer=observer,
    )
    if stop_at_success:
        points = spec.run_over_a_queue(start, batch, batch_size=size, warm_start=warm_start)
        if points is not None:
            return _judged(replace(batch, images=points), size)
    found = _Worst(batch, size)
    for number in range(spec.num_starts(num_classes)):
        robust = (~found.misclassified).nonzero().flatten()
        waiting = robust if stop_at_success else torch.arange(len(batch), device=batch.labels.device)
        for part in in_batches(waiting, size):
            with of_batch(part):
                found.add(run_start(spec, replace(start, batch=searched.select(part), number=number), batch.system), part)
    return found.result()


def run_start(spec: AttackSpec, start: AttackStart, judge: System) -> AttackResult:
    """What one start finds, scored afresh by ``judge``: the system itself, of which the start may attack a faster copy."""
    with attacked(start.batch.system):
        points = spec.run(start)
    return _judged(replace(start.batch, system=judge, images=points), len(points))


def skipped_attacks(suite: AttackSuite, batch: AttackBatch) -> dict[str, str]:
    """The attacks of a suite that say nothing about a system, and why. Raises ConfigError where none is left."""
    conditions = batch.conditions(suite.threat)
    reasons = {name: spec.why_skipped(conditions) for name, spec in suite.attacks.items()}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(skipped) == len(reasons):
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ConfigError(f"attack.attacks: none applies to this system, which would pass for robust ({why})")
    return skipped


def in_batches(rows: Int64[Tensor, " rows"], size: int) -> Iterator[Int64[Tensor, " batch"]]:
    """Row numbers in batches, none of them empty."""
    return (part for part in torch.split(rows, size) if len(part))


class _Worst:
    """The worst case of each image so far: a ``BestPoint`` by the margin."""

    def __init__(self, batch: AttackBatch, batch_size: int) -> None:
        as_it_is = _judged(batch, batch_size)
        self._best = BestPoint(batch.images)
        self.misclassified = torch.zeros_like(as_it_is.misclassified)
        self.add(as_it_is, torch.arange(len(batch), device=batch.labels.device))

    def add(self, found: AttackResult, rows: Int64[Tensor, " some"]) -> None:
        """Take note of what was found for some of the images."""
        # Of two equally large logits the first is the answer: a misclassified point may have a margin of 0, and counts as more.
        tiny = torch.finfo(found.margins.dtype).tiny
        self._best.update(found.images, torch.where(found.misclassified, found.margins.clamp_min(tiny), found.margins), rows)
        self.misclassified[rows] |= found.misclassified

    def result(self) -> AttackResult:
        return AttackResult(images=self._best.points, margins=self._best.values, misclassified=self.misclassified)


def _judged(batch: AttackBatch, batch_size: int) -> AttackResult:
    """The images of a batch, scored."""
    everything = torch.arange(len(batch), device=batch.labels.device)
    verdicts = [_verdict(batch, part) for part in in_batches(everything, batch_size)]
    return AttackResult(
        images=batch.images,
        margins=torch.cat([one.margins for one in verdicts]) if verdicts else batch.images.new_zeros(0),
        misclassified=torch.cat([one.misclassified for one in verdicts]) if verdicts else everything.bool(),
    )


def _verdict(batch: AttackBatch, rows: Tensor) -> Verdict:
    part = batch.select(rows)
    with of_batch(rows):
        return verdict(part.system, part.images, part.labels, part.context)
