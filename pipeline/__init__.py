"""The laboratory: the only place where masks and labels meet, and the public API.

>>> from pipeline import TwoStage, attack, evaluate

Names are imported when they are first used, so that a worker process which decodes images does not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.attacks.threat import ThreatModel
    from pipeline.evaluation.library import attack, evaluate
    from pipeline.masks.config import MaskConfig
    from pipeline.prediction.library import load_system, predict
    from pipeline.system import TwoStage

_WHERE = {
    "MaskConfig": "pipeline.masks.config",
    "ThreatModel": "pipeline.attacks.threat",
    "TwoStage": "pipeline.system",
    "attack": "pipeline.evaluation.library",
    "evaluate": "pipeline.evaluation.library",
    "load_system": "pipeline.prediction.library",
    "predict": "pipeline.prediction.library",
}

__all__ = ["MaskConfig", "ThreatModel", "TwoStage", "attack", "evaluate", "load_system", "predict"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
