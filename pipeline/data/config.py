"""What can be chosen of the data: which source, how it is prepared, how training images are varied."""

from typing import Annotated

from pydantic import Field

from pipeline.config import AnyPath, Number, Share, Workers, configuration
from pipeline.data.coco.config import CocoConfig
from pipeline.data.folder_config import FolderConfig
from pipeline.data.gtsrb.config import GtsrbConfig
from pipeline.data.synthetic.config import SyntheticConfig

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
    """Largest relative change of size: 0.1 draws from 0.9 to 1.1."""
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

    @property
    def changes_nothing(self) -> bool:
        return self == AugmentConfig()
