"""How a training ended."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.runs.files import JsonFile

RESULT = "result.json"
EndedBy = Literal["epochs", "patience", "guard"]


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
    ended_by: EndedBy
    """epochs: all were done. patience: too many without a better score. guard: robustness had collapsed."""
    steps: int
    """Optimizer steps taken."""
    seconds: float
    """Time spent, over all sessions of the run."""

    def in_words(self, score: str) -> str:
        """One line: the score on both splits, and which epoch had it."""
        splits = {"val": self.val, "test": self.test}
        measured = ", ".join(f"{split} {score} {scores[score]:.4f}" for split, scores in splits.items() if scores is not None)
        return f"{measured}: epoch {self.epoch} of {self.epochs}, best by {self.selected_by}, {self.seconds:.0f} s"
