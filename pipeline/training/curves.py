"""The training curve of a run as a picture."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.runs.files import write_atomically
from pipeline.training.logging import read_metrics


def draw_curve(metrics_path: Path, picture_path: Path, *, best_epoch: int) -> None:
    """Draw the losses and the validation metrics of a ``metrics.csv`` over epochs, with the best epoch marked.

    Losses share one panel, metrics (in [0,1]) another. Raises ``RunError`` where the picture cannot be written.
    """
    columns = read_metrics(metrics_path)
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
    write_atomically(picture_path, buffer.getvalue())
