"""What a classifier is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_adapter_of: Callable[[Any], Any] = cache(TypeAdapter)

Architecture = Literal["small_resnet", "resnet18", "resnet34", "resnet50"]


@dataclass(frozen=True, kw_only=True, init=False)
class ClassifierConfig:
    """A ResNet (He et al. 2016, https://arxiv.org/abs/1512.03385). How many classes it has comes from the data.

    The defaults suit images of 32 to 64 px on a CPU.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    architecture: Architecture = "small_resnet"
    """small_resnet (four basic blocks, for 32 to 64 px and a CPU), or torchvision's resnet18, resnet34 or resnet50."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Channels of the first block of small_resnet; each of the three later blocks doubles them. null means 16. Only for it."""
    stem: Literal["small", "imagenet"] = "small"
    """First layers. small: a 3 x 3 convolution that keeps every pixel, for 32 to 64 px; imagenet: a 7 x 7 convolution and a pooling
    that together reduce the image to a quarter of its side (not for small_resnet)."""
    weights: Literal["imagenet"] | None = None
    """Initial weights: null draws them from the seed, imagenet downloads torchvision's once (needs stem imagenet)."""
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
        if self.architecture == "small_resnet":
            if self.stem != "small":
                raise ValueError("small_resnet has no imagenet stem: set stem to small, or choose resnet18, resnet34 or resnet50")
            if self.weights is not None:
                raise ValueError(
                    "small_resnet has no imagenet weights: set weights to null, or choose resnet18, resnet34 or resnet50"
                )
            return
        if self.width is not None:
            raise ValueError(f"width is a setting of small_resnet and {self.architecture} has its own: set width to null")
        if self.weights is not None and self.stem != "imagenet":
            raise ValueError("the imagenet weights do not fit the small stem: set stem to imagenet, or weights to null")
