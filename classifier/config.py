"""What a classifier is made of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

_adapter_of: Callable[[Any], Any] = cache(TypeAdapter)

Positive = Annotated[float, Field(gt=0, le=1e6, strict=True)]
Finite = Annotated[float, Field(ge=-1e6, le=1e6, strict=True)]
Architecture = Literal["small_resnet", "resnet18", "resnet34", "resnet50", "timm"]
DOWNLOADED = "imagenet"


@dataclass(frozen=True, kw_only=True, init=False)
class ClassifierConfig:
    """A ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385), or any classifier of timm. How many classes it has comes from
    the data.

    The defaults suit images of 32 to 64 px on a CPU.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    architecture: Architecture = "small_resnet"
    """small_resnet (four basic blocks, for 32 to 64 px and a CPU), torchvision's resnet18, resnet34 or resnet50, or timm."""
    name: str | None = None
    """timm's name of the network, which may carry the tag of its weights: tf_efficientnet_lite0, convnext_tiny. Only for timm."""
    width: Annotated[int, Field(ge=1, le=512, strict=True)] | None = None
    """Channels of the first block of small_resnet; each of the three later blocks doubles them. null means 16. Only for it."""
    stem: Literal["small", "imagenet"] | None = None
    """First layers of a ResNet. small (which null means): a 3 x 3 convolution that keeps every pixel, for 32 to 64 px; imagenet: a
    7 x 7 convolution and a pooling that together reduce the image to a quarter of its side (not for small_resnet)."""
    weights: str | None = None
    """Initial weights of all layers but the last: null draws them from the seed, imagenet downloads the published ones once, else a
    file, or package:NAME:FILE inside an installed package: safetensors, or what torch.save wrote. A file needs weights_sha256;
    ResNets need stem imagenet; small_resnet has none."""
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that file, 64 hexadecimal digits: weights are known by their content, wherever they lie."""
    mean: tuple[Finite, Finite, Finite] | None = None
    """Red, green and blue subtracted from images in [0,1] by the first layer. null: what the published weights of the network
    expect, as timm states it; ImageNet's 0.485, 0.456, 0.406 for the ResNets."""
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
        if (self.name is not None) != (self.architecture == "timm"):
            raise ValueError(
                "architecture timm needs the name of one of its networks: set name, tf_efficientnet_lite0 for one"
                if self.name is None
                else f"name is of a network of timm and the architecture is {self.architecture}: set name to null"
            )
        if self.width is not None and self.architecture != "small_resnet":
            raise ValueError(
                f"width is a setting of small_resnet and {self.name or self.architecture} has its own: set width to null"
            )
        if self.stem is not None and self.architecture == "timm":
            raise ValueError(f"stem is a setting of the ResNets and {self.name} has its own: set stem to null")
        if self.architecture == "small_resnet":
            self._check_small()
        self._check_weights()

    def _check_small(self) -> None:
        others = "or choose resnet18, resnet34 or resnet50"
        if self.stem == "imagenet":
            raise ValueError(f"small_resnet has no imagenet stem: set stem to small, {others}")
        if self.weights is not None:
            raise ValueError(f"small_resnet has no {self.weights} weights: set weights to null, {others}")

    def _check_weights(self) -> None:
        if self.weights is not None and self.architecture != "timm" and self.stem != "imagenet":
            raise ValueError(f"the {self.weights} weights do not fit the small stem: set stem to imagenet, or weights to null")
        if self.weights_file is None and self.weights_sha256 is not None:
            raise ValueError("weights_sha256 is of a file, and weights names none: set it to null")
        if self.weights_file is not None and self.weights_sha256 is None:
            raise ValueError(f"weights={self.weights_file} is a file: set weights_sha256 to its SHA-256 (sha256sum prints it)")

    @property
    def weights_file(self) -> str | None:
        """The file, or the place in a package, that the network begins from; None where it begins from the seed or a download."""
        return None if self.weights == DOWNLOADED else self.weights

    def without_weights(self) -> "ClassifierConfig":
        """The same network, begun from the seed: what a checkpoint is loaded into."""
        return replace(self, weights=None, weights_sha256=None)
