"""What finished runs left behind, read back as far as an ablation looks at it, and told in one line."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import SANITY, SUMMARY, SanityReport, Summary, epsilon_text
from pipeline.runs.files import parse_json, read_json

AGAIN = "delete it, and the same foreguard ablate command makes it again"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a stage reaches on a split, 0 to 1: a segmenter an IoU, a classifier an accuracy."""

    iou: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        if (self.iou is None) == (self.accuracy is None):
            raise ValueError("expected iou, or accuracy")

    @property
    def text(self) -> str:
        """``accuracy 0.812``"""
        return f"accuracy {self.accuracy:.3f}" if self.iou is None else f"iou {self.iou:.3f}"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What is read of a training's ``result.json``."""

    val: Scores
    test: Scores | None = None
    seconds: float


def read_training(path: Path) -> TrainingResult:
    """What the training in a directory reached. Raises RunError where that cannot be read."""
    path = path / "result.json"
    return parse_json(path, read_json(path), TrainingResult, remedy=AGAIN)


def checked_images(path: Path) -> int:
    """How many images the sanity checks of an evaluation were made on; 0 where there were none. Raises RunError: damaged."""
    return SanityReport.read(path / SANITY).images if (path / SANITY).is_file() else 0


def training_line(path: Path) -> str:
    """``val accuracy 0.812, test accuracy 0.790, 12 s``"""
    result = read_training(path)
    tested = f", test {result.test.text}" if result.test else ""
    return f"val {result.val.text}{tested}, {result.seconds:.0f} s"


def evaluation_line(path: Path) -> str:
    """``clean 91.0 %, robust 44.0 % at 4/255, 12.0 % at 8/255``"""
    result = Summary.read(path / SUMMARY)
    robust = [f"{percent(point.robust_accuracy)} at {epsilon_text(point.epsilon)}" for point in result.curve]
    return f"clean {percent(result.clean_accuracy)}, robust {', '.join(robust)}"


def percent(estimate: Estimate) -> str:
    """``81.2 %``, without its interval: that is the report's."""
    return f"{100 * estimate.value:.1f} %"
