"""What can be chosen of the data: which source and what of it, how it is prepared, how training images are varied."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import AnyPath, Images, Number, Seed, Share, Whole, Workers, configuration
from pipeline.data.splits import Split


@configuration
class SyntheticConfig:
    """Procedural signs: a glyph (the class) on a silhouette, before a cluttered background."""

    source: Literal["synthetic"] = "synthetic"
    """Signs are generated, nothing is read."""
    image_size: Annotated[Whole, Field(ge=16, le=1024)] = 32
    """Side of the stored images, pixels, 16 to 1024."""
    seed: Seed = 0
    """Decides every draw; sample number i of a split depends on nothing else but i, the split and the other knobs."""
    num_train: Images = 4000
    """Images in the training split."""
    num_val: Images = 500
    """Images in the validation split."""
    num_test: Images = 1000
    """Images in the test split."""
    num_classes: Annotated[Whole, Field(ge=2, le=20)] = 10
    """Classes, 2 to 20, one glyph each; classes take turns, so their counts differ by one at most."""
    background_correlation: Share = 0.0
    """Share of the training images whose background has the texture and the hue of the class; elsewhere they are drawn freely."""
    shape_leak: Share = 0.0
    """Share of the images (all splits) with the silhouette of the class; the others draw one of the 10 at random. With 0 the
    silhouette says nothing. With 1 it is a function of the class: it names the class for up to 10 classes, beyond that class
    k shares it with class k + 10."""
    min_scale: Annotated[Number, Field(ge=0.2, le=0.65)] = 0.45
    """Smallest sign: square root of its share of the image, 0.2 to 0.65."""
    max_scale: Annotated[Number, Field(ge=0.2, le=0.65)] = 0.65
    """Largest sign, measured alike; at most 0.65, so that each sign lies within the image."""
    max_rotation: Annotated[Number, Field(ge=0, le=20)] = 10.0
    """Largest turn to either side, degrees, 0 to 20; beyond that glyphs could be taken for each other."""
    max_distractors: Annotated[Whole, Field(ge=0, le=50)] = 5
    """Parts of signs scattered over the background: 0 to this many."""
    light: Annotated[Number, Field(ge=0, le=0.8)] = 0.3
    """Strength of the lighting, 0 to 0.8: brightness and the slope of a shadow across the image vary by up to this share."""
    max_blur: Annotated[Number, Field(ge=0, le=1.5)] = 0.5
    """Largest Gaussian blur of the image (not of the mask), standard deviation in pixels, 0 to 1.5."""
    sensor_noise: Annotated[Number, Field(ge=0, le=0.2)] = 0.01
    """Standard deviation of the pixel noise, on the scale of [0, 1] pixels; 8/255 is legal."""

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale ({self.min_scale}) is above max_scale ({self.max_scale})")


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
    max_overlap: Share = 0.4
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


AnySource = Annotated[SyntheticConfig | GtsrbConfig | CocoConfig | FolderConfig, Field(discriminator="source")]


@configuration
class PrepareConfig:
    """Configuration of ``foreguard prepare``."""

    data: AnySource
    """Where images, masks and labels come from."""
    prepared: AnyPath
    """Directory of the prepared data set, written whole or not at all."""
    workers: Workers | None = None
    """Processes that decode and draw; null: one per usable core, 0: none but this one."""
    preview: bool = False
    """Also write a contact sheet (image, mask outline, label) to preview.png in the prepared directory."""


@configuration
class AugmentConfig:
    """How training images are varied; val and test images never are. All zero or false: no augmentation."""

    shift: Annotated[Number, Field(ge=0.0, le=0.5)] = 0.0
    """Largest translation, as a share of the image side."""
    scale: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.0
    """Largest relative change of width and of height, each drawn by itself: 0.1 draws from 0.9 to 1.1."""
    rotation: Annotated[Number, Field(ge=0.0, le=180.0)] = 0.0
    """Largest rotation to either side, in degrees."""
    brightness: Share = 0.0
    """Largest change of brightness, as a share of full range."""
    contrast: Share = 0.0
    """Largest relative change of contrast."""
    noise: Share = 0.0
    """Largest standard deviation of added Gaussian noise, as a share of full range."""
    horizontal_flip: bool = False
    """Mirror every second image. Never for traffic signs: it turns left into right."""
