"""How a training ended."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.runs.files import JsonFile

RESULT = "result.json"


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
