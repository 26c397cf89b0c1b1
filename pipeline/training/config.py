"""What can be chosen of a training: the loop, what a step minimizes, and the three commands."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from classifier.config import ClassifierConfig
from pipeline.config import AnyPath, BatchSize, Count, Number, PreparedRun, Seed, Whole, Workers, configuration
from pipeline.data.config import AugmentConfig
from pipeline.masks.config import MaskConfig, MaskSource, OtherMasks
from pipeline.training.awp import AwpConfig
from pipeline.training.objectives import (
    AdversarialConfig,
    FastConfig,
    MartConfig,
    NaturalConfig,
    NoiseConfig,
    Objective,
    TradesConfig,
)
from segmenter.config import SegmenterConfig

ObjectiveConfig = Annotated[
    NaturalConfig | AdversarialConfig | TradesConfig | FastConfig | MartConfig | AwpConfig | NoiseConfig,
    Field(discriminator="name"),
]
"""Every objective. Another one is a class, and its name here."""
Tracker = Literal["tensorboard", "wandb", "mlflow"]


@configuration
class TrainerConfig:
    """Settings of the training loop, the same for both stages and all objectives. The defaults suit a CPU."""

    epochs: Count = 20
    """Passes over the train split. The learning rate schedule is stretched over them, so a resumed run keeps the number."""
    batch_size: BatchSize = 64
    """Images in a training step, over all processes together."""
    eval_batch_size: BatchSize = 256
    """Images in a validation batch, over all processes together. Changes speed and memory, not results."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """sgd: with Nesterov momentum. adamw: Adam with decoupled weight decay."""
    lr: Annotated[Number, Field(gt=0, le=1000)] = 2e-3
    """Highest learning rate of the schedule."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd, and the first beta of adamw; 0 to 1."""
    weight_decay: Annotated[Number, Field(ge=0, le=1000)] = 5e-4
    """Weight decay of matrices and kernels; biases and normalization layers have none."""
    schedule: Literal["cosine", "one-cycle", "constant"] = "one-cycle"
    """cosine: from lr to 0. one-cycle: up to lr, then down to 0 (both half cosines). constant: lr. Stepped with every batch."""
    warmup_epochs: Annotated[Number, Field(ge=0, le=1_000_000)] | None = None
    """Length of the rise to lr; null: 30 % of the epochs for one-cycle, none for the others."""
    clip_norm: Annotated[Number, Field(gt=0, le=1e9)] | None = 1.0
    """Gradients are scaled down to this L2 norm; null: never."""
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights, which is then what is validated and saved; null: none. It starts
    lower, at (1 + steps) / (10 + steps), so that the first weights are soon forgotten."""
    patience: Count | None = None
    """Stop after so many epochs without a better validation metric; null: never."""
    precision: Literal["float32", "bf16-mixed"] = "float32"
    """Of forward and backward passes in training. Validation is float32 always."""
    attack_precision: Literal["float32", "bfloat16"] = "float32"
    """Of the gradients that attacks in training climb; what is trained on the attacked images follows precision. bfloat16 is up to
    twice as fast on processors that have it (lscpu: avx512_bf16, amx_bf16) and on GPUs, and slower on others."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device; auto takes a GPU where there is one."""
    devices: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """Processes on each machine, one a device. From 2 on they train together (DistributedDataParallel)."""
    num_nodes: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """Machines that train together."""
    num_workers: Workers = 0
    """Processes that read and vary images beside the training process; 0: none. Changes speed, not results."""
    seed: Seed = 0
    """Decides initial weights, order, augmentation and the attacks' starting points."""
    channels_last: bool = True
    """Keep images and kernels in channels-last memory order, which is faster on CPUs and on GPUs with tensor cores. Networks of
    fewer than eight channels are kept contiguous where a fault of oneDNN endangers them (processors with AVX2, without AVX-512)."""
    deterministic: bool = False
    """Allow only algorithms that repeat their results to the bit. CPU runs do so anyway."""
    checkpoint_every: Count = 200
    """Steps between two savings of the training state within an epoch; it is saved at the end of every epoch as well."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Where metrics go beside metrics.csv. wandb and mlflow are imported only if named, and have to be installed."""


@configuration
class TrainConfig(PreparedRun):
    """What all trainings share."""

    objective: ObjectiveConfig = field(default_factory=NaturalConfig)
    """What a training step minimizes: natural, adversarial, trades, fast, awp or noise; of classes also mart."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How training images are varied."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """The training loop."""


@configuration
class TrainSegmenterConfig(TrainConfig):
    """Train the stage that predicts the foreground mask."""

    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    """What the segmenter is made of."""

    def __post_init__(self) -> None:
        check_for_segmenters(self.objective)


@configuration
class TrainClassifierConfig(TrainConfig):
    """Train the stage that classifies the masked image."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """What the classifier is made of."""
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(source=MaskSource.NONE))
    """Which mask the classifier sees images through in training, and what fills the rest."""
    segmenter_run: AnyPath | None = None
    """Run of a segmenter (or the JSON of one of its checkpoints): for the mask sources learned, learned-hard and frozen."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes, 0 to 1."""

    def __post_init__(self) -> None:
        if self.masks.source == MaskSource.JOINT:
            raise ValueError("masks.source=joint means a segmenter that is trained too: that is foreguard train-joint; say learned")
        check_smoothing(self.objective, self.label_smoothing)
        needs_segmenter = self.masks.source.needs_segmenter
        if needs_segmenter and self.segmenter_run is None:
            raise ValueError(
                f"masks.source={self.masks.source.value} needs a segmenter: set segmenter_run to the directory of its run"
            )
        if not needs_segmenter and self.segmenter_run is not None:
            raise ValueError(f"masks.source={self.masks.source.value} uses no segmenter: leave segmenter_run out")


@configuration
class TrainJointConfig(TrainConfig):
    """Train both stages on, end to end: the classification loss of the masked image and the loss of the mask."""

    prepared: AnyPath
    """Directory of the prepared data set that both were trained on."""
    run: AnyPath
    """Directory that the run is kept in; it must not hold one, but for resume. Its folders segmenter and classifier hold one stage
    each, and it stands for either: segmenter_run=RUN, classifier_run=RUN, run=RUN."""
    segmenter_run: AnyPath
    """Run of the segmenter that it begins with, or the JSON of one of its checkpoints."""
    classifier_run: AnyPath
    """Run of the classifier that it begins with, likewise, whatever its masks."""
    masks: OtherMasks = field(default_factory=dict)
    """What of the masks is other than in the classifier's training; null is as there. Their source is joint."""
    mask_weight: Annotated[Number, Field(ge=0, le=1e6)] = 1.0
    """Weight of the mask loss (BCE + Dice) beside the classification loss, 0 or more."""
    attack_on: Literal["sum", "each"] = "sum"
    """What attacks in training climb. sum: one attack on both losses together. each: two attacks, end to end on the classification
    loss and on the mask loss alone, each loss being trained on its own points: costs twice as much."""
    updates: Literal["together", "alternating"] = "together"
    """Which stage a step updates: both, or the segmenter and the classifier in turn (each on the whole loss)."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the class target that is spread over all classes, 0 to 1."""

    def __post_init__(self) -> None:
        check_attack_on(self.objective, self.attack_on)
        check_smoothing(self.objective, self.label_smoothing)


def check_for_segmenters(objective: Objective) -> None:
    """Raises ValueError for an objective that is of classes alone."""
    if not objective.for_segmenters:
        raise ValueError(f"objective={objective.name}: its losses are of classes: choose another one for a segmenter")


def check_attack_on(objective: Objective, attack_on: str) -> None:
    """Raises ValueError where each loss of a joint training is to be attacked by itself, and the objective has one for both."""
    if attack_on == "each" and (objective.name == "awp" or not objective.for_segmenters):
        raise ValueError(f"attack_on=each: objective={objective.name} has one loss for both stages: say attack_on=sum")


def check_smoothing(objective: Objective, label_smoothing: float) -> None:
    """Raises ValueError where labels are to be smoothed that the objective has no place for."""
    if label_smoothing and not objective.smooths_labels:
        raise ValueError(f"label_smoothing: the loss of objective={objective.name} knows none: say label_smoothing=0")
