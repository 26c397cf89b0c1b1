"""The decomposition of an ablation: for each arm with learned masks, where it lost what the oracle's arm had."""

import io
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.ablation.cache import DECOMPOSITION, Store, Work
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.counterfactual import decompose, rescored_margins, shares
from pipeline.ablation.grid import DecompositionPiece, Piece
from pipeline.attacks.two_stage import GradientPath
from pipeline.data.dataset import open_prepared
from pipeline.errors import RunError
from pipeline.evaluation.evaluate import choose_device, exact
from pipeline.evaluation.loading import load_subject
from pipeline.evaluation.metrics import standing
from pipeline.evaluation.override import MaskOverride
from pipeline.evaluation.records import read_records
from pipeline.runs.directory import open_run
from pipeline.runs.files import write_atomically

ROWS = "rows.parquet"
_TEXT = ("arm", "oracle_arm", "classifier_objective", "segmenter_objective", "train_masks", "test_masks", "oracle_train_masks")
_TRUTH = ("stands", "oracle_stands", "clean_correct", "both_attack_stands", "pixels_attack_stands", "mask_attack_stands")
_COLUMNS: dict[str, set[type[pl.DataType]]] = {
    **{key: {pl.String} for key in (*_TEXT, "sample_id", "group", "fate")},
    **{key: {pl.Boolean} for key in _TRUTH},
    **{key: {pl.Float64} for key in ("epsilon", "margin", "pixels_margin", "mask_margin", "oracle_mask_margin")},
    "seed": {pl.Int32, pl.Int64},
}
"""Of every table of decompositions; all values are there."""


def explain(config: AblateConfig, store: Store, work: Work) -> None:
    """Decompose one arm into ``rows.parquet`` of its directory. Raises UserError of the kind that fits."""
    piece = work.piece
    assert isinstance(piece, DecompositionPiece)
    with open_run(work.path, command="decompose", config=DECOMPOSITION, inputs=work.inputs, resume=True):
        margins = _margins(config, store, piece)
        arm = _verdicts(_run_of(store, piece.arm), clean=True)
        oracle = _verdicts(_run_of(store, piece.oracle))
        paths = {one.diagnosis.value: _verdicts(_run_of(store, one)) for one in piece.diagnoses if one.diagnosis}
        rows = decompose(arm, oracle, margins, paths)
        about = {"arm": piece.arm.title, "oracle_arm": piece.oracle.title, "seed": piece.arm.seed}
        about |= {"classifier_objective": piece.arm.classifier.objective}
        about |= {"segmenter_objective": piece.arm.segmenter.objective if piece.arm.segmenter else None}
        about |= {"train_masks": piece.arm.classifier.masks.source.value, "test_masks": piece.arm.masks.source.value}
        about |= {"oracle_train_masks": piece.oracle.classifier.masks.source.value}
        write_table(work.path / ROWS, rows.select(*(pl.lit(value).alias(name) for name, value in about.items()), pl.all()))


def summary(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """For each arm and epsilon the share of images of each fate, with intervals, JSON-able."""
    entries: list[dict[str, Any]] = []
    for (arm, epsilon), part in rows.group_by(["arm", "epsilon"], maintain_order=True):
        estimates = {name: vars(estimate) for name, estimate in shares(part).items()}
        entries.append({"arm": arm, "oracle_arm": part["oracle_arm"][0], "epsilon": epsilon, "shares": estimates})
    return entries


def write_table(path: Path, rows: pl.DataFrame) -> None:
    """Write a parquet file whole or not at all. Raises RunError."""
    content = io.BytesIO()
    rows.write_parquet(content)
    write_atomically(path, content.getvalue())


def read_table(path: Path, *, remedy: str) -> pl.DataFrame:
    """Read what ``write_table`` wrote of decompositions.

    Raises RunError that names the file and ends with the remedy: it is missing or damaged, it holds no row, a column is not there,
    of another type or lacks values.
    """
    try:
        rows = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: missing or damaged ({' '.join(str(error).split())[:120]}); {remedy}") from error
    lacking = [name for name, kinds in _COLUMNS.items() if rows.schema.get(name) not in kinds or rows[name].null_count()]
    if lacking:
        raise RunError(f"{path}: of another version or damaged (columns {', '.join(sorted(lacking))}); {remedy}")
    if rows.is_empty():
        raise RunError(f"{path}: damaged (it holds no image); {remedy}")
    return rows


def _run_of(store: Store, piece: Piece) -> Path:
    work = store.look(piece)
    assert work is not None
    return work.path


def _verdicts(run: Path, *, clean: bool = False) -> pl.DataFrame:
    """Which images stand at each epsilon: sample_id, epsilon, stands and, if wanted, clean_correct."""
    records = read_records(run)
    tables = [
        standing(records, epsilon).select("sample_id", epsilon=pl.lit(epsilon), stands="standing")
        for epsilon in records["epsilon"].unique().sort().to_list()
    ]
    table = pl.concat(tables)
    if not clean:
        return table
    right = records.unique("sample_id").select("sample_id", "group", clean_correct=pl.col("clean_prediction") == pl.col("label"))
    return table.join(right, on="sample_id")


def _margins(config: AblateConfig, store: Store, piece: DecompositionPiece) -> pl.DataFrame:
    arm, device = piece.arm, choose_device(config.evaluation.accelerator)
    strongest = [one for one in piece.diagnoses if one.diagnosis is GradientPath.BOTH]
    dataset = open_prepared(config.prepared, verify=False)
    subject = load_subject(
        classifier_run=_run_of(store, arm.classifier),
        segmenter_run=None if arm.segmenter is None else _run_of(store, arm.segmenter),
        masks=MaskOverride(**vars(arm.masks)),
        dataset=dataset,
        allow_other_data=False,
        device=device,
    )
    batch_size = config.evaluation.batch_size
    runs = [_run_of(store, one) for one in (arm, *strongest)]
    with exact(device):
        return rescored_margins(subject.system, dataset, runs, batch_size=batch_size, device=device)
