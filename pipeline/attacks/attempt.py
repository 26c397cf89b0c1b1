"""One start of one attack of a suite: from its specification to the points it finds.

All random numbers follow from (the image's seed, the run's seed, the attack's name, the start), so neither the batch, nor an
interruption, nor which other attacks ran before changes what is found.
"""

import zlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.attacks.apgd import apgd
from pipeline.attacks.autoattack import autoattack, square
from pipeline.attacks.eot import made_up_seeds, over_hidden_seeds
from pipeline.attacks.objectives import class_score
from pipeline.attacks.pgd import pgd_l2, pgd_linf
from pipeline.attacks.regions import Region, region_masks
from pipeline.attacks.specs import (
    AttackSpec,
    AutoAttack,
    ClassAttack,
    GuidedAttack,
    MaskAttack,
    Search,
    SquareAttack,
    ThreatModel,
    hides_seeds,
)
from pipeline.attacks.tracker import Judged, Witness
from pipeline.attacks.two_stage import GuideMasks, SystemObjective, guided, mask_targets
from pipeline.masks.context import MaskContext
from pipeline.randomness import derive_seeds
from pipeline.system import System, attacked, with_attackable_mask


@dataclass(frozen=True, kw_only=True)
class Victims:
    """A system and the images that it is attacked on."""

    system: System
    """The inner module, not a wrapper of Fabric or DDP. In float32 or wider."""
    images: Float[Tensor, "batch 3 height width"]
    """Clean, in [0,1]."""
    labels: Int64[Tensor, " batch"]
    context: MaskContext | None
    """What the system needs besides the images, of the clean images (``system.clean_context``). Regions take its oracle masks."""
    seeds: Int64[Tensor, " batch"]
    """One per image, from its identity alone."""
    guides: GuideMasks | None = None
    """A fixed pool for ``steal``."""

    def select(self, indices: Int64[Tensor, " kept"]) -> "Victims":
        """Some of the images, in the order of ``indices``."""
        return replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            context=None if self.context is None else self.context.select(indices),
            seeds=self.seeds[indices],
        )


@torch.no_grad()
def clean_logits(victims: Victims) -> Float[Tensor, "batch classes"]:
    """What the system says of the images as they are."""
    with attacked(victims.system):
        logits: Tensor = victims.system(victims.images, victims.context)
    return logits


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of one attack."""

    spec: AttackSpec
    victims: Victims
    threat: ThreatModel
    epsilon: float
    start: int
    num_classes: int
    run_seed: int
    name: str

    def search(self) -> Tensor:
        """The best-judged point visited for each image, in the ball."""
        match self.spec:
            case ClassAttack(search=search, num_steps=num_steps):
                return self._climb(self._averaged(self._class_objective(self.spec)), search, num_steps)
            case MaskAttack(search=search, num_steps=num_steps):
                return self._climb(self._averaged(self._mask_objective(self.spec)), search, num_steps)
            case GuidedAttack():
                return self._guided(self.spec)
            case SquareAttack(num_queries=num_queries):
                return square(
                    self.victims.system,
                    self.victims.images,
                    self.victims.labels,
                    self.victims.context,
                    norm=self.threat.norm,
                    epsilon=self.epsilon,
                    seeds=self._seeds,
                    num_queries=num_queries,
                    region=self._region,
                )
            case AutoAttack(attacks=attacks, num_queries=num_queries):
                return autoattack(
                    self.victims.system,
                    self.victims.images,
                    self.victims.labels,
                    self.victims.context,
                    norm=self.threat.norm,
                    epsilon=self.epsilon,
                    seeds=self._seeds,
                    attacks=attacks,
                    num_queries=num_queries,
                    region=self._region,
                )

    def _climb(self, objective: Judged, search: Search, num_steps: int) -> Tensor:
        images, witness = self.victims.images, Witness(self.victims.images)
        watched = witness.watch(objective)
        if search == "apgd":
            apgd(
                watched,
                images,
                norm=self.threat.norm,
                epsilon=self.epsilon,
                num_steps=num_steps,
                region=self._region,
                seeds=self._seeds,
            )
        else:
            pgd = pgd_linf if self.threat.norm == "linf" else pgd_l2
            pgd(watched, images, epsilon=self.epsilon, num_steps=num_steps, region=self._region, seeds=self._seeds)
        return witness.best

    def _guided(self, spec: GuidedAttack) -> Tensor:
        mask_alone = MaskAttack(goal=spec.goal)
        return guided(
            self._averaged(self._mask_objective(mask_alone)),
            self._averaged(self._class_objective(ClassAttack(loss=spec.loss))),
            self.victims.images,
            norm=self.threat.norm,
            epsilon=self.epsilon,
            mask_steps=spec.mask_steps,
            class_steps=spec.class_steps,
            region=self._region,
            seeds=self._seeds,
        )

    def _class_objective(self, spec: ClassAttack) -> SystemObjective:
        targeted = spec.num_targets > 0
        return SystemObjective(
            system=self.victims.system,
            labels=self.victims.labels,
            context=self.victims.context,
            class_score=class_score(spec.loss, num_classes=self.num_classes, targeted=targeted),
            target_labels=self._target_labels(self.start // spec.restarts) if targeted else None,
            path=spec.path,
            soft=spec.gate == "soft",
        )

    def _mask_objective(self, spec: MaskAttack) -> SystemObjective:
        victims, staged = self.victims, with_attackable_mask(self.victims.system)
        assert staged is not None, "the suite leaves out what does not apply"
        return SystemObjective(
            system=victims.system,
            labels=victims.labels,
            context=victims.context,
            class_score=None if spec.loss is None else class_score(spec.loss, num_classes=self.num_classes),
            mask_targets=mask_targets(spec.goal, staged, victims.images, victims.labels, self._known_context, victims.guides),
            mask_weight=spec.weight,
        )

    def _averaged(self, objective: SystemObjective) -> Judged:
        if not hides_seeds(self.threat, self.victims.system.mask_traits):
            return objective
        return over_hidden_seeds(objective, num_draws=self.threat.num_draws)

    def _target_labels(self, rank: int) -> Tensor:
        """The wrong class of that rank, by the logits of the clean image."""
        logits = clean_logits(replace(self.victims, context=self._known_context))
        wrong = logits.scatter(1, self.victims.labels[:, None], -torch.inf)
        return wrong.argsort(dim=1, descending=True, stable=True)[:, rank]

    @property
    def _known_context(self) -> MaskContext | None:
        """The context as far as the attacker knows it."""
        if hides_seeds(self.threat, self.victims.system.mask_traits):
            return made_up_seeds(self.victims.context, 0)
        return self.victims.context

    @property
    def _seeds(self) -> Tensor:
        return derive_seeds(self.victims.seeds, self.run_seed, zlib.crc32(self.name.encode()), self.start)

    @property
    def _region(self) -> Tensor | None:
        if self.threat.region is Region.EVERYWHERE:
            return None
        context = self.victims.context
        if context is None or context.oracle_masks is None:
            raise ValueError(f"the region {self.threat.region.value!r} needs oracle masks, and the context has none")
        return region_masks(self.threat.region, context.oracle_masks, radius=self.threat.region_radius)
