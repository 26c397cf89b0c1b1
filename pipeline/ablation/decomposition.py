"""The decomposition of an ablation: for each arm with learned masks, where it lost what the oracle's arm had."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.counterfactual import Attribution, decompose_arm, rescored_margins, shares
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.job import ImageCounts, Job, JobState, Passes
from pipeline.ablation.passes import attacked_images
from pipeline.ablation.table_job import AGAIN, Columns, TableJob, read_table
from pipeline.arithmetic import tf32_disabled
from pipeline.attacks.specs import GradientPath
from pipeline.evaluation.evaluate import load_evaluation
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.summary import epsilon_text, finished_records
from pipeline.system import StagedSystem

ROWS = "rows.parquet"
_TEXT = ("arm", "oracle_arm", "classifier_objective", "segmenter_objective", "train_masks", "test_masks", "oracle_train_masks")
_TRUTH = ("robust", "oracle_robust", "clean_correct", "both_attack_robust", "pixels_attack_robust", "mask_attack_robust")
DECOMPOSED: Columns = {
    **dict.fromkeys((*_TEXT, "sample_id", "group", "attribution"), frozenset({pl.String})),
    **dict.fromkeys(_TRUTH, frozenset({pl.Boolean})),
    **dict.fromkeys(("epsilon", "margin", "pixels_margin", "mask_margin", "oracle_mask_margin"), frozenset({pl.Float64})),
    "seed": frozenset({pl.Int32, pl.Int64}),
}
"""Of every table of decompositions."""


@dataclass(frozen=True, kw_only=True)
class DecompositionJob(TableJob):
    """Score an arm's strongest adversarial images again, with one path of them at a time."""

    kind: ClassVar[str] = "decomposition"
    command: ClassVar[str] = "decompose"
    result: ClassVar[str] = ROWS
    verb: ClassVar[str] = "decompose"
    version: ClassVar[int] = 4

    oracle: EvaluationJob
    """The arm that it is compared with."""
    diagnoses: tuple[EvaluationJob, ...]
    """The same system under one attack, whose gradient follows both paths, or one of them."""

    @property
    def title(self) -> str:
        return f"decomposition of {self.arm.title}"

    @property
    def needs(self) -> tuple[Job, ...]:
        """The records of both arms and of the three attacks."""
        return (self.arm, self.oracle, *self.diagnoses)

    def table(self, state: JobState) -> pl.DataFrame:
        finished = state.materials.finished
        to_the_end = [job for job in self.diagnoses if job.diagnosis == GradientPath.BOTH]
        runs, evaluation = [finished[job].path for job in (self.arm, *to_the_end)], load_evaluation(finished[self.arm].config)
        system, dataset, device = evaluation.run.system, evaluation.run.dataset, evaluation.device
        assert isinstance(system, StagedSystem)
        with tf32_disabled(device):
            margins = rescored_margins(system, dataset, runs, batch_size=evaluation.config.batch_size, device=device)
        arm = _verdicts(finished[self.arm].path, clean=True)
        oracle = _verdicts(finished[self.oracle].path)
        paths = {job.diagnosis.value: _verdicts(finished[job].path) for job in self.diagnoses if job.diagnosis}
        segmenter = self.arm.segmenter
        labels: dict[str, object] = {
            "arm": self.arm.name,
            "oracle_arm": self.oracle.name,
            "seed": self.arm.seed,
            "classifier_objective": self.arm.classifier.objective,
            "segmenter_objective": segmenter.objective if segmenter else None,
            "train_masks": self.arm.classifier.masks.source.value,
            "test_masks": self.arm.masks.source.value,
            "oracle_train_masks": self.oracle.classifier.masks.source.value,
        }
        about = (pl.lit(value).alias(name) for name, value in labels.items())
        return decompose_arm(arm, oracle, margins, paths).select(*about, pl.all())

    def finding(self, path: Path) -> str:
        """How many images are lost at the largest epsilon, by way of what."""
        rows = read_table(path / ROWS, DECOMPOSED, remedy=AGAIN)
        epsilon = float(rows["epsilon"].to_numpy().max())
        last = rows.filter(pl.col("epsilon") == epsilon)["attribution"]
        reasons = [each for each in Attribution if each.value.startswith("lost-")]
        counts = {each: int((last == each.value).sum()) for each in (*reasons, Attribution.GAINED)}
        lost = ", ".join(f"{counts[each]} {each.value.removeprefix('lost-')}" for each in reasons)
        total = sum(counts[each] for each in reasons)
        text = f"of {len(last)} images {total} lost at {epsilon_text(epsilon)} ({lost})"
        return f"{text}, {counts[Attribution.GAINED]} gained"

    def passes(self, ablation: AblateConfig, counts: ImageCounts) -> Passes:
        """Of two evaluations' images, through the segmenter twice and through the classifier three times."""
        images = 2 * attacked_images(ablation, counts) * len(ablation.attack.threat.epsilons)
        return Passes(forward=5 * images, backward=0)


def summary(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """For each arm and epsilon the share of images of each attribution, with intervals, JSON-able."""
    entries: list[dict[str, Any]] = []
    for (arm, epsilon), part in rows.group_by(["arm", "epsilon"], maintain_order=True):
        estimates = {name: vars(estimate) for name, estimate in shares(part).items()}
        entries.append({"arm": arm, "oracle_arm": part["oracle_arm"][0], "epsilon": epsilon, "shares": estimates})
    return entries


def _verdicts(run: Path, *, clean: bool = False) -> pl.DataFrame:
    """Which images are robust at each epsilon: sample_id, epsilon, robust and, if wanted, clean_correct."""
    records = finished_records(run)
    tables = [
        robust_images(records, epsilon).select("sample_id", epsilon=pl.lit(epsilon), robust="robust")
        for epsilon in records["epsilon"].unique().sort().to_list()
    ]
    table = pl.concat(tables)
    if not clean:
        return table
    right = records.unique("sample_id").select("sample_id", "group", clean_correct=pl.col("clean_prediction") == pl.col("label"))
    return table.join(right, on="sample_id")
