"""What can be chosen of predictions."""

from dataclasses import field
from typing import Literal

from pipeline.config import AnyPath, BatchSize, configuration
from pipeline.masks.config import MaskChanges


@configuration
class PredictConfig:
    """Classify the images of a file or folder and show the masks they are seen through."""

    images: AnyPath
    """An image, or a folder whose images are taken, those in sub-folders and behind links too: all formats that Pillow reads. Other
    files are left alone and counted."""
    run: AnyPath
    """Where the system is: an ablation (the adversarially trained system with learned masks that its report's answer is about, if
    there is one), an evaluation (the system that was attacked), a directory of foreguard export, a run of train-classifier, or
    the JSON of a checkpoint of it."""
    arm: str | None = None
    """Another system of the ablation, by its name in the report and in ablation.json."""
    segmenter_run: AnyPath | None = None
    """Run of the segmenter, or the JSON of a checkpoint; null: the one of that system."""
    out: AnyPath | None = None
    """Directory for predictions.jsonl, masks/ and overlays/; it must not exist, or be empty. null: predictions/ and the name of the
    images, in the current directory."""
    masks: MaskChanges = field(default_factory=dict)
    """What of the masks is other than in that system; null: as there. Trained on the oracle, it needs masks.source=learned."""
    square: Literal["crop", "pad"] = "crop"
    """How an image becomes a square. crop: its largest centered square. pad: the whole image, its border repeated, as the source
    folder prepares images by default. Either is then resized to the size of training: objects should fill it as they did there."""
    overlays: bool = True
    """Whether each image is also drawn with its mask, 256 to 512 pixels wide, into overlays/: most of what a small image costs."""
    batch_size: BatchSize = 64
    """Images in a batch. Changes speed and memory, and results no more than rounding does."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device; auto takes a GPU where there is one."""
