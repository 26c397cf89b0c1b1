"""Systems of the user's own in an ablation: built and tried before anything is trained, so that a mistake costs no training."""

from pathlib import Path

from pipeline.ablation.config import AblateConfig
from pipeline.data.dataset import open_prepared
from pipeline.errors import ConfigError
from pipeline.evaluation.devices import choose_device
from pipeline.evaluation.own_system import build_own, load_own, system_digest


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
