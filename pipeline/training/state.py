"""Everything that a training step changes, and nothing else: what is saved is exactly what a resume needs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZipFile

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from pipeline.config import adapter_of
from pipeline.errors import CheckpointError, said
from pipeline.runs.files import read_bytes, write_atomically

FORMAT = 1
Count = Annotated[int, Field(ge=0)]
REMEDY = "delete it, and resume=true begins the run anew"


@dataclass(kw_only=True)
class Counters:
    """Where a run stands. There is no generator state: every draw is a function of the seed and of these numbers."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    epoch: Count = 0
    """Epochs finished."""
    batch: Count = 0
    """Batches of the running epoch that are done."""
    step: Count = 0
    """Optimizer steps taken."""
    loss_sum: float = 0.0
    """Sum of the losses of the running epoch's images, over all processes."""
    num_images: Count = 0
    """Images of the running epoch that are done, over all processes."""
    best_value: float | None = None
    """The best validation score so far."""
    best_epoch: Count = 0
    """The epoch that had it, from 1."""
    epochs_without_gain: Count = 0
    """Epochs since then."""
    seconds: float = 0.0
    """Time spent, over all sessions of the run."""
    history: list[dict[str, float]] = field(default_factory=list)
    """What ``metrics.csv`` says: one row an epoch."""

    def time_left(self, epochs: int) -> str:
        """``, about 40 s left`` of so many epochs, if the rest take as long; empty at the end."""
        left = self.seconds / self.epoch * (epochs - self.epoch)
        return f", about {left:.0f} s left" if left else ""

    def end_epoch(self, measured: Mapping[str, float], *, selector: str, learning_rate: float) -> bool:
        """Close the running epoch with what its validation ``measured``; whether its ``selector`` is the best so far."""
        train_loss = self.loss_sum / self.num_images
        self.epoch, self.batch, self.loss_sum, self.num_images = self.epoch + 1, 0, 0.0, 0
        better = self.best_value is None or measured[selector] > self.best_value
        if better:
            self.best_value, self.best_epoch = measured[selector], self.epoch
        self.epochs_without_gain = 0 if better else self.epochs_without_gain + 1
        row = {"epoch": self.epoch, "step": self.step, "learning_rate": learning_rate, "train_loss": train_loss}
        self.history.append(row | {f"val_{name}": value for name, value in measured.items()} | {"seconds": round(self.seconds, 1)})
        return better


@dataclass(kw_only=True)
class TrainingState:
    """What the loop works on."""

    module: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None
    counters: Counters

    before_step: dict[str, Tensor] = field(default_factory=dict)
    """While a step runs: what it moves before the optimizer does."""
    saved_step: int | None = None
    """The step that the file stands at."""

    def begin_step(self, *, moves_weights: bool) -> None:
        """Keep what the step moves before the optimizer does: the statistics of batch normalization, and the weights where it does.

        Until ``before_step`` is emptied, the state that is saved is that before the step.
        """
        learned = {} if moves_weights else dict(self.module.named_parameters())
        self.before_step = {name: value.clone() for name, value in self.module.state_dict().items() if name not in learned}

    @contextmanager
    def counted_if_written(self) -> Iterator[None]:
        """What fails in here leaves the counters as they were: a state that is saved on the way out lacks no checkpoint."""
        before = replace(self.counters, history=list(self.counters.history))
        try:
            yield
        except BaseException:
            self.counters = before
            raise

    def save(self, path: Path) -> None:
        """Replace the file at once. Raises ``RunError`` where it cannot be written."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "module": {**self.module.state_dict(), **self.before_step},
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "counters": asdict(self.counters),
        }
        buffer = BytesIO()
        torch.save(content, buffer)
        write_atomically(path, buffer.getvalue())
        self.saved_step = self.counters.step

    def restore(self, path: Path) -> None:
        """Continue from a file. Raises ``CheckpointError`` for a damaged file or one of another version or architecture."""
        content = read_state(path)
        if content.get("format") != FORMAT:
            raise CheckpointError(f"{path}: format {content.get('format')} is not format {FORMAT} of this version; {REMEDY}")
        try:
            self.module.load_state_dict(content["module"], strict=True)
            self.optimizer.load_state_dict(content["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(content["average"], strict=True)
            self._check_moments()
            self.counters = adapter_of(Counters).validate_python(content["counters"])
            if len(self.counters.history) != self.counters.epoch:
                raise ValueError(f"{self.counters.epoch} epochs are done, and {len(self.counters.history)} are in the table")
            self.saved_step = self.counters.step
        except Exception as error:  # torch has one of its own for every way in which an edited file can be wrong
            raise CheckpointError(f"{path}: does not fit this run: {said(error, 200)}; {REMEDY}") from error

    def _check_moments(self) -> None:
        """torch takes moments of any shape, and fails at the next step."""
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if torch.is_tensor(value) and value.ndim and value.shape != parameter.shape:
                    shapes = f"a parameter {tuple(parameter.shape)} is {tuple(value.shape)}"
                    raise ValueError(f"{name} of {shapes}")


def read_state(path: Path) -> dict[str, Any]:
    """The content of a state file, running no code from it (``weights_only=True``). Raises ``CheckpointError``."""
    content = BytesIO(read_bytes(path, error=CheckpointError))
    try:
        damaged = ZipFile(content).testzip()  # torch does not check the sums that it writes
    except Exception as error:  # zlib, struct and zipfile each have their own
        raise CheckpointError(f"{path}: damaged: {said(error, 200)}; {REMEDY}") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged: wrong checksum of {damaged}; {REMEDY}")
    content.seek(0)
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can fail with any exception
        raise CheckpointError(f"{path}: no training state: {str(error).splitlines()[0]}; {REMEDY}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: no training state: holds a {type(state).__name__}; {REMEDY}")
    return state
