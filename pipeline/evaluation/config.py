"""What can be chosen of an evaluation."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from pipeline.attacks.suite import AttackSuite
from pipeline.config import AnyPath, BatchSize, Count, Images, Number, PreparedRun, Seed, Whole, configuration
from pipeline.data.splits import Split
from pipeline.masks.config import MaskChanges
from pipeline.runs.zoo import SCHEME


@configuration
class EvaluationBasics:
    """What an evaluation by itself and those of an ablation share."""

    split: Split = "test"
    """Images that are attacked: train, val or test."""
    max_images: Images | None = None
    """Attack only so many images, with the class shares of the split, the same for every system; null: all."""
    batch_size: BatchSize = 64
    """Images in a batch. Changes speed and memory, and results no more than rounding does."""
    part_size: Count = 256
    """Images whose records are written together. What a killed evaluation repeats is one attack on so many images."""
    gallery_images: Annotated[Whole, Field(ge=0, le=1000)] = 6
    """Images of each outcome that are kept for the gallery of the report, with their masks and perturbations; 0 is none."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device; auto takes a GPU where there is one. Verdicts are float32 on all of them."""
    devices: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """So many processes of this machine share the evaluation: each on a GPU of its own, or on its share of the cores."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the gradients that attacks climb. bf16 is about twice as fast where the processor has bfloat16 instructions; every
    success is checked in float32, and survivors may be a little overestimated."""


@configuration
class EvaluateConfig(EvaluationBasics, PreparedRun):
    """Attack a trained system and record the outcome for every image."""

    run: AnyPath
    """Directory of this evaluation: its records, its summary, how it was made; it must not hold one, but for resume."""
    shared: bool = False
    """Share the evaluation with other processes: give this same command as often as you like, on all machines that see the
    directory. Each takes parts that nobody has, those of a killed one included, until none is left; one sums up."""
    classifier_run: AnyPath | None = None
    """Run of the classifier, whose best checkpoint is meant, or the JSON of one of its checkpoints; or a directory of foreguard
    export, which has its masks and segmenter with it. Either this or system."""
    system: str | None = None
    """A system of your own in place of the runs: my_package.module:build, a function or class that needs no argument and returns a
    torch.nn.Module from images (B,3,H,W) in [0,1], not normalized, to logits (B,K), whose class k is class k of the data set. It
    may lie in the working directory. zoo:NAME: a system behind a published figure, as foreguard list zoo has it."""
    segmenter_run: AnyPath | None = None
    """Run of the segmenter, likewise; null: the one that the classifier was trained with."""
    masks: MaskChanges = field(default_factory=dict)
    """What of the masks is other than in training; null is as in training."""
    attack: AttackSuite
    """Threat model and attacks; an image counts only if none of them has it misclassified."""
    seed: Seed = 0
    """Decides the random starts of the attacks."""
    attack_all: bool = False
    """Run every attack to its end on every image that is right clean, also on misclassified ones: for galleries and transfer."""
    save_images: bool = False
    """Keep the adversarial images, float32, beside the records."""
    sanity: bool = False
    """Also look for what gives false robustness away, and write sanity.json."""
    sanity_images: Count = 64
    """Images that the sanity checks use, and as many again of those that the records leave standing."""
    sanity_epsilon: Annotated[Number, Field(gt=0, le=10_000)] | None = None
    """Epsilon that the sanity checks are made at, out of attack.threat.epsilons; null: the largest at which an image is robust."""
    allow_other_data: bool = False
    """Evaluate on another data set than the stages were trained on. Classes are matched by name, whatever their order."""
    class_map: Mapping[str, str] = field(default_factory=dict)
    """With allow_other_data: for a class of this data set, the classifier's class that it is, e.g. class_map={mug: cup}."""

    @property
    def is_shared(self) -> bool:
        """Several processes work in the directory of the run."""
        return self.shared or self.devices > 1

    def __post_init__(self) -> None:
        if (self.system is None) == (self.classifier_run is None):
            raise ValueError("say either classifier_run=..., a trained system, or system=MODULE:CALLABLE, one of your own")
        if self.sanity_epsilon is not None and self.sanity_epsilon not in self.attack.threat.epsilons:
            raise ValueError("sanity_epsilon: is not one of attack.threat.epsilons")
        if self.system is not None:
            own = ("segmenter_run", "masks", "allow_other_data", "class_map")
            for name in own[:2] if self.system.startswith(SCHEME) else own:
                if getattr(self, name):
                    raise ValueError(f"{name} is a setting of trained systems, and system={self.system} is your own: leave it out")
