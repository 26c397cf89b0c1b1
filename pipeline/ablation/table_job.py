"""What jobs have in common that make a table of what evaluations of an arm and of others found."""

import io
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from pipeline.ablation.evaluation_job import EvaluationJob
from pipeline.ablation.job import DataView, Job, JobState, Materials
from pipeline.errors import RunError, said
from pipeline.runs.directory import open_run
from pipeline.runs.files import write_atomically

AGAIN = "delete it, and the same foreguard ablate command makes it again"
Columns = Mapping[str, frozenset[type]]
"""Of a table: the types of polars that each of its columns may have. All values are there."""


@dataclass(frozen=True, kw_only=True)
class TableJob(Job):
    """Make a parquet file, ``result``, out of finished evaluations."""

    version: ClassVar[int]
    """What its run records as its configuration: raised when the code comes to another result."""

    arm: EvaluationJob
    """Whom the table is about."""

    @property
    def slug(self) -> str:
        return self.arm.slug

    @property
    def data(self) -> DataView:
        return self.arm.data

    def config(self, materials: Materials, run: Path) -> dict[str, Any]:  # noqa: ARG002
        """It is no command: all that decides it is what it reads."""
        return {"version": self.version}

    def inputs(self, materials: Materials) -> dict[str, str]:
        return super().inputs(materials) | {job.title: materials.finished[job].fingerprint for job in self.needs}

    def run(self, state: JobState) -> None:
        with open_run(state.path, command=self.command, config=state.config, inputs=state.inputs, resume=True):
            write_table(state.path / self.result, self.table(state))

    @abstractmethod
    def table(self, state: JobState) -> pl.DataFrame:
        """What it found."""


def write_table(path: Path, rows: pl.DataFrame) -> None:
    """Write a parquet file whole or not at all. Raises RunError."""
    content = io.BytesIO()
    rows.write_parquet(content)
    write_atomically(path, content.getvalue())


def read_table(path: Path, columns: Columns, *, remedy: str) -> pl.DataFrame:
    """Read what ``write_table`` wrote.

    Raises RunError that names the file and ends with the remedy: it is missing or damaged, it holds no row, a column is not there,
    of another type or lacks values.
    """
    try:
        rows = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: missing or damaged ({said(error, 120)}); {remedy}") from error
    lacking = [name for name, kinds in columns.items() if rows.schema.get(name) not in kinds or rows[name].null_count()]
    if lacking:
        raise RunError(f"{path}: of another version or damaged (columns {', '.join(sorted(lacking))}); {remedy}")
    if rows.is_empty():
        raise RunError(f"{path}: damaged (it holds no image); {remedy}")
    return rows
