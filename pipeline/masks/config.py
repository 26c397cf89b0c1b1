"""Which mask a system uses, and what fills the rest. ``MaskSource`` is the one list of sources; nothing here imports torch."""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config import Changes, Choice, Number, Whole, configuration

Needs = Literal["nothing", "oracle", "substitute", "segmenter", "frozen"]


class MaskSource(Choice):
    """Where the mask of a system comes from. One line is all there is to a source: name, needs, function, meaning.

    ==========  ==========================================================================================================
    nothing     (config, images, context) -> masks
    oracle      (config, oracle masks, context) -> masks: made from the data set's own, and held fixed under attack
    substitute  (config, substitutes, context) -> masks: the data set's too, in place of the image's own, and held fixed as well
    segmenter   (config, mask logits) -> masks: a gate on what the segmenter says of the image at hand, attacked or not
    frozen      the same gate on what it says of the clean image, held fixed under attack
    ==========  ==========================================================================================================

    The function is named by its place in this package, so that who chooses a source does not import torch. Masks are (B,1,H,W) in
    [0,1]. A last word ``True``: it draws from the images' seeds.
    """

    needs: Needs
    uses_seeds: bool
    _function: str

    def __new__(
        cls, name: str, needs: Needs = "nothing", function: str = "", meaning: str = "", uses_seeds: bool = False
    ) -> "MaskSource":
        """The string ``name`` with what is said of it. A look-up, ``MaskSource("box")``, comes with the name alone."""
        source = str.__new__(cls, name)
        source._value_ = name
        source.needs, source.meaning, source.uses_seeds, source._function = needs, meaning, uses_seeds, function
        return source

    NONE = "none", "nothing", "sources.everything", "all ones: the classifier sees the image as it is"
    ORACLE = "oracle", "oracle", "sources.unchanged", "the data set's own mask: an upper bound, not a defence"
    LEARNED = "learned", "segmenter", "gates.soft", "the segmenter's foreground probability, on the image at hand, attacked or not"
    LEARNED_HARD = "learned-hard", "segmenter", "gates.hard", "the same, thresholded to 0 and 1, a surrogate gradient backwards"
    JOINT = "joint", "segmenter", "gates.soft", "as learned, of a segmenter trained together with the classifier (train-joint)"
    FROZEN = "frozen", "frozen", "gates.soft", "the segmenter's probability on the clean image: what a mask out of reach is worth"
    RANDOM = "random", "oracle", "sources.random", "blobs that cover as many pixels as the oracle, elsewhere", True
    FOREIGN_SAME = "foreign-same", "substitute", "sources.unchanged", "the oracle of another image of the same class, of like area"
    FOREIGN_OTHER = "foreign-other", "substitute", "sources.unchanged", "the oracle of an image of another class, of like area"
    RANDOM_ALIKE = "random-alike", "substitute", "sources.unchanged", "random, with the oracle's area, components and perimeter"
    BOX = "box", "oracle", "sources.box", "the bounding box of the oracle"
    ERODED = "eroded", "oracle", "sources.eroded", "the oracle without a rim of radius pixels"
    DILATED = "dilated", "oracle", "sources.dilated", "the oracle with radius pixels of background around it"
    SHIFTED = "shifted", "oracle", "sources.shifted", "the oracle moved by shift pixels"
    INVERTED = "inverted", "oracle", "sources.inverted", "background only: what can be told from the surroundings alone"

    @property
    def is_learned(self) -> bool:
        """The mask follows the image under attack, through the segmenter."""
        return self.needs == "segmenter"

    @property
    def needs_segmenter(self) -> bool:
        """The mask is a segmenter's, of the image under attack or of the clean one."""
        return self.needs in ("segmenter", "frozen")

    @property
    def substitute(self) -> str | None:
        """What ``data.substitutes`` has to make for it; None: nothing."""
        return self.value if self.needs == "substitute" else None

    @property
    def needs_data(self) -> bool:
        """The mask comes with the data set: an image from elsewhere has none."""
        return self.needs in ("oracle", "substitute")

    def function(self) -> Callable[..., Any]:
        """What makes the masks. Imports its module, and torch with it."""
        made_by: Callable[..., Any] = resolve_name(f"{__package__}.{self._function}")
        return made_by


class Fill(Choice):
    """What stands where the mask is 0."""

    def __new__(cls, name: str, meaning: str = "") -> "Fill":
        """The string ``name`` with what is said of it."""
        fill = str.__new__(cls, name)
        fill._value_, fill.meaning = name, meaning
        return fill

    BLACK = "black", "0 everywhere"
    GREY = "grey", "0.5 everywhere"
    MEAN = "mean", "one color: the mean of the training images"
    NOISE = "noise", "uniform noise in [0,1], fixed per image by its seed"
    BLUR = "blur", "the image itself, blurred; leaks the background: colors and coarse shapes stay visible and open to attack"


@configuration
class MaskConfig:
    """Which mask, and what fills the rest.

    Examples:
        >>> MaskConfig(source="random", fill="noise").uses_seeds
        True
    """

    source: MaskSource = MaskSource.LEARNED
    """Where the mask comes from."""
    fill: Fill = Fill.GREY
    """What stands where the mask is 0; blur leaks the background."""
    radius: Annotated[Whole, Field(ge=1, le=1024)] = 2
    """Width in pixels by which eroded and dilated masks differ from the oracle, at least 1."""
    shift: Annotated[Whole, Field(ge=1, le=1024)] = 4
    """Distance in pixels by which the shifted mask is moved, at least 1; what leaves the image is lost, zeros follow."""
    direction: Literal["left", "right", "up", "down"] = "right"
    """Where the shifted mask is moved to: left, right, up or down."""
    threshold: Annotated[Number, Field(gt=0, lt=1)] = 0.5
    """Foreground probability above which a learned-hard mask is 1, between 0 and 1."""
    surrogate: Literal["identity", "sigmoid"] = "sigmoid"
    """Gradient of the learned-hard gate: sigmoid as if the gate were soft, identity hands it to the mask logits unchanged. Attacks
    found more through sigmoid (docs/results), hence the default."""
    blur_sigma: Annotated[Number, Field(gt=0, le=64)] = 4.0
    """Standard deviation in pixels of the blur fill, above 0 and up to 64."""

    @property
    def uses_seeds(self) -> bool:
        """What the classifier sees depends on the images' seeds."""
        return self.source.uses_seeds or (self.fill == Fill.NOISE and self.source != MaskSource.NONE)


MaskChanges = Annotated[Mapping[str, Any], Changes(MaskConfig)]
"""What of the masks is to be other than in training: a mapping of the fields of ``MaskConfig`` that are, null is as trained."""
OtherMasks = Annotated[Mapping[str, Any], Changes(MaskConfig, without=frozenset({"source"}))]
"""The same without the source, where that is known."""
