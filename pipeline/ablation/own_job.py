"""The job that attacks a system of the user's own, as the arms of the grid are attacked."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import AttackJob, common_settings
from pipeline.ablation.job import ImageCounts, Materials, Passes
from pipeline.ablation.passes import attack_passes
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import order_of_attacks
from pipeline.masks.traits import MaskTraits

_ANY_MASK = MaskTraits(source="its own", follows_image=True)
"""How costly its mask makes the attacks, at most: what it is, only the system itself says."""


@dataclass(frozen=True, kw_only=True)
class OwnJob(AttackJob):
    """Attack a system of the user's own under one seed, which decides the random starts of the attacks and nothing else."""

    name: str
    system: str
    """Its import path."""
    seed: int

    @property
    def title(self) -> str:
        return f"{self.name} ({self.system}), seed {self.seed}"

    @property
    def slug(self) -> str:
        return f"{self.name}-seed{self.seed}".replace(" ", "-")

    @property
    def alike(self) -> tuple[object, ...]:
        """Every system takes its own time."""
        return ("own", self.system)

    def config(self, materials: Materials, run: Path) -> EvaluateConfig:
        return EvaluateConfig(
            **common_settings(materials, run),
            system=self.system,
            attack=materials.ablation.attack,
            seed=self.seed,
            sanity=materials.ablation.evaluation.sanity is not None,
        )

    def inputs(self, materials: Materials) -> dict[str, str]:
        """Data set, the system's state, and the order of the attacks."""
        state = {"system": materials.systems[self.system]}
        return super().inputs(materials) | state | order_of_attacks(materials.ablation.attack)

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        """Of the whole suite, if nothing falls. What is inside of the system nobody knows: it counts as one stage."""
        return attack_passes(ablation, ablation.attack, _ANY_MASK, counts, stages=1)
