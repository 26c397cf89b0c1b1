"""What a segmenter is made of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

Positive = Annotated[float, Field(gt=0, le=1e6, strict=True)]
Finite = Annotated[float, Field(ge=-1e6, le=1e6, strict=True)]
Architecture = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "dpt",
]
ONE_WIDTH_A_LEVEL = ("unet", "unetplusplus", "manet")
DOWNLOADED = "imagenet"

_adapter_of: Callable[[Any], Any] = cache(TypeAdapter)


@dataclass(frozen=True, kw_only=True, init=False)
class SegmenterConfig:
    """An architecture of segmentation_models_pytorch on any of its encoders, or timm's, with one output channel.

    The defaults are a U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) for images of 32 to 64 px on a CPU.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    architecture: Architecture = "unet"
    """unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet, segformer or dpt."""
    encoder: str = "resnet18"
    """Encoder by its segmentation_models_pytorch name: resnet18, efficientnet-b0, mit_b0, or tu-NAME for a timm model."""
    encoder_depth: Annotated[int, Field(ge=3, le=5, strict=True)] = 3
    """How often the encoder halves the image, 3 to 5. Choose it so that the deepest map keeps 2 x 2 pixels or more: 3 or 4 for
    32 px, up to 5 from 64 px on. Stages of the encoder beyond this depth are not part of the model."""
    decoder_channels: tuple[Annotated[int, Field(ge=1, le=4096, strict=True)], ...] | None = None
    """Channels of the decoder. unet, unetplusplus and manet take one number for each level of encoder_depth, deepest first (null:
    16 at the last, twice as many at each deeper one); the others take one number in all (null: the library's), linknet none."""
    encoder_weights: str | None = None
    """Initial weights of the encoder: null draws them from the seed, imagenet downloads the published ones once, else a file, or
    package:NAME:FILE inside an installed package: safetensors, or what torch.save wrote. Needs encoder_weights_sha256."""
    encoder_weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that file, 64 hexadecimal digits: weights are known by their content, wherever they lie."""
    mean: tuple[Finite, Finite, Finite] | None = None
    """Red, green and blue subtracted from images in [0,1] by the first layer. null: what the published weights of the encoder
    expect, as timm states it for tu- names; ImageNet's 0.485, 0.456, 0.406 for the others."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Red, green and blue scale by which the first layer divides afterwards, above 0. null: likewise, else 0.229, 0.224, 0.225."""

    def __init__(self, **values: Any) -> None:
        """Check the values as those of a YAML file are. Raises ValueError in one line that names the first wrong one."""
        try:
            self.__dict__.update(vars(_adapter_of(type(self)).validate_python(values)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(": ".join([*map(str, first["loc"]), message])) from error

    def __post_init__(self) -> None:
        if self.architecture in ONE_WIDTH_A_LEVEL:
            self._check_levels()
        elif len(self.decoder_channels or ()) > (self.architecture != "linknet"):
            most = "no decoder_channels" if self.architecture == "linknet" else "one number of decoder_channels"
            raise ValueError(f"{self.architecture} takes {most}, not {len(self.decoder_channels or ())}: set it to null")
        if self.weights_file is None and self.encoder_weights_sha256 is not None:
            raise ValueError("encoder_weights_sha256 is of a file, and encoder_weights names none: set it to null")
        if self.weights_file is not None and self.encoder_weights_sha256 is None:
            raise ValueError(
                f"encoder_weights={self.weights_file} is a file: set encoder_weights_sha256 to its SHA-256 (sha256sum prints it)"
            )

    def _check_levels(self) -> None:
        if self.decoder_channels is None:
            widths = tuple(16 * 2**level for level in reversed(range(self.encoder_depth)))
            object.__setattr__(self, "decoder_channels", widths)  # frozen: said once, here, so that a run records the numbers
        elif len(self.decoder_channels) != self.encoder_depth:
            raise ValueError(
                f"decoder_channels has {len(self.decoder_channels)} numbers ({', '.join(map(str, self.decoder_channels))}) but"
                f" encoder_depth is {self.encoder_depth}: they must be equal, one number for each level"
            )

    @property
    def weights_file(self) -> str | None:
        """The file, or the place in a package, that the encoder begins from; None where it begins from the seed or a download."""
        return None if self.encoder_weights == DOWNLOADED else self.encoder_weights

    def without_weights(self) -> "SegmenterConfig":
        """The same network, begun from the seed: what a checkpoint is loaded into."""
        return replace(self, encoder_weights=None, encoder_weights_sha256=None)
