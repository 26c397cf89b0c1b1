"""What can be chosen of the user's own images."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import AnyPath, Number, Seed, Whole, configuration


@configuration
class FolderConfig:
    """Own data: images/CLASS/NAME.* beside masks/CLASS/NAME.*, or labels.csv with columns image, mask, label[, split][, group].

    images/ and masks/ may also lie in train/, val/ and test/, which then are the splits.

    Masks are grey, 0 background to 255 foreground, or have exactly two values, 0 and another. The EXIF orientation of images and
    masks is applied, as viewers do.
    """

    root: AnyPath
    """Folder that holds labels.csv, or else images/ and masks/ with one sub-folder per class; paths in the table start here."""
    source: Literal["folder"] = "folder"
    """Name of the source."""
    image_size: Annotated[Whole, Field(ge=8, le=1024)] = 64
    """Side of the prepared images in pixels, 8 to 1024."""
    context: Annotated[Number, Field(ge=0, le=4)] | None = None
    """null: the whole image, padded to a square; a number, 0 to 4: a square crop around the mask's box with this margin on each
    side, as a share of the box's longer side. Nothing is ever squashed."""
    val_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.15
    """Share of the samples without a split for validation, 0 to 1."""
    test_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.15
    """Share of the samples without a split for testing, 0 to 1."""
    seed: Seed = 0
    """Seed of the drawn splits."""
