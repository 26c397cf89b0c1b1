"""Attack a system with a suite, chunk by chunk, recording outcomes as they are made. Killed at any moment, it goes on where it was.

Batches stay full. An image that is misclassified clean is never attacked, one that an attack has made so is attacked no more
(unless ``attack_all``), and what is left of the chunk is packed into full batches before every start of every attack; in plain
projected gradient descent even before every step (``attacks.streaming``). The verdict of an image is the one it would have got
alone.
"""

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.attacks.acceleration import Precision, copy_to_search
from pipeline.attacks.patches import patch_share
from pipeline.attacks.runner import AttackResult, run_attack, skipped_attacks
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import ThreatModel
from pipeline.attacks.tracker import of_batch
from pipeline.attacks.two_stage import GuideMasks
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import read_rows
from pipeline.evaluation.chunks import Chunk, attack_batch, norms
from pipeline.evaluation.records import MemoryStore, RecordStore, Unit
from pipeline.runs.sharing import Turns, alone
from pipeline.system import System, context_of

_TOLERANCE = 1e-6
"""By how much of its radius a point may lie outside the ball before that is called a bug."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """With what a system is attacked, whatever the images."""

    system: System
    """On its device, in float32."""
    system_id: str
    """Goes into the records: a digest of weights and mask settings."""
    suite: AttackSuite
    seed: int
    batch_size: int
    """Images in a batch. Changes speed and memory, and verdicts no more than rounding does."""
    attack_all: bool = False
    """Attack every image that is right clean with every attack, to its end: for galleries and transfer."""
    save_images: bool = False
    guides: GuideMasks | None = None
    precision: Precision = "float32"
    """Of gradient searches. Whether an image is misclassified is asked of the system itself, in its own precision, always."""

    def units(self, chunk: int) -> list[Unit]:
        """The parts of a chunk, in the order in which they are made."""
        epsilons, attacks = range(len(self.suite.threat.epsilons)), range(len(self.suite.attacks))
        return [Unit(chunk, epsilon, attack) for epsilon in epsilons for attack in attacks]

    def attack(self, unit: Unit) -> tuple[str, float]:
        """Name and epsilon of the attack that a part is made by."""
        return list(self.suite.attacks)[unit.attack], self.suite.threat.epsilons[unit.epsilon_index]


@dataclass(frozen=True, kw_only=True)
class EvaluationRun(EvaluationSettings):
    """An evaluation on images of a prepared data set."""

    dataset: PreparedDataset
    rows: Int64[np.ndarray, " images"]
    """Images, in the order in which they are attacked: ``chunks.choose_rows``."""
    chunk_size: int
    """Images in a part. A killed evaluation repeats one attack on one chunk at most."""

    @property
    def num_chunks(self) -> int:
        """Number of chunks, the last of which may be smaller."""
        return -(-len(self.rows) // self.chunk_size)

    def chunk_rows(self, number: int) -> Int64[np.ndarray, " chunk"]:
        """The rows of a chunk."""
        return self.rows[number * self.chunk_size : (number + 1) * self.chunk_size]

    def sample_ids(self, rows: Int64[np.ndarray, " images"]) -> list[str]:
        """What the images are known by."""
        ids: list[str] = self.dataset.samples["sample_id"].gather(rows).to_list()
        return ids

    def batch(self, rows: Int64[np.ndarray, " images"], device: torch.device) -> AttackBatch:
        """Some images of the data set, ready to be attacked."""
        read = read_rows(self.dataset, rows).to(device)
        context = context_of(read)
        return attack_batch(self.system, read.images, read.labels, context, guides=self.guides, batch_size=self.batch_size)

    def chunk(self, rows: Int64[np.ndarray, " images"], device: torch.device) -> Chunk:
        """Some images of the data set, and what is known of them before any attack."""
        groups = self.dataset.samples["group"].gather(rows).to_list()
        return Chunk(self.batch(rows, device), sample_ids=self.sample_ids(rows), groups=groups, batch_size=self.batch_size)


Store = RecordStore | MemoryStore
"""Where parts are kept: on the disk, or for a moment."""


def missing_chunks(run: EvaluationRun, store: Store) -> list[int]:
    """Chunks that lack a record."""
    recorded = store.units()
    return [number for number in range(run.num_chunks) if not recorded >= set(run.units(number))]


def missing_records(run: EvaluationRun, store: Store) -> int:
    """How many records are still to be made."""
    recorded = store.units()
    missing = (unit for number in range(run.num_chunks) for unit in run.units(number) if unit not in recorded)
    return sum(len(run.chunk_rows(unit.chunk)) for unit in missing)


def attack_images(
    run: EvaluationRun, store: Store, *, device: torch.device, advance: Callable[[int], object], turns: Turns = alone
) -> None:
    """Make every record that is missing. ``advance`` is told of finished records; ``turns`` says which chunks this process does.

    Raises RunError where the store cannot be written or is damaged, ConfigError where no attack applies to the system, and what the
    attacks raise.
    """
    first = run.batch(run.rows[:1], device)
    copy = copy_to_search(run.system, first.images, first.context, precision=run.precision)

    def attack(number: int) -> None:
        units = run.units(number)
        chunk = run.chunk(run.chunk_rows(number), device)
        attack_chunk(run, store, chunk, units, copy, recorded=store.units(), advance=advance)
        if not run.save_images:
            store.discard_images(iter(units))

    turns(lambda: missing_chunks(run, store), attack)
    if not run.save_images:
        store.discard_images(unit for number in range(run.num_chunks) for unit in run.units(number))


def applicable(suite: AttackSuite, batch: AttackBatch) -> tuple[AttackSuite, dict[str, str]]:
    """The suite without the attacks that say nothing about the system, and those with the reasons. Raises ConfigError."""
    skipped = skipped_attacks(suite, batch)
    kept = {name: spec for name, spec in suite.attacks.items() if name not in skipped}
    return replace(suite, attacks=kept), skipped


def attack_chunk(
    settings: EvaluationSettings,
    store: Store,
    chunk: Chunk,
    units: Sequence[Unit],
    copy: System,
    *,
    recorded: AbstractSet[Unit] = frozenset(),
    advance: Callable[[int], object],
) -> None:
    """Every attack at every epsilon on some images, from the smallest epsilon on: the one loop over a suite.

    ``units`` are those of ``EvaluationSettings.units`` for the chunk; what is ``recorded`` is taken from the store. ``copy`` is
    what gradients are taken of (``acceleration.attacked_copy``, or the system itself).
    """
    for unit in units:
        name, epsilon = settings.attack(unit)
        if unit in recorded:
            following = unit._replace(epsilon_index=unit.epsilon_index + 1)  # starts from what this part found
            is_needed = following.epsilon_index < len(settings.suite.threat.epsilons) and following not in recorded
            images = store.read_images(unit) if is_needed else None
            chunk.absorb(store.read(unit, attack=name, epsilon=epsilon), images)
            continue
        positions = chunk.to_attack(attack_all=settings.attack_all) if epsilon > 0 else chunk.to_attack(attack_all=False)[:0]
        began = time.monotonic()
        points = _attack(settings, chunk, copy, name, epsilon, positions)
        about: dict[str, object] = {
            "system": settings.system_id,
            "mask_source": settings.system.mask_traits.source,
            "norm": settings.suite.threat.norm,
            "region": settings.suite.threat.region.value,
            "seed": settings.seed,
        }
        records = chunk.records(name, epsilon, positions, points, seconds=time.monotonic() - began, about=about)
        images = points.float().contiguous().cpu().numpy()
        store.write(unit, records, images)
        chunk.absorb(records, images)
        if not settings.save_images and unit.epsilon_index > 0:
            store.discard_images(iter([unit._replace(epsilon_index=unit.epsilon_index - 1)]))
        advance(len(chunk))


def _attack(settings: EvaluationSettings, chunk: Chunk, copy: System, name: str, epsilon: float, positions: Tensor) -> Tensor:
    """What an attack finds for some images of the chunk, or found at a smaller epsilon where that was better."""
    batch = chunk.batch.select(positions)
    if not len(positions):
        return batch.images
    before = chunk.best_before(name, positions)
    with chunk.naming(), of_batch(positions):
        found = attack_again(settings, name, epsilon, batch, copy=copy, warm_start=None if before is None else before[0])
    _check_inside(name, found.images, batch, settings.suite.threat, epsilon)
    if before is None:
        return found.images
    images, margins = before
    better = ~found.misclassified & (margins.to(found.margins) > found.margins)
    return torch.where(better.view(-1, 1, 1, 1), images, found.images)


def attack_again(
    settings: EvaluationSettings,
    name: str,
    epsilon: float,
    batch: AttackBatch,
    *,
    copy: System | None = None,
    warm_start: Tensor | None = None,
) -> AttackResult:
    """What an attack of the suite finds for some images at one epsilon."""
    return run_attack(
        name,
        settings.suite.attacks[name],
        batch,
        threat=settings.suite.threat,
        epsilon=epsilon,
        run_seed=settings.seed,
        batch_size=settings.batch_size,
        stop_at_success=not settings.attack_all,
        warm_start=warm_start,
        copy=copy,
    )


def _check_inside(name: str, points: Tensor, batch: AttackBatch, threat: ThreatModel, epsilon: float) -> None:
    """An attack is not trusted with its own constraint. A violation is a bug, not a result."""
    if threat.norm == "patch":
        largest = float(patch_share(points, batch.images).max())
    else:
        largest = float(norms(points, batch.images)[threat.norm].max())
    region = batch.region(threat)
    outside = 0.0 if region is None else float((points - batch.images).abs().masked_fill(region, 0).max())
    inside_range = bool((points >= 0).all() and (points <= 1).all())
    if largest > epsilon * (1 + _TOLERANCE) or outside > 0 or not inside_range:
        raise RuntimeError(
            f"the attack {name!r} left its threat model: {threat.norm} norm {largest:.6g} of {epsilon:.6g}, "
            f"changed by {outside:.3g} outside its region, inside [0,1]: {inside_range}"
        )
