"""What a segmenter is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_adapter_of: Callable[[Any], Any] = cache(TypeAdapter)


@dataclass(frozen=True, kw_only=True, init=False)
class SegmenterConfig:
    """A U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) on an encoder of segmentation_models_pytorch.

    The defaults suit images of 32 to 64 px on a CPU.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    encoder: str = "resnet18"
    """Encoder by its segmentation_models_pytorch name: resnet18, efficientnet-b0, mit_b0, or tu-NAME for a timm model."""
    encoder_depth: Annotated[int, Field(ge=3, le=5)] = 3
    """How often the encoder halves the image, 3 to 5. Choose it so that the deepest map keeps 2 x 2 pixels or more: 3 or 4 for
    32 px, up to 5 from 64 px on. Stages of the encoder beyond this depth are not part of the model."""
    decoder_channels: tuple[Annotated[int, Field(ge=1)], ...] = (64, 32, 16)
    """Channels of the decoder blocks, deepest first: one number for each level of encoder_depth."""
    encoder_weights: Literal["imagenet"] | None = None
    """Initial encoder weights: null draws them from the seed, imagenet downloads them once (for tu- names: timm's weights)."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Red, green and blue subtracted from images in [0,1] by the first layer; ImageNet's, as the imagenet weights expect."""
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = IMAGENET_STD
    """Red, green and blue scale by which the first layer divides afterwards, above 0."""

    def __init__(self, **values: Any) -> None:
        """Check the values as those of a YAML file are. Raises ValueError in one line that names the first wrong one."""
        try:
            self.__dict__.update(vars(_adapter_of(type(self)).validate_python(values)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(": ".join([*map(str, first["loc"]), message])) from error

    def __post_init__(self) -> None:
        if len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(
                f"decoder_channels has {len(self.decoder_channels)} numbers ({', '.join(map(str, self.decoder_channels))}) but"
                f" encoder_depth is {self.encoder_depth}: they must be equal, one number for each level"
            )
