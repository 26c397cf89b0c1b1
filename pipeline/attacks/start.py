"""A batch to attack, and one start of one attack on it: all that a search is given.

All random numbers follow from (the image's seed, the run's seed, the attack's name, the start), so neither the batch, nor an
interruption, nor which other attacks ran before changes what is found.
"""

import zlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.attacks.eot import made_up_seeds
from pipeline.attacks.norms import Ball, ball_of
from pipeline.attacks.regions import region_masks
from pipeline.attacks.specs import Conditions
from pipeline.attacks.threat import Norm, Region, ThreatModel
from pipeline.attacks.tracker import Observer
from pipeline.attacks.two_stage import GuideMasks
from pipeline.masks.context import MaskContext
from pipeline.randomness import derive_seeds
from pipeline.shapes import Images, Indices, Labels, Logits, Regions, Seeds
from pipeline.system import System, attacked, traits_of


@dataclass(frozen=True, kw_only=True)
class AttackBatch:
    """A system and the images that it is attacked on."""

    system: System
    """The inner module, not a wrapper of Fabric or DDP. In float32 or wider."""
    images: Images
    """Clean, in [0,1]."""
    labels: Labels
    context: MaskContext | None
    """What the system needs besides the images, of the clean images (``system.clean_context``). Regions take its oracle masks."""
    seeds: Seeds
    """One per image, from its identity alone."""
    guides: GuideMasks | None = None
    """A fixed pool for ``steal``."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Indices) -> "AttackBatch":
        """Some of the images, in the order of ``indices``."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            context=None if self.context is None else self.context.select(indices),
            seeds=self.seeds[indices],
        )

    def conditions(self, threat: ThreatModel) -> Conditions:
        """What decides whether an attack applies."""
        return Conditions(
            traits=traits_of(self.system),
            threat=threat,
            image_shape=(self.images.shape[2], self.images.shape[3]),
            has_guides=self.guides is not None,
            has_oracle=self.context is not None and self.context.oracle_masks is not None,
        )

    def region(self, threat: ThreatModel) -> Regions | None:
        """True where the attacker may change the image; None is everywhere. Raises ValueError where that needs oracle masks."""
        if threat.region == Region.EVERYWHERE:
            return None
        if self.context is None or self.context.oracle_masks is None:
            raise ValueError(f"the region {threat.region.value!r} needs oracle masks, and the context has none")
        return region_masks(threat.region, self.context.oracle_masks, radius=threat.region_radius)


@torch.no_grad()
def clean_logits(batch: AttackBatch) -> Logits:
    """What the system says of the images as they are."""
    with attacked(batch.system):
        logits: Tensor = batch.system(batch.images, batch.context)
    return logits


@dataclass(frozen=True, kw_only=True)
class AttackStart:
    """One start of one attack."""

    batch: AttackBatch
    threat: ThreatModel
    epsilon: float
    number: int
    """Of the start, from 0."""
    num_classes: int
    run_seed: int
    name: str
    """Of the attack in its suite."""
    observer: Observer | None = None
    """Told of the points that a search of a gradient visits."""

    @property
    def seeds(self) -> Int64[Tensor, " batch"]:
        """What decides the random numbers of this start: the one place where they are derived."""
        return derive_seeds(self.batch.seeds, self.run_seed, zlib.crc32(self.name.encode()), self.number)

    @property
    def region(self) -> Regions | None:
        """True where the attacker may change the image; None is everywhere."""
        return self.batch.region(self.threat)

    @property
    def norm(self) -> Norm:
        """Of the ball that an attacker keeps to. Raises ValueError where the threat is no ball."""
        if self.threat.norm == "patch":
            raise ValueError("a patch is no norm ball: only attacks of the kind patch keep to it")
        return self.threat.norm

    @property
    def ball(self) -> Ball:
        """Where the attacker may search."""
        return ball_of(self.norm, self.batch.images, self.epsilon, self.region)

    @property
    def hides_seeds(self) -> bool:
        """The attacker lacks a seed that the system uses."""
        return self.batch.conditions(self.threat).hides_seeds

    @property
    def known_context(self) -> MaskContext | None:
        """The context as far as the attacker knows it."""
        return made_up_seeds(self.batch.context, 0) if self.hides_seeds else self.batch.context
