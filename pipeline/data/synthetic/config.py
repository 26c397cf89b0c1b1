"""What can be chosen of the embedded source."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Images, Number, Seed, Whole, configuration


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
    background_correlation: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the training images whose background has the texture and the hue of the class; elsewhere they are drawn freely."""
    shape_leak: Annotated[Number, Field(ge=0, le=1)] = 0.0
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
