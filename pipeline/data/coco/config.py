"""What can be chosen of COCO."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import AnyPath, Number, Seed, Whole, configuration
from pipeline.data.splits import Split


@configuration
class CocoPart:
    """One annotation file and the images it speaks of."""

    annotations: Annotated[str, Field(min_length=1, max_length=1000)]
    """File name under root/annotations, e.g. instances_train2017.json, or else under root, e.g. train/_annotations.coco.json."""
    images: Annotated[str, Field(min_length=1, max_length=1000)]
    """Folder of its images under root, e.g. train2017."""
    split: Split | None = None
    """train, val or test: all its images go there; null: drawn by image with val_fraction and test_fraction."""
    segmenter: tuple[str, ...] = ()
    """Categories or supercategories whose objects train segmenters and nothing else; then no class is taken from this part."""


@configuration
class CocoConfig:
    """COCO layout: root/annotations/*.json beside folders of images."""

    root: AnyPath
    """Folder that holds annotations/ and the image folders."""
    classes: Mapping[str, tuple[str, ...]] | None
    """Class name -> COCO categories or supercategories it is made of. No category may be in two classes. null: every category that
    has an object is a class. On the command line data.classes={...} replaces those of the file."""
    parts: tuple[CocoPart, ...]
    """Annotation files in order of preference: an image that a former part lists is not taken from a later one."""
    source: Literal["coco"] = "coco"
    """Name of the source."""
    image_size: Annotated[Whole, Field(ge=8, le=1024)] = 48
    """Side of the prepared images in pixels, 8 to 1024."""
    min_size: Annotated[Number, Field(ge=1, le=100_000)] = 32.0
    """Smallest shorter side of an object's box in pixels of the file, at least 1."""
    context: Annotated[Number, Field(ge=0, le=4)] = 0.1
    """Margin on each side of the crop as a share of the longer side of the box, 0 to 4."""
    max_overlap: Annotated[Number, Field(ge=0, le=1)] = 0.4
    """Largest share of an object's box that other annotated objects may cover, 0 to 1 (1: no limit). Objects of all categories and
    crowd regions count; where masks overlap, a pixel belongs to the smaller one, which is taken to be in front."""
    border: Annotated[Number, Field(ge=0, le=100_000)] | None = 1.0
    """An object whose box comes as near as this to the image border, in pixels, is truncated and rejected; null: keep them."""
    keep_crowd: bool = False
    """Take objects that are flagged as crowd: some labelling tools (CVAT) flag every object that was drawn with a brush."""
    val_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.15
    """Share of the drawn images for validation, 0 to 1."""
    test_fraction: Annotated[Number, Field(ge=0, lt=1)] = 0.15
    """Share of the drawn images for testing, 0 to 1."""
    seed: Seed = 0
    """Seed of the drawn splits."""
    download: bool = False
    """Fetch what is missing of the official 2017 archives (train images: 19 GB) to root. The images' Flickr licenses apply."""
