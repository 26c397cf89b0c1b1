"""Everything that a training step changes, and nothing else: what is saved is exactly what a resume needs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from pipeline.errors import CheckpointError
from pipeline.runs.checkpoints import load_training_state, save_training_state

FORMAT = 1


@dataclass(kw_only=True)
class Counters:
    """Where a run stands. There is no generator state: every draw is a function of the seed and of these numbers."""

    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches of the running epoch that are done."""
    step: int = 0
    """Optimizer steps taken."""
    loss_sum: float = 0.0
    """Sum of the losses of the running epoch's images, over all processes."""
    num_images: int = 0
    """Images of the running epoch that are done, over all processes."""
    best_value: float | None = None
    """The best validation score so far."""
    best_epoch: int = 0
    """The epoch that had it, from 1."""
    epochs_without_gain: int = 0
    """Epochs since then."""
    csv_bytes: int = 0
    """Length of metrics.csv."""
    seconds: float = 0.0
    """Time spent, over all sessions of the run."""


@dataclass(kw_only=True)
class TrainingState:
    """What the loop works on."""

    module: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None
    counters: Counters

    def save(self, path: Path) -> None:
        """Replace the file at once. Raises ``RunError`` where it cannot be written."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "counters": asdict(self.counters),
        }
        save_training_state(path, content)

    def restore(self, path: Path) -> None:
        """Continue from a file. Raises ``CheckpointError`` for a damaged file or one of another version or architecture."""
        content = load_training_state(path)
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: format {content.get('format')} is not format {FORMAT} of this version; begin another run"
            )
        try:
            self.module.load_state_dict(content["module"], strict=True)
            self.optimizer.load_state_dict(content["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(content["average"], strict=True)
            self.counters = Counters(**content["counters"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: does not fit this run: {' '.join(str(error).split())[:200]}") from error
