"""What one training is about."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.data.config import AugmentConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.runs.checkpoints import Checkpoint, SegmenterReference, StageKind
from pipeline.runs.provenance import provenance
from pipeline.training.config import AdversarialConfig, NaturalConfig, TradesConfig, TrainerConfig
from pipeline.training.tasks import BoundStage


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: what is trained on what and how, and where it is kept."""

    command: str
    """The command of the command line."""
    config: Mapping[str, Any]
    """The whole configuration, JSON-able: it is recorded, and compared when the run is resumed."""
    inputs: Mapping[str, str]
    """Fingerprints of what is read, by name."""
    run: Path
    resume: bool
    kind: StageKind
    architecture: Mapping[str, Any]
    """The part of the configuration that the module is built from."""
    module: nn.Module
    """With its initial weights, on the CPU."""
    bind: Callable[[nn.Module], BoundStage]
    """Makes a stage of the module, or of another one of its kind (the moving average)."""
    objective: NaturalConfig | AdversarialConfig | TradesConfig
    trainer: TrainerConfig
    dataset: PreparedDataset
    augment: AugmentConfig | None
    segmenter: SegmenterReference | None = None
    """The segmenter whose masks a classifier is trained with."""

    def checkpoint(self, *, step: int, epoch: int, metrics: Mapping[str, float]) -> Checkpoint:
        """What is said about the weights of a moment of this training."""
        return Checkpoint(
            kind=self.kind,
            architecture=dict(self.architecture),
            config=dict(self.config),
            classes=self.dataset.classes,
            image_size=self.dataset.image_size,
            data_fingerprint=self.dataset.fingerprint,
            mean_color=self.dataset.train_mean(),
            provenance=provenance(),
            step=step,
            epoch=epoch,
            metrics=dict(metrics),
            segmenter=self.segmenter,
        )

    def has_test_split(self) -> bool:
        """A data set may have none."""
        return bool((self.dataset.samples["split"] == "test").any())


def describe(job: Job) -> dict[str, Any]:
    """What trackers are told about a training."""
    return {"command": job.command, "config": dict(job.config), "inputs": dict(job.inputs), "provenance": asdict(provenance())}
