"""Systems of the user's own in an ablation: built and tried before anything is trained, so that a mistake costs no training, and
attacked as the arms of the grid are."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import AttackJob, common_settings
from pipeline.ablation.job import ImageCounts, Materials, Passes
from pipeline.ablation.passes import attack_passes
from pipeline.data.dataset import open_prepared
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.devices import choose_device
from pipeline.evaluation.evaluate import order_of_attacks
from pipeline.evaluation.own_system import build_own, load_own, system_digest
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


def build_systems(config: AblateConfig) -> dict[str, str]:
    """Build every system, twice; by import path its digest (``system_digest``), by which a finished evaluation is found again.

    Raises ConfigError, which names the system: its path leads nowhere, it cannot be built, or it is another one at every call.
    """
    digests = {}
    for own in config.systems:
        try:
            digest, again = (system_digest(own.system, build_own(own.system)) for _ in range(2))
        except ConfigError as error:
            raise ConfigError(f"systems: {own.name}: {error}") from error
        if digest != again:
            raise ConfigError(
                f"systems: {own.name}: system={own.system}: has other weights at every call, so no evaluation of it could be found"
                " again: load them from a file, or set the seed in the function"
            )
        digests[own.system] = digest
    return digests


def try_systems(config: AblateConfig, prepared: Path) -> None:
    """Ask every system about the first images of the data. Raises ConfigError: the outputs are no logits of the data's classes."""
    if not config.systems:
        return
    dataset, device = open_prepared(prepared, verify=False), choose_device(config.evaluation.accelerator)
    for own in config.systems:
        try:
            load_own(own.system, dataset=dataset, device=device)
        except ConfigError as error:
            raise ConfigError(f"systems: {own.name}: {error}") from error
