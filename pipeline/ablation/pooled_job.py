"""The folds of one arm put together: an evaluation of all images, each by a system that never saw its photograph or track."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob, Role, evaluation_line
from pipeline.ablation.job import ImageCounts, Job, JobState, Materials, Passes
from pipeline.attacks.diagnostics import Check, Outcome
from pipeline.config import to_plain
from pipeline.evaluation.examples import EXAMPLES
from pipeline.evaluation.gallery import GALLERY
from pipeline.evaluation.measured import MEASURED, MeasurementReport, figures
from pipeline.evaluation.measuring import MEASUREMENTS, read_observations
from pipeline.evaluation.records import RECORDS, read_records, units_in
from pipeline.evaluation.summary import SANITY, SUMMARY, SanityReport, Summary, is_checked
from pipeline.runs.directory import open_run
from pipeline.runs.files import canonical_sha256, write_atomically

_OUTCOMES = (Outcome.PASS, Outcome.SKIP, Outcome.FAIL)
"""Of a sanity check, the worst last."""


@dataclass(frozen=True, kw_only=True)
class PooledJob(Job):
    """Pool the evaluations of one arm over its folds.

    Its directory is that of an evaluation: the records of all folds and what was measured beside the attacks, a summary over them
    with intervals for independent photographs or tracks, of each sanity check the worst, and the pictures of the first fold.
    """

    kind: ClassVar[str] = "pool"
    command: ClassVar[str] = "pool"
    result: ClassVar[str] = SUMMARY
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
        return f"{self.name}, {len(self.folds)} fold{'s' * (len(self.folds) > 1)}"

    @property
    def slug(self) -> str:
        return self.example.slug.rsplit("-fold", 1)[0]

    @property
    def needs(self) -> tuple[Job, ...]:
        return self.folds

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
        images, epsilon = config["sanity_images"], config["sanity_epsilon"]
        return super().is_finished(path, config) and (not config["sanity"] or is_checked(path, images=images, epsilon=epsilon))

    def run(self, state: JobState) -> None:
        with open_run(state.path, command=self.command, config=state.config, inputs=state.inputs, resume=True):
            parts = [state.materials.finished[job].path for job in self.folds]
            _pool(RECORDS, parts, state.path)
            _pool(MEASUREMENTS, parts, state.path)
            observations = read_observations(state.path)
            if observations is not None:
                measurements = state.materials.finished[self.example].config.attack.measurements
                MeasurementReport(figures=tuple(figures(observations, measurements))).write(state.path / MEASURED)
                shutil.copytree(parts[0] / EXAMPLES, state.path / EXAMPLES, dirs_exist_ok=True)
            if state.config["sanity"]:
                _worst_checks([SanityReport.read(part / SANITY) for part in parts]).write(state.path / SANITY)
            if (parts[0] / GALLERY).is_file():
                shutil.copyfile(parts[0] / GALLERY, state.path / GALLERY)
            _summary(state.path, parts).write(state.path / self.result)

    def finding(self, path: Path) -> str:
        return evaluation_line(path)

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:  # noqa: ARG002
        """Nothing is asked of a stage."""
        return Passes(forward=0, backward=0)


def _pool(tables: str, parts: list[Path], target: Path) -> None:
    """Copy the parts of one kind of table of several evaluations, whose chunks are numbered on."""
    shutil.rmtree(target / tables, ignore_errors=True)
    offset = 0
    for part in parts:
        for file in sorted((part / tables).glob("*.parquet")):
            chunk, rest = file.name.split("-", 1)
            write_atomically(target / tables / f"{int(chunk) + offset:05d}-{rest}", file.read_bytes())
        offset += 1 + max((unit.chunk for unit in units_in(part / tables)), default=-1)


def _summary(pooled: Path, parts: list[Path]) -> Summary:
    """That of an evaluation, over the records of all folds."""
    summaries = [Summary.read(part / SUMMARY) for part in parts]
    system = canonical_sha256([summary.system for summary in summaries])[:16]
    return dataclasses.replace(summaries[0], system=system, **Summary.figures_of(read_records(pooled)))


def _worst_checks(reports: list[SanityReport]) -> SanityReport:
    """Of each check the fold that it went worst in, which is named."""
    worst: dict[str, Check] = {}
    for number, report in enumerate(reports, start=1):
        for check in report.checks:
            other = worst.get(check.name)
            if other is None or _OUTCOMES.index(check.outcome) > _OUTCOMES.index(other.outcome):
                finding = f"fold {number} of {len(reports)}: {check.finding}"
                worst[check.name] = dataclasses.replace(check, finding=finding)
    fewest = min(report.images for report in reports)
    return dataclasses.replace(reports[0], images=fewest, checks=tuple(worst.values()))
