"""The job that shows the adversarial images of one arm to all arms."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.job import ImageCounts, Job, JobState, Passes
from pipeline.ablation.passes import attacked_images
from pipeline.ablation.table_job import AGAIN, Columns, TableJob, read_table
from pipeline.arithmetic import tf32_disabled
from pipeline.evaluation.evaluate import load_evaluation
from pipeline.evaluation.rescoring import transferred
from pipeline.evaluation.summary import epsilon_text

TRANSFER = "transfer.parquet"
TRANSFERRED: Columns = {
    **dict.fromkeys(("source", "target", "sample_id", "group"), frozenset({pl.String})),
    "epsilon": frozenset({pl.Float64}),
    "robust": frozenset({pl.Boolean}),
}
"""One row for each target, image and epsilon: ``source`` and ``target`` are names of arms."""


@dataclass(frozen=True, kw_only=True)
class TransferJob(TableJob):
    """Score the adversarial images of one arm on every arm, itself included."""

    kind: ClassVar[str] = "transfer"
    command: ClassVar[str] = "transfer"
    result: ClassVar[str] = TRANSFER
    verb: ClassVar[str] = "show"
    version: ClassVar[int] = 1

    attack: EvaluationJob
    """The same system under the one attack that makes them."""
    targets: tuple[EvaluationJob, ...]
    """Whom they are shown to: arms of all seeds."""

    @property
    def title(self) -> str:
        return f"images of {self.arm.title} to {len(self.targets)} arms"

    @property
    def needs(self) -> tuple[Job, ...]:
        return (self.attack, *self.targets)

    @property
    def alike(self) -> tuple[object, ...]:
        return (len(self.targets),)

    def table(self, state: JobState) -> pl.DataFrame:
        finished = state.materials.finished
        tables = []
        for target in self.targets:
            evaluation = load_evaluation(finished[target].config)
            with tf32_disabled(evaluation.device):
                rows = transferred(finished[self.attack].path, evaluation.run, device=evaluation.device)
            names = {"source": self.arm.name, "target": target.name}
            tables.append(rows.select(*(pl.lit(name).alias(role) for role, name in names.items()), pl.all()))
        return pl.concat(tables).select(list(TRANSFERRED))

    def finding(self, path: Path) -> str:
        rows = read_table(path / TRANSFER, TRANSFERRED, remedy=AGAIN)
        epsilon = float(rows["epsilon"].to_numpy().max())
        last = rows.filter(pl.col("epsilon") == epsilon).group_by("target").agg(pl.col("robust").mean())
        shares = {str(target): float(share) for target, share in last.iter_rows()}
        own = shares.pop(self.arm.name)
        others = f", of others {min(shares.values()):.1%} to {max(shares.values()):.1%}" if shares else ""
        return f"at {epsilon_text(epsilon)} right: of the arm itself {own:.1%}{others}"

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        epsilons = 1 + len(ablation.attack.threat.epsilons)
        return Passes(forward=2 * len(self.targets) * epsilons * attacked_images(ablation, counts), backward=0)
