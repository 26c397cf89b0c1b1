"""Where a run's numbers go: ``metrics.csv``, and TensorBoard, Weights & Biases or MLflow if they are asked for."""

import csv
import importlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import ConfigError, RunError
from pipeline.runs.files import JsonFile
from pipeline.training.config import Tracker


@dataclass(frozen=True, kw_only=True)
class TrainingResult(JsonFile):
    """``result.json``: how a training ended. It is written last, and makes the run a finished one."""

    REMEDY: ClassVar[str] = "delete it, and resume=true measures the best checkpoint again"

    checkpoint: str
    """The best one, from the directory of the run."""
    epoch: int
    """The epoch that it was saved after, from 1."""
    selected_by: str
    """The metric that chose it."""
    selected_value: float
    val: dict[str, float]
    """Loss and scores of the best checkpoint on clean validation images: means over images."""
    test: dict[str, float] | None = None
    """The same on test images; None where the data set has none."""
    epochs: int
    """Epochs finished."""
    steps: int
    """Optimizer steps taken."""
    seconds: float
    """Time spent, over all sessions of the run."""


class MetricsCsv:
    """A table with one row an epoch. What was written after the last saved state is cut off when a run resumes.

    ``num_bytes`` is the length of the file as this run knows it: a part of the training state.
    """

    def __init__(self, path: Path, *, num_bytes: int) -> None:
        """Continue the table at ``num_bytes``; 0 begins a new one. Raises ``RunError`` where that cannot be."""
        self._path = path
        self.num_bytes = num_bytes
        try:
            with path.open("ab") as file:
                if file.seek(0, os.SEEK_END) < num_bytes:
                    raise RunError(
                        f"{path}: shorter than when the run was interrupted; it was changed since and cannot be continued"
                    )
                file.truncate(num_bytes)
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row, with its keys as the header where it is the first, and flush it to the disk. Raises ``RunError``."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        if not self.num_bytes:
            writer.writeheader()
        writer.writerow(row)
        content = text.getvalue().encode("ascii")
        try:
            with self._path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        self.num_bytes += len(content)


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns of a ``metrics.csv``."""
    with path.open(newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}


class TrackerLog(ABC):
    """An open log of one tracker."""

    @abstractmethod
    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Add the values of one epoch, which ended at ``step``."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still held back."""


def open_trackers(names: Sequence[Tracker], run: Path, *, run_id: str, about: Mapping[str, Any], step: int) -> list[TrackerLog]:
    """Open the named trackers for a run that stands at ``step``; what they hold of later steps is from before an interruption.

    ``about`` is shown beside the run where the tracker can. Raises ``ConfigError`` for a tracker that is not installed.
    """
    opened: dict[Tracker, Any] = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases, "mlflow": _MLflow}
    return [opened[name](run, run_id, about, step) for name in names]


class _TensorBoard(TrackerLog):
    def __init__(self, run: Path, run_id: str, about: Mapping[str, Any], step: int) -> None:
        del run_id, about  # run.json has them
        writer = _import("torch.utils.tensorboard", package="tensorboard").SummaryWriter
        self._writer = writer(log_dir=str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases(TrackerLog):
    def __init__(self, run: Path, run_id: str, about: Mapping[str, Any], step: int) -> None:
        del step  # wandb drops steps that it has already
        wandb = _import("wandb", package="wandb")
        self._run = wandb.init(
            project="foreguard", dir=str(run), id=run_id, name=run.resolve().name, config=dict(about), resume="allow"
        )

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow(TrackerLog):
    def __init__(self, run: Path, run_id: str, about: Mapping[str, Any], step: int) -> None:
        del run_id, step  # mlflow names runs itself: a resumed run is a second one there
        self._mlflow = _import("mlflow", package="mlflow")
        self._mlflow.start_run(run_name=run.resolve().name)
        self._mlflow.log_dict(dict(about), "run.json")

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _import(module: str, *, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"trainer.trackers: {package} is not installed: pip install {package}, or leave it out") from error
