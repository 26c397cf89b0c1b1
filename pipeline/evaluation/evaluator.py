"""Attack a system with a suite, chunk by chunk, recording outcomes as they are made. Killed at any moment, it goes on where it was.

Batches stay full. An image that is misclassified clean is never attacked, one that has fallen is attacked no more (unless
``keep_all``), and what is left of the chunk is packed into full batches before every start of every attack; in plain projected
gradient descent even before every step (``attacks.streaming``). The verdict of an image is the one it would have got alone.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.attacks.acceleration import Precision, attacked_copy
from pipeline.attacks.attempt import Attempt, Victims
from pipeline.attacks.norms import l2_ball, linf_ball
from pipeline.attacks.objectives import class_score
from pipeline.attacks.regions import Region, region_masks
from pipeline.attacks.runner import Found, clean, num_starts, skipped_attacks, tried
from pipeline.attacks.specs import AttackSpec, AttackSuite, AutoAttack, ClassAttack, SquareAttack, ThreatModel, hides_seeds
from pipeline.attacks.streaming import streamed_pgd
from pipeline.attacks.tracker import verdict
from pipeline.attacks.two_stage import GuideMasks, SystemObjective
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import read_rows
from pipeline.evaluation.chunks import Chunk, batches, norms
from pipeline.evaluation.records import RecordStore, Unit
from pipeline.randomness import derive_seeds
from pipeline.system import System, attacked

_TOLERANCE = 1e-6
"""By how much of its radius a point may lie outside the ball before that is called a bug."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is evaluated, and with what."""

    system: System
    """On its device, in float32."""
    system_id: str
    """Goes into the records: a digest of weights and mask settings."""
    dataset: PreparedDataset
    rows: Int64[np.ndarray, " images"]
    """Images, in the order in which they are attacked: ``chunks.choose_rows``."""
    suite: AttackSuite
    seed: int
    batch_size: int
    """Images in a batch. Changes speed and memory, and verdicts no more than rounding does."""
    chunk_size: int
    """Images in a part. A killed evaluation repeats one attack on one chunk at most."""
    keep_all: bool
    """Attack every image that is right clean with every attack, to its end: for galleries and transfer."""
    save_images: bool
    guides: GuideMasks | None = None
    precision: Precision = "float32"
    """Of gradient searches. Whether an image has fallen is asked of the system itself, in its own precision, always."""

    @property
    def num_chunks(self) -> int:
        return -(-len(self.rows) // self.chunk_size)

    def units(self, chunk: int) -> list[Unit]:
        """The parts of a chunk, in the order in which they are made."""
        epsilons, attacks = range(len(self.suite.threat.epsilons)), range(len(self.suite.attacks))
        return [Unit(chunk, epsilon, attack) for epsilon in epsilons for attack in attacks]


def attack_images(plan: Plan, store: RecordStore, *, device: torch.device, advance: Callable[[int], None]) -> None:
    """Make every record that is missing. ``advance`` is told of finished records.

    Raises RunError where the store cannot be written or is damaged, ConfigError where no attack applies to the system, and what the
    attacks raise.
    """
    recorded = store.units()
    copy = attacked_copy(plan.system, read_rows(plan.dataset, plan.rows[:1]).to(device).images, precision=plan.precision)
    for number in range(plan.num_chunks):
        rows = plan.rows[number * plan.chunk_size : (number + 1) * plan.chunk_size]
        units = plan.units(number)
        if not recorded.issuperset(units):
            chunk = Chunk(plan.system, plan.dataset, rows, batch_size=plan.batch_size, device=device, guides=plan.guides)
            _attack_chunk(plan, store, chunk, units, recorded, copy, advance)
        if not plan.save_images:
            store.discard_images(iter(units))


def applicable(plan: Plan, *, device: torch.device) -> tuple[AttackSuite, dict[str, str]]:
    """The suite without the attacks that say nothing about the system, and those with the reasons. Raises ConfigError."""
    chunk = Chunk(plan.system, plan.dataset, plan.rows[:1], batch_size=1, device=device, guides=plan.guides)
    skipped = skipped_attacks(plan.suite, chunk.victims)
    kept = {name: spec for name, spec in plan.suite.attacks.items() if name not in skipped}
    return replace(plan.suite, attacks=kept), skipped


def _attack_chunk(
    plan: Plan,
    store: RecordStore,
    chunk: Chunk,
    units: list[Unit],
    recorded: set[Unit],
    copy: System,
    advance: Callable[[int], None],
) -> None:
    for unit in units:
        name, spec = list(plan.suite.attacks.items())[unit.attack]
        epsilon = plan.suite.threat.epsilons[unit.epsilon]
        if unit in recorded:
            images = store.read_images(unit) if _needed(plan, unit, recorded) else None
            chunk.absorb(store.read(unit, attack=name, epsilon=epsilon), images)
            continue
        positions = chunk.to_attack(keep_all=plan.keep_all) if epsilon > 0 else torch.zeros(0, dtype=torch.int64)
        positions = positions.to(chunk.victims.labels.device)
        began = time.monotonic()
        points = _attack(plan, chunk, copy, name, spec, epsilon, positions)
        seconds = time.monotonic() - began
        about: dict[str, object] = {
            "system": plan.system_id,
            "mask_source": plan.system.mask_traits.source,
            "norm": plan.suite.threat.norm,
            "region": plan.suite.threat.region.value,
            "seed": plan.seed,
        }
        records = chunk.records(name, epsilon, positions, points, seconds=seconds, about=about)
        images = points.float().contiguous().cpu().numpy()
        store.write(unit, records, images)
        chunk.absorb(records, images)
        if not plan.save_images and unit.epsilon > 0:
            store.discard_images(iter([unit._replace(epsilon=unit.epsilon - 1)]))
        advance(len(chunk))


def _needed(plan: Plan, unit: Unit, recorded: set[Unit]) -> bool:
    """Whether a later epsilon starts from what this part found."""
    following = unit._replace(epsilon=unit.epsilon + 1)
    return following.epsilon < len(plan.suite.threat.epsilons) and following not in recorded


def _attack(plan: Plan, chunk: Chunk, copy: System, name: str, spec: AttackSpec, epsilon: float, positions: Tensor) -> Tensor:
    """What an attack finds for some images of the chunk, or found at a smaller epsilon where that was better."""
    victims = chunk.victims.select(positions)
    if not len(positions):
        return victims.images
    below = chunk.best_below(name)
    found = run_in_batches(
        name,
        spec,
        victims,
        threat=plan.suite.threat,
        epsilon=epsilon,
        run_seed=plan.seed,
        num_classes=plan.dataset.num_classes,
        batch_size=plan.batch_size,
        settle=not plan.keep_all,
        below=None if below is None else below[0][positions],
        copy=copy,
    )
    _check_inside(name, found.images, victims, plan.suite.threat, epsilon)
    if below is None:
        return found.images
    margins = torch.from_numpy(below[1]).to(found.margins)[positions]
    better = ~found.fallen & (margins > found.margins)
    return torch.where(better.view(-1, 1, 1, 1), below[0][positions], found.images)


def run_in_batches(
    name: str,
    spec: AttackSpec,
    victims: Victims,
    *,
    threat: ThreatModel,
    epsilon: float,
    run_seed: int,
    num_classes: int,
    batch_size: int,
    settle: bool = True,
    below: Float[Tensor, "images 3 height width"] | None = None,
    copy: System | None = None,
) -> Found:
    """``running.run_attack`` on any number of images, in full batches: the same verdict for every image.

    With ``settle`` an image that has fallen leaves, else all starts are run to their end and the largest margin is kept. ``below``
    holds points of a smaller ball: descent with a fixed step tries them as one more start. ``copy`` is what gradients are taken
    of instead of the system (``acceleration.attacked_copy``); what has fallen is decided by the system.
    """
    streamable = isinstance(spec, ClassAttack) and spec.search == "pgd" and not spec.num_targets
    if settle and streamable and not hides_seeds(threat, victims.system.mask_traits):
        assert isinstance(spec, ClassAttack)
        return _stream(name, spec, victims, threat, epsilon, run_seed, num_classes, batch_size, below, copy)
    found = _clean(victims, batch_size)
    asks_for_logits = isinstance(spec, SquareAttack | AutoAttack)  # they count on exact ones
    searched = victims if copy is None or asks_for_logits else replace(victims, system=copy)
    for start in range(num_starts(spec, num_classes)):
        standing = (
            (~found.fallen).nonzero().flatten() if settle else torch.arange(len(victims.labels), device=victims.labels.device)
        )
        for batch in batches(len(standing), batch_size, standing.device):
            rows = standing[batch]
            attempt = Attempt(
                spec=spec,
                victims=searched.select(rows),
                threat=threat,
                epsilon=epsilon,
                start=start,
                num_classes=num_classes,
                run_seed=run_seed,
                name=name,
            )
            found = found.improved(rows, tried(attempt, victims.system))
    return found


def _stream(
    name: str,
    spec: ClassAttack,
    victims: Victims,
    threat: ThreatModel,
    epsilon: float,
    run_seed: int,
    num_classes: int,
    batch_size: int,
    below: Tensor | None,
    copy: System | None,
) -> Found:
    def confirm(points: Tensor, indices: Tensor) -> Tensor:
        some = victims.select(indices)
        return verdict(victims.system, points, some.labels, some.context).margins

    objective = SystemObjective(
        system=victims.system if copy is None else copy,
        labels=victims.labels,
        context=victims.context,
        class_score=class_score(spec.loss, num_classes=num_classes),
        path=spec.path,
        soft=spec.gate == "soft",
    )
    key = zlib.crc32(name.encode())
    seeds = torch.stack([derive_seeds(victims.seeds, run_seed, key, start) for start in range(spec.restarts)])
    ball = (linf_ball if threat.norm == "linf" else l2_ball)(victims.images, epsilon, _region(victims, threat))
    with attacked(objective.system):
        searched = streamed_pgd(
            objective,
            ball,
            seeds=seeds,
            batch_size=batch_size,
            num_steps=spec.num_steps,
            starts=below,
            confirm=None if copy is None else confirm,
        )
    return _clean(replace(victims, images=searched.points), batch_size)


def _clean(victims: Victims, batch_size: int) -> Found:
    parts = [clean(victims.select(rows)) for rows in batches(len(victims.labels), batch_size, victims.labels.device)]
    return Found(
        images=victims.images,
        margins=torch.cat([part.margins for part in parts]),
        fallen=torch.cat([part.fallen for part in parts]),
    )


def _region(victims: Victims, threat: ThreatModel) -> Tensor | None:
    if threat.region is Region.EVERYWHERE:
        return None
    assert victims.context is not None
    assert victims.context.oracle_masks is not None
    return region_masks(threat.region, victims.context.oracle_masks, radius=threat.region_radius)


def _check_inside(name: str, points: Tensor, victims: Victims, threat: ThreatModel, epsilon: float) -> None:
    """An attack is not trusted with its own constraint. A violation is a bug, not a result."""
    linf, l2 = norms(points, victims.images)
    largest = float((linf if threat.norm == "linf" else l2).max())
    region = _region(victims, threat)
    outside = 0.0 if region is None else float((points - victims.images).abs().masked_fill(region, 0).max())
    inside_range = bool((points >= 0).all() and (points <= 1).all())
    if largest > epsilon * (1 + _TOLERANCE) or outside > 0 or not inside_range:
        raise RuntimeError(
            f"the attack {name!r} left its threat model: {threat.norm} norm {largest:.6g} of {epsilon:.6g}, "
            f"changed by {outside:.3g} outside its region, inside [0,1]: {inside_range}"
        )
