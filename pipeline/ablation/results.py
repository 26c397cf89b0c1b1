"""What finished runs left behind, read back as far as an ablation looks at it, and told in one line."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import SUMMARY, Summary, epsilon_text
from pipeline.training.result import RESULT, TrainingResult

AGAIN = "delete it, and the same foreguard ablate command makes it again"


def training_line(path: Path) -> str:
    """``val accuracy 0.812, test accuracy 0.790, 12 s``"""
    result = TrainingResult.read(path / RESULT)
    tested = f", test {_score(result.test)}" if result.test else ""
    return f"val {_score(result.val)}{tested}, {result.seconds:.0f} s"


def _score(scores: Mapping[str, float]) -> str:
    """That of a segmenter is its IoU, that of a classifier, or of both together, the accuracy."""
    name = "accuracy" if "accuracy" in scores else "iou"
    return f"{name} {scores[name]:.3f}"


def evaluation_line(path: Path) -> str:
    """``clean 91.0 %, robust 44.0 % at 4/255, 12.0 % at 8/255``"""
    result = Summary.read(path / SUMMARY)
    robust = [f"{percent(point.robust_accuracy)} at {epsilon_text(point.epsilon)}" for point in result.curve]
    return f"clean {percent(result.clean_accuracy)}, robust {', '.join(robust)}"


def percent(estimate: Estimate) -> str:
    """``81.2 %``, without its interval: that is the report's."""
    return f"{100 * estimate.value:.1f} %"
