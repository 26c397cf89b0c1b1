"""``ablation.json``: which evaluations, in which roles, an ablation consists of. Reports and predictions start from it."""

import dataclasses
import os
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field

from pipeline.ablation.cache import RunCache
from pipeline.ablation.config import MANIFEST, AblateConfig
from pipeline.ablation.decomposition import DECOMPOSED, ROWS, summary
from pipeline.ablation.evaluation_job import EvaluationJob, Role
from pipeline.ablation.gain import gain_rows
from pipeline.ablation.grid import arms, confined, decompositions, gain_systems, jobs, own_systems, silhouettes, transfers
from pipeline.ablation.job import Job, JobState
from pipeline.ablation.pooled_job import PooledJob
from pipeline.ablation.table_job import AGAIN, read_table, write_table
from pipeline.ablation.transfer_job import TRANSFER
from pipeline.attacks.threat import Region
from pipeline.config import to_plain
from pipeline.data.dataset import read_manifest
from pipeline.errors import RunError
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.runs.files import parse_json, read_sealed, write_json, write_sealed
from pipeline.runs.locking import locked
from pipeline.runs.provenance import provenance
from pipeline.training.result import RESULT, TrainingResult

FORMAT = 1
_REMEDY = "run ablate again with resume=true"
DECOMPOSITION, DECOMPOSITION_SUMMARY = "decomposition.parquet", "decomposition.json"

_Figure = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmEntry:
    """A finished arm. Paths are relative to the directory of the ablation; with folds the stages are the first one's."""

    name: str
    role: Role
    segmenter_objective: str | None
    """Of the segmenter in testing, else of that in training; None where no segmenter takes part."""
    classifier_objective: str
    train_masks: MaskSource
    test_masks: MaskSource
    masks: MaskConfig
    """Those of testing."""
    seed: int
    evaluation: str
    classifier: str
    segmenter: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnEntry:
    """A finished evaluation of a system of the user's own."""

    name: str
    system: str
    """Its import path."""
    seed: int
    """Of the attacks."""
    evaluation: str
    """Relative to the directory of the ablation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SilhouetteEntry:
    """What a classifier that sees the mask alone gets right."""

    seed: int
    split: str
    accuracy: Annotated[float, Field(strict=True, ge=0, le=1)]
    n: Annotated[int, Field(strict=True, ge=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GainEntry:
    """A level or a part of what the oracle's masks add, at one epsilon: see ``gain``. Shares of images, -1 to 1."""

    classifier_objective: str
    epsilon: float
    part: str
    value: float
    low: float
    high: float
    n: int
    groups: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfinedEntry:
    """A finished evaluation of an arm under an attacker who may change a part of the image. Paths are relative, as of arms."""

    arm: str
    """Its name."""
    budget: Literal["foreground", "background", "foreground-l2"]
    """Where the attacker may change the image; the last one at L2 lengths in place of largest changes, one for each epsilon."""
    evaluation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferEntry:
    """What all arms make of an arm's adversarial images."""

    arm: str
    """Its name."""
    rows: str
    """File of a table of ``transfer_job.TRANSFERRED``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedConfig:
    """What others than the ablation itself read of its configuration."""

    primary_epsilon: _Figure | None = None
    decomposition: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``ablation.json`` says."""

    experiment: str
    finished: bool = True
    arms: tuple[ArmEntry, ...]
    systems: tuple[OwnEntry, ...] = ()
    """Of the user's own."""
    silhouette: tuple[SilhouetteEntry, ...] | None = None
    decomposition: str | None = None
    """File of the table, relative too."""
    gain: tuple[GainEntry, ...] | None = None
    confined: tuple[ConfinedEntry, ...] = ()
    transfers: tuple[TransferEntry, ...] = ()
    config: RecordedConfig


def read_ablation(run: Path) -> tuple[Manifest, dict[str, Any]]:
    """What the directory of an ablation says about itself, checked, and the same as plain JSON. Raises RunError: it cannot be
    read, it is of another version or damaged."""
    path = run / MANIFEST
    try:
        content = read_sealed(path, version=FORMAT)
    except RunError as error:
        raise RunError(f"{error}; {_REMEDY}") from error
    return parse_json(path, content, Manifest, remedy=_REMEDY), content


def write_manifest(config: AblateConfig, cache: RunCache) -> None:
    """Write down all that is finished, one process after the other. Paths are relative to the directory of the ablation, which has
    to be there. Raises RunError."""
    with locked(config.run / ".manifest.lock", busy=None):
        write_sealed(config.run / MANIFEST, _content(config, cache), version=FORMAT)


def _content(config: AblateConfig, cache: RunCache) -> dict[str, Any]:
    todo = jobs(config)
    states = {job: state for job in todo if (state := cache.finished(job)) is not None}
    return {
        "experiment": config.experiment,
        "prepared": str(config.prepared),
        "finished": len(states) == len(todo),
        "arms": [_entry(config, arm, states) for arm in arms(config) if arm in states],
        "systems": [
            {"name": own.name, "system": own.system, "seed": own.seed, "evaluation": _relative(config, states[own])}
            for own in own_systems(config)
            if own in states
        ],
        "silhouette": _silhouettes(config, states),
        "gain": _gain(config, states),
        "confined": _confined(config, states),
        "transfers": [
            {"arm": job.arm.name, "rows": f"{_relative(config, states[job])}/{TRANSFER}"}
            for job in transfers(config)
            if job in states
        ],
        "decomposition": _write_decomposition(config, states),
        "config": to_plain(config),
        "seconds": _seconds(cache, states),
        "provenance": dataclasses.asdict(provenance()),
    }


def _entry(config: AblateConfig, arm: EvaluationJob | PooledJob, states: dict[Job, JobState]) -> dict[str, Any]:
    one = arm.example
    segmenter = one.segmenter or one.classifier.segmenter
    return {
        "name": arm.name,
        "role": arm.role,
        "segmenter_objective": segmenter.objective if segmenter else None,
        "classifier_objective": one.classifier.objective,
        "train_masks": one.classifier.masks.source.value,
        "test_masks": one.masks.source.value,
        "masks": to_plain(one.masks),
        "seed": one.seed,
        "evaluation": _relative(config, states[arm]),
        "classifier": _relative(config, states[one.classifier]),
        "segmenter": _relative(config, states[one.masked_by or segmenter]) if segmenter else None,
    }


def _relative(config: AblateConfig, state: JobState) -> str:
    return Path(os.path.relpath(state.path, config.run)).as_posix()


def _silhouettes(config: AblateConfig, states: dict[Job, JobState]) -> list[dict[str, Any]] | None:
    """For each seed, accuracy on the test split, or on the validation split where there is no test split; over all folds."""
    found = []
    for seed in config.seeds:
        of_seed = [job for job in silhouettes(config) if job.seed == seed]
        if of_seed and all(job in states for job in of_seed):
            results = [TrainingResult.read(states[job].path / RESULT) for job in of_seed]
            split = "test" if all(result.test for result in results) else "val"
            counts = [read_manifest(states[job].materials.prepared)["counts"][split] for job in of_seed]
            sizes = [sum(count.values()) for count in counts]
            shares = [(result.val if split == "val" else result.test or {})["accuracy"] for result in results]
            right = sum(n * share for n, share in zip(sizes, shares, strict=True))
            found.append({"seed": seed, "split": split, "accuracy": right / sum(sizes), "n": sum(sizes)})
    return found or None


def _gain(config: AblateConfig, states: dict[Job, JobState]) -> list[dict[str, Any]] | None:
    """For each classifier objective whose systems are finished under every seed, what the oracle's gain is made of."""
    if not config.gain:
        return None
    rows: list[dict[str, Any]] = []
    for objective in config.gain_objectives:
        systems = gain_systems(config, objective)
        if all(job in states for of_seeds in systems.values() for job in of_seeds):
            runs = {name: [states[job].path for job in of_seeds] for name, of_seeds in systems.items()}
            rows += gain_rows(runs, {"classifier_objective": objective})
    return rows or None


def _confined(config: AblateConfig, states: dict[Job, JobState]) -> list[dict[str, Any]]:
    """Of the arms that ``surface`` names."""
    if config.surface is None:
        return []
    names = {arm.example: arm.name for arm in arms(config)}
    found = []
    for job in confined(config):
        one = job.example
        arm = names[dataclasses.replace(one, region=Region.EVERYWHERE, equal_l2=False)]
        if job in states:
            budget = f"{one.region}{'-l2' * one.equal_l2}"
            found.append({"arm": arm, "budget": budget, "evaluation": _relative(config, states[job])})
    return found


def _write_decomposition(config: AblateConfig, states: dict[Job, JobState]) -> str | None:
    """Put the decompositions of all arms into one table, with its shares beside it; the name of its file, if there are any."""
    tables = [read_table(states[job].path / ROWS, DECOMPOSED, remedy=AGAIN) for job in decompositions(config) if job in states]
    if not tables:
        return None
    rows = pl.concat(tables, how="vertical_relaxed")
    write_table(config.run / DECOMPOSITION, rows)
    write_json(config.run / DECOMPOSITION_SUMMARY, {"decomposition": summary(rows)})
    return DECOMPOSITION


def _seconds(cache: RunCache, states: dict[Job, JobState]) -> dict[str, float]:
    """What the finished jobs took, by kind, where it was measured; reused ones count with what they took when they were made."""
    sums: defaultdict[str, float] = defaultdict(float)
    for job, state in states.items():
        sums[job.kind] += cache.duration(state) or 0
    return {kind: round(seconds, 1) for kind, seconds in sums.items() if seconds} | {"total": round(sum(sums.values()), 1)}
