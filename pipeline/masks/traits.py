"""What has to be known of a mask to attack the system behind it, whoever wrote that system. Nothing here imports torch."""

from dataclasses import dataclass

from pipeline.masks.config import Fill, MaskConfig, MaskSource


@dataclass(frozen=True, kw_only=True)
class MaskTraits:
    """What has to be known of a system's mask to attack it. The defaults are those of a system without one."""

    source: str = "none"
    """Its name in records and messages: a ``MaskSource``, or a word of its author's."""
    follows_image: bool = False
    """It is predicted on the image under attack, so an attacker can move it."""
    hard_threshold: float | None = None
    """The foreground probability at which a hard gate flips, in (0,1); None where the mask is soft or fixed."""
    uses_seeds: bool = False
    """The mask or what stands in its place is drawn by the image's seed (``MaskContext.sample_seeds``)."""
    hides_pixels: bool = True
    """A pixel whose mask is 0 has no influence on the logits; not so where it is blurred into its neighbors."""
    has_logits: bool = True
    """The mask's logits can be had and attacked by themselves; ``traits_of`` finds out whether they can (``StagedSystem``)."""

    @property
    def is_attackable(self) -> bool:
        """An attack can climb the mask itself."""
        return self.follows_image and self.has_logits

    @property
    def why_fixed(self) -> str:
        """Why no attack climbs the mask, where none does."""
        if self.follows_image:
            return f"the system does not give the logits of its mask {self.source} (system.StagedSystem)"
        return f"the attacker cannot move the mask of the source {self.source}"

    @staticmethod
    def of(config: MaskConfig) -> "MaskTraits":
        """The traits of a ``TwoStage`` with these masks."""
        source, fill = config.source, config.fill
        return MaskTraits(
            source=source.value,
            follows_image=source.is_learned,
            hard_threshold=config.threshold if source == MaskSource.LEARNED_HARD else None,
            uses_seeds=config.uses_seeds,
            hides_pixels=fill != Fill.BLUR,
        )
