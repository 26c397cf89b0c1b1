"""The folds of one arm put together: an evaluation of all images, each by a system that never saw its photograph or track."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob, Role
from pipeline.ablation.job import ImageCounts, Job, JobState, Materials, Passes
from pipeline.ablation.results import checked_images, evaluation_line
from pipeline.config import to_plain
from pipeline.evaluation.answers import commonest_answer
from pipeline.evaluation.evaluate import SANITY
from pipeline.evaluation.gallery import GALLERY
from pipeline.evaluation.metrics import clean_accuracy, clean_mask_iou, curve
from pipeline.evaluation.records import RECORDS, RecordStore, read_records
from pipeline.runs.directory import open_run
from pipeline.runs.files import canonical_sha256, read_json, write_atomically, write_json

_OUTCOMES = ("PASS", "SKIP", "FAIL")
"""Of a sanity check, the worst last."""


@dataclass(frozen=True, kw_only=True)
class PooledJob(Job):
    """Pool the evaluations of one arm over its folds.

    Its directory is that of an evaluation: the records of all folds, a summary over them with intervals for independent photographs
    or tracks, of each sanity check the worst, and the gallery of the first fold.
    """

    kind: ClassVar[str] = "pool"
    command: ClassVar[str] = "pool"
    result: ClassVar[str] = "summary.json"
    verb: ClassVar[str] = "pool"

    folds: tuple[EvaluationJob, ...]

    @property
    def example(self) -> EvaluationJob:
        """The first fold: what is the same for all of them."""
        return self.folds[0]

    @property
    def role(self) -> Role:
        """Of the arm."""
        return self.example.role

    @property
    def name(self) -> str:
        """The arm's."""
        return self.example.name

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.name}, {len(self.folds)} fold{'s' * (len(self.folds) > 1)}"

    @property
    def slug(self) -> str:
        """The readable part of a directory name."""
        return self.example.slug.rsplit("-fold", 1)[0]

    @property
    def needs(self) -> tuple[Job, ...]:
        """The evaluations."""
        return self.folds

    @property
    def alike(self) -> tuple[object, ...]:
        """All of them."""
        return ()

    def config(self, materials: Materials, run: Path) -> dict[str, Any]:
        """That of the first fold's evaluation, for whoever asks what was attacked and how."""
        return {"pool": {"version": 1}, **to_plain(dataclasses.replace(materials.finished[self.example].config, run=run))}

    def inputs(self, materials: Materials) -> dict[str, str]:
        """Data set and evaluations, and what their systems were made of."""
        parts = [materials.finished[job] for job in self.folds]
        stages = {name for part in parts for name in part.inputs if name in ("classifier", "segmenter")}
        weights = {name: canonical_sha256([part.inputs[name] for part in parts]) for name in sorted(stages)}
        return super().inputs(materials) | weights | {part.job.title: part.fingerprint for part in parts}

    def is_finished(self, path: Path, config: dict[str, Any]) -> bool:
        """As of an evaluation."""
        return super().is_finished(path, config) and (not config["sanity"] or checked_images(path) >= config["sanity_images"])

    def run(self, state: JobState) -> None:
        """Pool the folds."""
        with open_run(state.path, command=self.command, config=state.config, inputs=state.inputs, resume=True):
            parts = [state.materials.finished[job].path for job in self.folds]
            _pool_records(parts, state.path)
            if state.config["sanity"]:
                write_json(state.path / SANITY, _worst_checks([read_json(part / SANITY) for part in parts]))
            if (parts[0] / GALLERY).is_file():
                shutil.copyfile(parts[0] / GALLERY, state.path / GALLERY)
            write_json(state.path / self.result, _summary(state.path, parts))

    def finding(self, path: Path) -> str:
        """Clean and robust accuracy."""
        return evaluation_line(path)

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:  # noqa: ARG002
        """Nothing is asked of a stage."""
        return Passes(forward=0, backward=0)


def _pool_records(parts: list[Path], target: Path) -> None:
    """Copy the parts of several evaluations, whose chunks are numbered on."""
    shutil.rmtree(target / RECORDS, ignore_errors=True)
    offset = 0
    for part in parts:
        units = RecordStore(part).units()
        for file in sorted((part / RECORDS).glob("*.parquet")):
            chunk, rest = file.name.split("-", 1)
            write_atomically(target / RECORDS / f"{int(chunk) + offset:05d}-{rest}", file.read_bytes())
        offset += 1 + max(unit.chunk for unit in units)


def _summary(pooled: Path, parts: list[Path]) -> dict[str, Any]:
    """What ``summary.json`` of an evaluation says, over the records of all folds."""
    summaries, records = [read_json(part / "summary.json") for part in parts], read_records(pooled)
    rng = np.random.default_rng(0)  # the same records give the same summary
    return summaries[0] | {
        "system": canonical_sha256([summary["system"] for summary in summaries])[:16],
        "clean_accuracy": dataclasses.asdict(clean_accuracy(records)),
        "clean_mask_iou": dataclasses.asdict(clean_mask_iou(records, rng)),
        "commonest_answer": dataclasses.asdict(commonest_answer(records)),
        "curve": [dataclasses.asdict(point) for point in curve(records, rng)],
    }


def _worst_checks(sanity: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each check the fold that it went worst in, which is named."""
    worst: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(sanity, start=1):
        for check in part["checks"]:
            other = worst.get(check["name"])
            if other is None or _OUTCOMES.index(check["outcome"]) > _OUTCOMES.index(other["outcome"]):
                worst[check["name"]] = check | {"finding": f"fold {number} of {len(sanity)}: {check['finding']}"}
    return {"images": min(part["images"] for part in sanity), "checks": list(worst.values())}
