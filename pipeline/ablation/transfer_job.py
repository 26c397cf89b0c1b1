"""The job that shows the adversarial images of one arm to all arms."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.job import DataView, ImageCounts, Job, JobState, Materials, Passes
from pipeline.ablation.passes import attacked_images
from pipeline.errors import RunError
from pipeline.evaluation.evaluate import load_evaluation, tf32_disabled
from pipeline.evaluation.summary import epsilon_text
from pipeline.evaluation.transfer import transferred
from pipeline.runs.directory import open_run
from pipeline.runs.files import write_atomically

TRANSFER = "transfer.parquet"
_RECORDED = {"version": 1}
"""What a transfer records as its configuration: raised when the code comes to another result."""
_SCHEMA = {
    "source": pl.String(),
    "target": pl.String(),
    "sample_id": pl.String(),
    "group": pl.String(),
    "epsilon": pl.Float64(),
    "robust": pl.Boolean(),
}


@dataclass(frozen=True, kw_only=True)
class TransferJob(Job):
    """Score the adversarial images of one arm on every arm, itself included."""

    kind: ClassVar[str] = "transfer"
    command: ClassVar[str] = "transfer"
    result: ClassVar[str] = TRANSFER
    verb: ClassVar[str] = "show"

    arm: EvaluationJob
    """Whose images are shown."""
    attack: EvaluationJob
    """The same system under the one attack that makes them."""
    targets: tuple[EvaluationJob, ...]
    """Whom they are shown to: arms of all seeds."""

    @property
    def title(self) -> str:
        return f"images of {self.arm.title} to {len(self.targets)} arms"

    @property
    def slug(self) -> str:
        return self.arm.slug

    @property
    def data(self) -> DataView:
        return self.arm.data

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.attack, *self.targets)

    @property
    def alike(self) -> tuple[object, ...]:
        return (len(self.targets),)

    def config(self, materials: Materials, run: Path) -> dict[str, Any]:  # noqa: ARG002
        return dict(_RECORDED)

    def inputs(self, materials: Materials) -> dict[str, str]:
        return super().inputs(materials) | {job.title: materials.finished[job].fingerprint for job in self.needs}

    def run(self, state: JobState) -> None:
        finished = state.materials.finished
        with open_run(state.path, command=self.command, config=state.config, inputs=state.inputs, resume=True):
            tables = []
            for target in self.targets:
                evaluation = load_evaluation(finished[target].config)
                with tf32_disabled(evaluation.device):
                    rows = transferred(finished[self.attack].path, evaluation.run, device=evaluation.device)
                names = {"source": self.arm.name, "target": target.name}
                tables.append(rows.select(*(pl.lit(name).alias(role) for role, name in names.items()), pl.all()))
            content = io.BytesIO()
            pl.concat(tables).select(list(_SCHEMA)).write_parquet(content)
            write_atomically(state.path / TRANSFER, content.getvalue())

    def finding(self, path: Path) -> str:
        rows = read_transfer(path / TRANSFER, remedy="delete it and say the same command again")
        epsilon = float(rows["epsilon"].to_numpy().max())
        last = rows.filter(pl.col("epsilon") == epsilon).group_by("target").agg(pl.col("robust").mean())
        shares = {str(target): float(share) for target, share in last.iter_rows()}
        own = shares.pop(self.arm.name)
        others = f", of others {min(shares.values()):.1%} to {max(shares.values()):.1%}" if shares else ""
        return f"at {epsilon_text(epsilon)} right: of the arm itself {own:.1%}{others}"

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        epsilons = 1 + len(ablation.attack.threat.epsilons)
        return Passes(forward=2 * len(self.targets) * epsilons * attacked_images(ablation, counts), backward=0)


def read_transfer(path: Path, *, remedy: str) -> pl.DataFrame:
    """One row for each target, image and epsilon: ``source`` and ``target`` are names of arms. Raises RunError with the remedy."""
    try:
        rows = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: missing or damaged ({' '.join(str(error).split())[:120]}); {remedy}") from error
    if dict(rows.schema) != _SCHEMA or rows.is_empty():
        raise RunError(f"{path}: of another version or damaged; {remedy}")
    return rows
