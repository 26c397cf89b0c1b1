"""Where a run's numbers go: ``metrics.csv``, the curve, ``result.json``; TensorBoard, Weights & Biases or MLflow if asked for."""

import csv
import importlib
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from pipeline.errors import ConfigError, writing
from pipeline.runs.directory import Run
from pipeline.runs.files import write_atomically
from pipeline.training.config import Tracker
from pipeline.training.result import TrainingResult
from pipeline.training.state import TrainingState
from pipeline.training.tasks import Training


class RunLog:
    """What a training leaves behind beside its weights. The first process alone writes.

    Every method raises ``RunError`` where that fails, with what was there before intact.
    """

    def __init__(self, training: Training, run: Run, state: TrainingState) -> None:
        """Begin the logs, or take them up where the state left them."""
        self._training, self._run, self._state = training, run, state
        self._metrics = run.path / "metrics.csv"
        if state.counters.history:
            write_metrics(self._metrics, state.counters.history)
        names, about = training.trainer.trackers, training.description()
        with writing(run.path):
            self._trackers = open_trackers(names, run.path, run_id=run.run_id, about=about, step=state.counters.step)

    def save_state(self) -> None:
        """What a resume continues from."""
        self._state.save(self._run.state_path)

    def end_epoch(self, module: nn.Module, *, better: bool) -> None:
        """Checkpoints, the table, and last the state: until that is written, a resume repeats all of it alike."""
        row, counters = self._state.counters.history[-1], self._state.counters
        metrics = {name: value for name, value in row.items() if name.startswith("val_")}
        for name in ("best", "last") if better else ("last",):
            self._training.save(self._run.path, name, module, step=counters.step, epoch=counters.epoch, metrics=metrics)
        write_metrics(self._metrics, self._state.counters.history)
        self.save_state()
        values = {name: value for name, value in row.items() if name not in ("epoch", "step")}
        with writing(self._run.path):
            for tracker in self._trackers:
                tracker.log(values, step=counters.step)

    def finish(self, result: TrainingResult) -> None:
        """The curve, and last the result, which makes the run a finished one."""
        history = self._state.counters.history
        columns = {name: [row[name] for row in history] for name in history[0]}
        draw_curve(self._run.path / "curve.png", columns, best_epoch=self._state.counters.best_epoch)
        result.write(self._run.result_path)
        with writing(self._run.path):
            for tracker in self._trackers:
                tracker.close()


def write_metrics(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """``metrics.csv``: one row an epoch. It is made from the state, so a damaged one is mended. Raises ``RunError``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, text.getvalue().encode("ascii"))


def draw_curve(path: Path, columns: Mapping[str, Sequence[float]], *, best_epoch: int) -> None:
    """Draw the losses and the validation metrics over epochs, with the best epoch marked.

    Losses share one panel, metrics (in [0,1]) another. Raises ``RunError`` where the picture cannot be written.
    """
    epochs = columns["epoch"]
    with mpl.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    ):
        figure = Figure(figsize=(9, 3.6), layout="constrained")  # not pyplot: no window system, no global state
        losses, scores = figure.subplots(1, 2)
        for name, values in columns.items():
            panel = losses if name.endswith("_loss") else scores if name.startswith("val_") else None
            if panel is not None:
                panel.plot(epochs, values, marker="." if len(epochs) < 60 else None, label=name.replace("_", " "))
        losses.set(xlabel="epoch", ylabel="loss (mean over images)")
        scores.set(xlabel="epoch", ylabel="validation metric (mean over images)")
        for panel in (losses, scores):
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.axvline(best_epoch, color="grey", linestyle=":", linewidth=1, label=f"best epoch ({best_epoch})")
            panel.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


class TrackerLog(NamedTuple):
    """An open log of one tracker."""

    log: Callable[..., None]
    """``log(values, step=...)`` adds the values of one epoch, which ended at that step."""
    close: Callable[[], None]
    """Writes what is still held back."""


def open_trackers(names: Sequence[Tracker], run: Path, *, run_id: str, about: Mapping[str, Any], step: int) -> list[TrackerLog]:
    """Open the named trackers for a run that stands at ``step``; what they hold of later steps is from before an interruption.

    ``about`` is shown beside the run where the tracker can. Raises ``ConfigError`` for a tracker that is not installed.
    """
    opened: dict[Tracker, Callable[..., TrackerLog]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    return [opened[name](run, run_id, about, step) for name in names]


def _tensorboard(run: Path, run_id: str, about: Mapping[str, Any], step: int) -> TrackerLog:
    del run_id, about  # run.json has them
    made = _import("torch.utils.tensorboard", package="tensorboard").SummaryWriter
    writer = made(log_dir=str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(values: Mapping[str, float], *, step: int) -> None:
        hook = threading.excepthook
        # Its thread hands an error of the file system over to us, and would print a traceback of it as well, perhaps only then.
        threading.excepthook = lambda raised: None if isinstance(raised.exc_value, OSError) else hook(raised)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()
        threading.excepthook = hook

    return TrackerLog(log, writer.close)


def _wandb(run: Path, run_id: str, about: Mapping[str, Any], step: int) -> TrackerLog:
    del step  # wandb drops steps that it has already
    wandb, name = _import("wandb", package="wandb"), run.resolve().name
    opened = wandb.init(project="foreguard", dir=str(run), id=run_id, name=name, config=dict(about), resume="allow")
    return TrackerLog(lambda values, *, step: opened.log(dict(values), step=step), opened.finish)


def _mlflow(run: Path, run_id: str, about: Mapping[str, Any], step: int) -> TrackerLog:
    del run_id, step  # mlflow names runs itself: a resumed run is a second one there
    mlflow = _import("mlflow", package="mlflow")
    mlflow.start_run(run_name=run.resolve().name)
    mlflow.log_dict(dict(about), "run.json")
    return TrackerLog(lambda values, *, step: mlflow.log_metrics(dict(values), step=step), mlflow.end_run)


def _import(module: str, *, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"trainer.trackers: {package} is not installed: pip install {package}, or leave it out") from error
