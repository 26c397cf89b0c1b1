"""Masks in testing that are other than in training."""

import dataclasses
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from pipeline.config import Number
from pipeline.masks import Fill, MaskConfig, MaskSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskOverride:
    """What of the masks is to be other than in training; null is as trained."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    source: MaskSource | None = None
    """Where the mask comes from: none, oracle, learned, learned-hard, frozen, random, box, eroded, dilated, shifted or inverted."""
    fill: Fill | None = None
    """What stands where the mask is 0: black, grey, mean, noise or blur."""
    radius: Annotated[int, Field(ge=1)] | None = None
    """Width in pixels by which eroded and dilated masks differ from the oracle, at least 1."""
    shift: Annotated[int, Field(ge=1)] | None = None
    """Distance in pixels by which the shifted mask is moved, at least 1."""
    direction: Literal["left", "right", "up", "down"] | None = None
    """Where the shifted mask is moved to: left, right, up or down."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Foreground probability above which a learned-hard mask is 1, between 0 and 1."""
    surrogate: Literal["identity", "sigmoid"] | None = None
    """Gradient of the learned-hard gate: identity or sigmoid."""
    blur_sigma: Annotated[Number, Field(gt=0)] | None = None
    """Standard deviation in pixels of the blur fill, above 0."""

    def applied(self, trained: MaskConfig) -> MaskConfig:
        """The masks of training with what is set here."""
        changes = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(trained, **changes)
