"""What finished jobs left behind, told in one line, or refused in one."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.ablation.decomposition import DecompositionJob
from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.grid import jobs
from pipeline.ablation.job import Job
from pipeline.ablation.training_jobs import SegmenterJob
from pipeline.cli.composition import compose
from pipeline.config import validate
from pipeline.errors import RunError
from pipeline.evaluation.constant_predictor import ModalPrediction
from pipeline.evaluation.metrics import CurvePoint
from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import Summary
from pipeline.masks.config import MaskConfig
from pipeline.training.result import TrainingResult

FIGURE = Estimate(value=0.5, low=0.4, high=0.6, n=4, groups=4)
SUMMARY = Summary(
    system="0",
    data="synthetic",
    split="test",
    masks=MaskConfig(),
    trained_masks=MaskConfig(),
    mask_source="learned",
    norm="linf",
    region="everywhere",
    clean_accuracy=FIGURE,
    clean_mask_iou=FIGURE,
    modal_prediction=ModalPrediction(label=0, share=0.5, label_share=0.5),
    classes=("a", "b"),
    curve=(CurvePoint(epsilon=8 / 255, robust_accuracy=FIGURE, by_attack={}, mask_iou=FIGURE, seconds=1.0),),
    skipped={},
)
RESULT = TrainingResult(
    checkpoint="checkpoints/best.json",
    epoch=1,
    selected_by="val_iou",
    selected_value=0.25,
    val={"loss": 1.0, "iou": 0.25},
    test={"loss": 1.0, "iou": 0.75},
    ended_by="epochs",
    epochs=1,
    steps=3,
    seconds=3.4,
)


def job_of(kind: type) -> Job:
    """A job of some kind of the default ablation."""
    config = validate(AblateConfig, compose("ablate", AblateConfig, []))
    return next(job for job in jobs(config) if isinstance(job, kind))


def rows() -> pl.DataFrame:
    text = ("arm", "oracle_arm", "classifier_objective", "segmenter_objective", "train_masks", "test_masks", "oracle_train_masks")
    truth = ("robust", "oracle_robust", "clean_correct", *(f"{path}_attack_robust" for path in ("both", "pixels", "mask")))
    columns: dict[str, Any] = {name: ["learned"] * 4 for name in (*text, "group")}
    columns |= {name: [True] * 4 for name in truth}
    columns |= {name: [0.5] * 4 for name in ("margin", "pixels_margin", "mask_margin", "oracle_mask_margin")}
    columns |= {"sample_id": list("abcd"), "seed": [0] * 4, "epsilon": [2 / 255, 8 / 255, 8 / 255, 8 / 255]}
    return pl.DataFrame(columns | {"attribution": ["lost-mask", "lost-mask", "gained", "robust"]})


def test_a_line_tells_what_a_job_found(tmp_path: Path) -> None:
    SUMMARY.write(tmp_path / "summary.json")
    RESULT.write(tmp_path / "result.json")
    rows().write_parquet(tmp_path / "rows.parquet")
    assert job_of(EvaluationJob).finding(tmp_path) == "clean 50.0 %, robust 50.0 % at 8/255"
    assert job_of(SegmenterJob).finding(tmp_path) == "val iou 0.250, test iou 0.750, 3 s"
    found = job_of(DecompositionJob).finding(tmp_path)
    assert found == "of 3 images 1 lost at 8/255 (0 clean, 1 mask, 0 pixels, 0 either, 0 together), 1 gained"


def test_a_damaged_result_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    RESULT.write(path)
    path.write_text(path.read_text().replace("0.75", "0.95"))
    with pytest.raises(RunError) as error:
        job_of(SegmenterJob).finding(tmp_path)
    remedy = "delete it, and resume=true measures the best checkpoint again"
    assert str(error.value) == f"{path}: damaged or edited (its checksum differs); {remedy}"


def test_a_damaged_summary_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    SUMMARY.write(path)
    path.write_text(path.read_text().replace('"value": 0.5', '"value": 0.6'))
    with pytest.raises(RunError) as error:
        job_of(EvaluationJob).finding(tmp_path)
    remedy = "delete it, and the same command with resume=true makes it again"
    assert str(error.value) == f"{path}: damaged or edited (its checksum differs); {remedy}"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "missing or damaged ("),
        (lambda path: path.unlink(), "missing or damaged ("),
        (lambda path: rows().head(0).write_parquet(path), "damaged (it holds no image)"),
        (lambda path: rows().drop("attribution").write_parquet(path), "of another version or damaged (columns attribution)"),
        (lambda path: rows().cast({"epsilon": pl.String}).write_parquet(path), "of another version or damaged (columns epsilon)"),
        (
            lambda path: rows().with_columns(robust=pl.lit(None, pl.Boolean)).write_parquet(path),
            "of another version or damaged (columns robust)",
        ),
    ],
)
def test_a_damaged_decomposition_is_one_line_with_the_remedy(tmp_path: Path, damage, line: str) -> None:
    path = tmp_path / "rows.parquet"
    rows().write_parquet(path)
    damage(path)
    with pytest.raises(RunError) as error:
        job_of(DecompositionJob).finding(tmp_path)
    assert str(error.value).startswith(f"{path}: {line}")
    assert str(error.value).endswith("; delete it, and the same foreguard ablate command makes it again")
    assert "\n" not in str(error.value)
