"""What can be chosen of an export."""

from dataclasses import field
from typing import Literal

from pipeline.config import AnyPath, configuration
from pipeline.masks.config import MaskChanges

Kind = Literal["torch-export", "onnx"]


@configuration
class ExportConfig:
    """Write a trained system with both its stages as one directory that loads without its run."""

    run: AnyPath
    """Where the system is: an ablation (the adversarially trained system with learned masks that its report's answer is about), an
    evaluation (the system that was attacked), or a run of train-classifier. The figures of the model card are those of the
    evaluation."""
    out: AnyPath
    """Directory to be written."""
    force: bool = False
    """Replace an exported system that lies there, unless it holds files that are not of it."""
    arm: str | None = None
    """Another system of the ablation, by its name in the report and in ablation.json."""
    segmenter_run: AnyPath | None = None
    """Another segmenter, by its run or the JSON of a checkpoint; null: the one of that system."""
    masks: MaskChanges = field(default_factory=dict)
    """What of the masks is other than in that system; null: as there. Trained on the oracle, it needs masks.source=learned."""
    files: tuple[Kind, ...] = ("torch-export", "onnx")
    """Files of the joint system, from images to logits and mask, beside the weights: torch-export (system.pt2), onnx (system.onnx,
    which needs the extra foreguard[export]); []: none. Each has to agree with the module before it is kept."""
    half: bool = False
    """Weights in half precision, files of half the size. Only if no prediction changes on up to 200 test images of prepared, which
    has to be named; a verdict under attack may still change: evaluate the export again."""
    prepared: AnyPath | None = None
    """A prepared data set, on up to 200 of whose test images the files have to agree; null: on seeded images."""
    push: str | None = None
    """Also upload the directory to the Hugging Face hub: user/name. Who you are, hf auth login or HF_TOKEN says. A system that was
    pushed there before is replaced."""
    public: bool = False
    """Whether everybody can see a repository that push makes. One that is there already stays as private as it is."""

    def __post_init__(self) -> None:
        if self.half and self.prepared is None:
            raise ValueError("half: needs prepared=..., whose test images have to get the same predictions")
