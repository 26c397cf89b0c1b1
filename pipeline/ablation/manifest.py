"""``ablation.json``: which evaluations, in which roles, an ablation consists of. Reports and predictions start from it."""

import dataclasses
import os
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from pipeline.ablation.cache import Store, Work
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.decomposition import ROWS, read_table, summary, write_table
from pipeline.ablation.digest import AGAIN, read_result
from pipeline.ablation.grid import EvaluationPiece, Piece, Role, SilhouettePiece, arms, decompositions, pieces
from pipeline.config import to_plain
from pipeline.data.dataset import read_manifest
from pipeline.errors import RunError
from pipeline.evaluation.override import MaskOverride
from pipeline.masks import MaskSource
from pipeline.runs.files import parse_json, read_json, write_json
from pipeline.runs.provenance import provenance

MANIFEST, FORMAT = "ablation.json", 1
DECOMPOSITION, DECOMPOSITION_SUMMARY = "decomposition.parquet", "decomposition.json"

_Figure = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmEntry:
    """A finished arm. Paths are relative to the directory of the ablation."""

    name: str
    role: Role
    segmenter_objective: str | None
    """Of the segmenter in testing, else of that in training; None where no segmenter takes part."""
    classifier_objective: str
    train_masks: MaskSource
    test_masks: MaskSource
    masks: MaskOverride
    """Those of testing, whole."""
    seed: int
    evaluation: str
    classifier: str
    segmenter: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SilhouetteEntry:
    """What a classifier that sees the mask alone gets right."""

    seed: int
    split: str
    accuracy: Annotated[float, Field(strict=True, ge=0, le=1)]
    n: Annotated[int, Field(strict=True, ge=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedConfig:
    """What others than the ablation itself read of its configuration."""

    headline_epsilon: _Figure | None = None
    decomposition: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``ablation.json`` says."""

    experiment: str
    finished: bool = True
    arms: tuple[ArmEntry, ...]
    silhouette: tuple[SilhouetteEntry, ...] | None = None
    decomposition: str | None = None
    """File of the table, relative too."""
    config: RecordedConfig


def read_ablation(run: Path) -> tuple[Manifest, dict[str, Any]]:
    """What the directory of an ablation says about itself, checked, and the same as plain JSON. Raises RunError: it cannot be
    read, it is of another version or damaged."""
    path = run / MANIFEST
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise RunError(f"{path}: format {content.get('format')} is not format {FORMAT} of this version; run ablate again")
    return parse_json(path, content, Manifest, remedy="run ablate again with resume=true"), content


def write_manifest(config: AblateConfig, store: Store) -> None:
    """Write down all that is finished. Paths are relative to the directory of the ablation. Raises RunError."""
    todo = pieces(config)
    works = {piece: work for piece in todo if (work := store.look(piece)) is not None and work.finished}
    has_decomposition = _write_decomposition(config, works)
    content = {
        "format": FORMAT,
        "experiment": config.experiment,
        "prepared": str(config.prepared),
        "finished": len(works) == len(todo),
        "arms": [_entry(config, arm, works) for arm in arms(config) if arm in works],
        "silhouette": _silhouettes(store, works),
        "decomposition": DECOMPOSITION if has_decomposition else None,
        "config": to_plain(config),
        "seconds": _seconds(store, works),
        "provenance": dataclasses.asdict(provenance()),
    }
    write_json(config.run / MANIFEST, content)


def _entry(config: AblateConfig, arm: EvaluationPiece, works: dict[Piece, Work]) -> dict[str, Any]:
    segmenter = arm.segmenter or arm.classifier.segmenter
    return {
        "name": arm.title,
        "role": arm.role,
        "segmenter_objective": segmenter.objective if segmenter else None,
        "classifier_objective": arm.classifier.objective,
        "train_masks": arm.classifier.masks.source.value,
        "test_masks": arm.masks.source.value,
        "masks": to_plain(arm.masks),
        "seed": arm.seed,
        "evaluation": _relative(config, works[arm]),
        "classifier": _relative(config, works[arm.classifier]),
        "segmenter": _relative(config, works[segmenter]) if segmenter else None,
    }


def _relative(config: AblateConfig, work: Work) -> str:
    return Path(os.path.relpath(work.path, config.run)).as_posix()


def _silhouettes(store: Store, works: dict[Piece, Work]) -> list[dict[str, Any]] | None:
    """Accuracy on the test split, or on the validation split where there is no test split."""
    found = []
    for piece, work in works.items():
        if not isinstance(piece, SilhouettePiece):
            continue
        result = read_result(work)
        split, scores = ("test", result.test) if result.test else ("val", result.val)
        n = sum(read_manifest(store.silhouettes)["counts"][split].values())
        found.append({"seed": piece.seed, "split": split, "accuracy": scores.accuracy, "n": n})
    return found or None


def _write_decomposition(config: AblateConfig, works: dict[Piece, Work]) -> bool:
    """Put the decompositions of all arms into one table, with its shares beside it."""
    tables = [read_table(works[piece].path / ROWS, remedy=AGAIN) for piece in decompositions(config) if piece in works]
    if not tables:
        return False
    rows = pl.concat(tables, how="vertical_relaxed")
    write_table(config.run / DECOMPOSITION, rows)
    write_json(config.run / DECOMPOSITION_SUMMARY, {"decomposition": summary(rows)})
    return True


def _seconds(store: Store, works: dict[Piece, Work]) -> dict[str, float]:
    """What the finished pieces took, by kind, where it was measured; reused ones count with what they took when they were made."""
    sums: defaultdict[str, float] = defaultdict(float)
    for piece, work in works.items():
        seconds = store.seconds_of(work)
        if seconds is not None:
            sums[type(piece).__name__.removesuffix("Piece").lower()] += seconds
    return {kind: round(seconds, 1) for kind, seconds in sums.items()} | {"total": round(sum(sums.values()), 1)}
