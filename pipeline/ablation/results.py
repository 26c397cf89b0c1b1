"""What finished runs left behind, read back as far as an ablation looks at it, and told in one line."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.evaluation.evaluate import SANITY
from pipeline.evaluation.summary import epsilon_text
from pipeline.runs.files import parse_json, read_json

Form = TypeVar("Form")
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


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An estimate, without its interval: that is the report's."""

    value: float
    n: int
    groups: int = 0

    @property
    def percent(self) -> str:
        """``81.2 %``"""
        return f"{100 * self.value:.1f} %"


@dataclass(frozen=True, kw_only=True)
class Point:
    """Robust accuracy at one epsilon."""

    epsilon: float
    robust_accuracy: Figure


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What is read of an evaluation's ``summary.json``."""

    clean_accuracy: Figure
    clean_mask_iou: Figure
    curve: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class _Sanity:
    images: int


def read_training(path: Path) -> TrainingResult:
    """What the training in a directory reached. Raises RunError where that cannot be read."""
    return _read(path / "result.json", TrainingResult)


def read_evaluation(path: Path) -> EvaluationResult:
    """What the evaluation in a directory found. Raises RunError where that cannot be read."""
    return _read(path / "summary.json", EvaluationResult)


def checked_images(path: Path) -> int:
    """How many images the sanity checks of an evaluation were made on; 0 where there were none. Raises RunError: damaged."""
    return _read(path / SANITY, _Sanity).images if (path / SANITY).is_file() else 0


def training_line(path: Path) -> str:
    """``val accuracy 0.812, test accuracy 0.790, 12 s``"""
    result = read_training(path)
    tested = f", test {result.test.text}" if result.test else ""
    return f"val {result.val.text}{tested}, {result.seconds:.0f} s"


def evaluation_line(path: Path) -> str:
    """``clean 91.0 %, robust 44.0 % at 4/255, 12.0 % at 8/255``"""
    result = read_evaluation(path)
    robust = [f"{point.robust_accuracy.percent} at {epsilon_text(point.epsilon)}" for point in result.curve]
    return f"clean {result.clean_accuracy.percent}, robust {', '.join(robust)}"


def _read(path: Path, form: type[Form]) -> Form:
    return parse_json(path, read_json(path), form, remedy=AGAIN)
