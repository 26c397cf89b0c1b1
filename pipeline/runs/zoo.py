"""The zoo: exported systems behind published figures, by name.

What there is and what it was shown to do stands in ``zoo.json``, which is part of the package; the systems themselves lie in a
directory of their own, which is not in the wheel: docs/results/zoo of a checkout, or what ``FOREGUARD_ZOO`` names. The SHA-256 of a
system's ``system.json`` is pinned, and that file pins every other one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import CheckpointError, ConfigError
from pipeline.runs.files import JsonFile, file_sha256

SCHEME = "zoo:"
VARIABLE = "FOREGUARD_ZOO"
INDEX = Path(__file__).with_name("zoo.json")
LARGEST, LARGEST_SUM = 10_000_000, 25_000_000
"""Bytes of one system, and of all in the repository."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure: how many images of how many were right at an epsilon; 0 is not attacked."""

    epsilon: float
    right: int
    images: int


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A system of the zoo, and what its figures are bound to."""

    about: str
    """For people: which arm of which ablation."""
    sha256: str
    """Of its ``system.json``."""
    data: str
    """Name of the source of its data."""
    recipe: dict[str, Any]
    """How they were prepared, as their manifest has it."""
    data_fingerprint: str
    attack: dict[str, Any]
    """Threat model and attacks of the figures, as configured."""
    split: str
    max_images: int | None
    seed: int
    """Of the random starts."""
    figures: tuple[Published, ...]
    """Ascending in epsilon, not attacked first."""

    def is_bound_to(self, *, fingerprint: str, settings: Mapping[str, Any]) -> bool:
        """Whether an evaluation with this configuration, of data with this fingerprint, is the one that its figures are of."""
        ours = {"attack": self.attack, "split": self.split, "max_images": self.max_images, "seed": self.seed}
        return fingerprint == self.data_fingerprint and all(settings.get(key) == value for key, value in ours.items())


@dataclass(frozen=True, kw_only=True)
class ZooIndex(JsonFile):
    """``zoo.json``."""

    REMEDY: ClassVar[str] = "install foreguard again"

    systems: dict[str, ZooEntry]


def read_index() -> dict[str, ZooEntry]:
    """Every system of the zoo by its name, whether or not it lies on this machine. Raises RunError: damaged."""
    return ZooIndex.read(INDEX).systems


def zoo_directory() -> Path:
    """Where the systems lie, if they are here."""
    return Path(os.environ.get(VARIABLE) or Path(__file__).resolve().parents[2] / "docs" / "results" / "zoo")


def find(address: str) -> tuple[Path, ZooEntry]:
    """The directory of ``zoo:NAME``, and what is published of it.

    Raises ConfigError for a name that there is not, CheckpointError where the system is not on this machine or is another one.
    """
    from pipeline.runs.exported import EXPORTED  # here, so that a configuration that names the scheme does not import torch

    systems, name = read_index(), address.removeprefix(SCHEME)
    if name not in systems:
        raise ConfigError(f"{address}: is not in the zoo; it has {', '.join(systems)}")
    path, entry = zoo_directory() / name, systems[name]
    if not (path / EXPORTED).is_file():
        raise CheckpointError(
            f"{path}: is not there: systems of the zoo come with the repository (docs/results/zoo), not with the package; set"
            f" {VARIABLE} to the directory that holds them"
        )
    if file_sha256(path / EXPORTED) != entry.sha256:
        raise CheckpointError(f"{path / EXPORTED}: is not the one that was published (its SHA-256 differs from the pinned one)")
    return path, entry
