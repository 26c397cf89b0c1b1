"""What can be chosen of GTSRB."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import AnyPath, Number, Seed, Whole, configuration


@configuration
class GtsrbConfig:
    """GTSRB as torchvision reads it (gtsrb/GTSRB/Training, gtsrb/GTSRB/Final_Test/Images, gtsrb/GT-final_test.csv), as the archives
    unpack (GTSRB/Final_Training/Images ...), or as Kaggle has it (Train.csv, Test.csv). Either part may be missing.

    Whoever knows the tracks of the test images may add a column Group to a table; else a test image is its own group.
    """

    root: AnyPath
    """Folder that holds it."""
    source: Literal["gtsrb"] = "gtsrb"
    """Name of the source."""
    image_size: Annotated[Whole, Field(ge=8, le=1024)] = 32
    """Side of the prepared images in pixels, 8 to 1024."""
    context: Annotated[Number, Field(ge=0, le=4)] = 0.1
    """Margin on each side of the crop as a share of the longer side of the ROI, 0 to 4. The files hold about 0.1."""
    min_roi: Annotated[Whole, Field(ge=1, le=100_000)] = 1
    """Smallest shorter side of the ROI in pixels of the file, at least 1. Above 15 the official test set is no longer whole."""
    refine: bool = True
    """Refine masks against the image; false: the sign's shape as it fills the ROI."""
    classes: tuple[Annotated[Whole, Field(ge=0, le=42)], ...] | None = None
    """Class numbers, 0 to 42, in the order of the labels; null: all that there are."""
    val_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.15
    """Share of the training images for validation, 0 to 1, drawn by track. The test set is the official one."""
    seed: Seed = 0
    """Seed of the drawn split."""
    download: bool = False
    """Fetch what is missing of the official archives (26,640 training and 12,630 test images, 0.3 GB) to root by torchvision."""
