"""What a job of an ablation is: one run in a directory of the store, found again by what it was made from.

A kind of job is a class here below. It says how its run is configured, what it reads, how it is done, what it found and what it
costs; whoever plans, runs and lists jobs knows no kinds. To add one: a class, and its family in ``grid.FAMILIES``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pipeline.ablation.config import AblateConfig
from pipeline.attacks.specs import Passes as Passes
from pipeline.runs.checkpoints import StageKind, weights_digest


class ImageCounts(NamedTuple):
    """How much data there is."""

    train: int
    val: int
    test: int
    classes: int
    for_segmenters: int = 0
    """That train segmenters and nothing else."""


class Fold(NamedTuple):
    """One fold of a cross-validation."""

    number: int
    """From 0."""
    of: int

    @property
    def title(self) -> str:
        """``, fold 2 of 5``, counted as people do."""
        return f", fold {self.number + 1} of {self.of}"

    @property
    def slug(self) -> str:
        """``-fold2of5``, likewise."""
        return f"-fold{self.number + 1}of{self.of}"


class DataView(NamedTuple):
    """Which data set a job reads: the prepared one, or what is made of it."""

    silhouettes: bool = False
    """Every image is its own mask."""
    fold: Fold | None = None
    """Split by this fold."""


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a job is made from."""

    ablation: AblateConfig
    prepared: Path
    """The prepared data set that the job reads."""
    data_fingerprint: str
    """Of that data set."""
    finished: "Mapping[Job, JobState]"
    """The jobs that it needs."""
    systems: Mapping[str, str]
    """By import path, the digest of the state of each system of the user's own."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """How far a job is, with all that it is made from at hand."""

    job: "Job"
    config: Any
    """The configuration of its run."""
    materials: Materials
    inputs: dict[str, str]
    """Fingerprints of what it reads, as the run itself records them."""
    fingerprint: str
    path: Path
    """Its directory, there or not."""
    begun: bool
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """A piece of work that is one run. Equal jobs of one ablation are one job."""

    kind: ClassVar[str]
    """In one word; the store keeps jobs of a kind together, in a folder of its plural."""
    command: ClassVar[str]
    """What the run calls itself in its ``run.json``."""
    result: ClassVar[str]
    """The file that a finished run has."""
    verb: ClassVar[str]
    """What is done to it: train, attack, decompose."""
    divisible: ClassVar[bool] = False
    """Several processes can do it together, where the ablation is shared."""

    @property
    @abstractmethod
    def title(self) -> str:
        """In words, and another one for every job of a kind."""

    @property
    @abstractmethod
    def slug(self) -> str:
        """The readable part of a directory name."""

    @property
    def stages(self) -> "Mapping[StageKind, Job]":
        """The trainings whose weights it reads."""
        return {}

    @property
    def needs(self) -> "tuple[Job, ...]":
        """What has to be finished before, in order: the stages, each after what it needs itself."""
        return tuple(dict.fromkeys(job for stage in self.stages.values() for job in (*stage.needs, stage)))

    @property
    def data(self) -> DataView:
        """The data set that it reads."""
        return DataView()

    @property
    def alike(self) -> tuple[object, ...]:
        """JSON-able, and equal for jobs of the kind that should take equally long: all of them, unless the kind says otherwise."""
        return ()

    @abstractmethod
    def config(self, materials: Materials, run: Path) -> Any:
        """The configuration of its run in the directory ``run``: for a command, what a person would have typed."""

    def inputs(self, materials: Materials) -> dict[str, str]:
        """Fingerprints of what it reads, as its run records them: of the data set and of the stages' weights."""
        weights: dict[str, str] = {kind: weights_digest(materials.finished[job].path, kind) for kind, job in self.stages.items()}
        return {"data set": materials.data_fingerprint, **weights}

    def is_finished(self, path: Path, config: Any) -> bool:  # noqa: ARG002  for kinds to which it matters
        """Whether the run in a directory came to the end that this configuration asks for."""
        return (path / self.result).is_file()

    @abstractmethod
    def run(self, state: JobState) -> None:
        """Begin the run, or continue it, and bring it to its end.

        Raises UserError of the kind that fits, OccupiedError where another process is at it.
        """

    @abstractmethod
    def finding(self, path: Path) -> str:
        """What a finished run found, in one line. Raises RunError where its result cannot be read."""

    @abstractmethod
    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        """At most so many passes through a stage does it cost, of all images and both stages together."""
