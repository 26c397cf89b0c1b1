"""What is seen of an attack at each of its points, and at the end: what the system itself says, and which path did it."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ablation.counterfactual import Attribution, attribute, path_margins
from pipeline.attacks.apgd_l1 import steps_in_own_ball
from pipeline.attacks.objectives import margin
from pipeline.attacks.specs import ClassAttack, GuidedAttack, MaskAttack
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import Observer
from pipeline.evaluation.inputs import checked_batch
from pipeline.evaluation.library import attack
from pipeline.evaluation.own import attack_batch_of
from pipeline.lab.bench import Sample
from pipeline.lab.config import Settings
from pipeline.lab.stepping import stepwise
from pipeline.system import TwoStage, attacked, masks_and_logits, with_attackable_mask
from segmenter.metrics import intersection_over_union


def num_points(settings: Settings) -> int:
    """Points that the attack visits: the clean image, each start, and one a step in the ball."""
    spec = settings.spec
    return 1 + (spec.mask_steps + spec.class_steps + 2 if isinstance(spec, GuidedAttack) else settings.steps + 1 - unseen(settings))


def unseen(settings: Settings) -> int:
    """Steps in larger balls, of which no point may be returned: those that Auto-PGD in the L1 ball begins with."""
    spec = settings.spec
    begins_outside = settings.norm == "l1" and isinstance(spec, ClassAttack | MaskAttack) and spec.search == "apgd"
    return settings.steps - steps_in_own_ball(settings.steps) if begins_outside else 0


def second_start(settings: Settings) -> int | None:
    """The number of the point that a second phase begins with; None where there is one phase."""
    spec = settings.spec
    return spec.mask_steps + 2 if isinstance(spec, GuidedAttack) else None


class Phase(StrEnum):
    """Where in an attack a point lies."""

    CLEAN = "clean"
    SEARCH = "search"
    RESULT = "result"
    """What the attack returns: the point of the largest margin, perhaps an earlier one."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One point of an attack, as the attacked system sees it."""

    phase: Phase
    number: int
    """Of the point among those that the search visits, the clean image being 0; the result has that of the last one."""
    image: Float[Tensor, "3 height width"]
    mask: Float[Tensor, "height width"]
    """What the system sees the image through; all ones where there is no mask."""
    probabilities: Float[Tensor, " classes"]
    margin: float
    """Largest other logit minus the label's: above 0 it is misclassified."""
    mask_iou: float
    """Of the mask, at one half, with the data set's; with that of the clean image where there is none."""
    misclassified: bool
    pixels_margin: float | None
    """The margin of this image seen through the clean image's mask; None where the mask does not follow the image."""
    mask_margin: float | None
    """The margin of the clean image seen through this one's mask; None likewise."""

    @property
    def prediction(self) -> int:
        """The class of the largest logit."""
        return int(self.probabilities.argmax())


class AttackedImage:
    """One system and one image, which can be looked at and attacked."""

    def __init__(self, system: TwoStage, sample: Sample, device: torch.device) -> None:
        self.system, self.sample, self._device = system, sample, device
        if sample.label is None:
            self.label = int(self._batch(0).system(self._batch(0).images, self._batch(0).context).argmax())
        else:
            self.label = sample.label
        self.batch = self._batch(self.label)
        """With the label, and the context that ``attack`` has for a single image."""

    def _batch(self, label: int) -> AttackBatch:
        own = checked_batch(self.sample.image, torch.tensor([label]), self.sample.mask)
        with torch.no_grad(), attacked(self.system):
            return attack_batch_of(self.system, own, positions=range(1), device=self._device, batch_size=1)

    @cached_property
    def clean(self) -> Frame:
        """The image as it is."""
        return self.look(self.batch.images, Phase.CLEAN, 0)

    def why_skipped(self, settings: Settings) -> str | None:
        """Why such an attack says nothing about this system, in a few words; None where it does."""
        return settings.spec.why_skipped(self.batch.conditions(settings.threat))

    def frames(self, settings: Settings) -> Generator[Frame]:
        """Every point that ``attack`` visits, as it does, then its result. Raises ConfigError where the attack does not apply."""
        yield self.clean
        last = 0
        points = stepwise(lambda observer: self._attack(settings, observer))
        try:
            while True:
                visited = next(points)
                if torch.equal(visited, self.batch.images):  # the image itself, which every search of an attack scores first
                    continue
                last += 1
                yield self.look(visited, Phase.SEARCH, last)
        except StopIteration as end:
            yield self.look(end.value, Phase.RESULT, last)
        finally:
            points.close()

    def _attack(self, settings: Settings, observer: Observer) -> Tensor:
        return attack(
            self.system,
            self.batch.images,
            self.batch.labels,
            settings.spec,
            epsilon=settings.epsilon,
            masks=None if self.sample.mask is None else self.sample.mask.to(self._device),
            threat=settings.threat,
            seed=settings.seed,
            observer=observer,
        )

    @cached_property
    @torch.no_grad()
    def _clean_mask(self) -> Tensor:
        with attacked(self.system):
            return self.system.masks(self.batch.images, self.batch.context)

    @torch.no_grad()
    def look(self, image: Float[Tensor, "1 3 height width"], phase: Phase, number: int) -> Frame:
        """One point, scored by the system."""
        batch = self.batch
        with attacked(self.system):
            masks, logits = masks_and_logits(self.system, image, batch.context)
        reference = self._clean_mask if self.sample.mask is None else self.sample.mask.to(masks)
        staged, paths = with_attackable_mask(self.system), None
        if staged is not None:
            assert batch.context is not None
            known = batch.context._replace(oracle_masks=None)  # such a system does without
            paths = path_margins(staged, batch.images, image, batch.labels, known, masks=(self._clean_mask, masks))
        return Frame(
            phase=phase,
            number=number,
            image=image[0].cpu(),
            mask=masks[0, 0].cpu(),
            probabilities=logits[0].softmax(dim=0).cpu(),
            margin=float(margin(logits, batch.labels)),
            mask_iou=float(intersection_over_union(masks, reference)),
            misclassified=int(logits.argmax()) != self.label,
            pixels_margin=None if paths is None else float(paths["pixels_margin"]),
            mask_margin=None if paths is None else float(paths["mask_margin"]),
        )

    def attribution(self, frame: Frame) -> Attribution | None:
        """By what the image was lost, as the decomposition of an ablation has it; None where it stands or the mask has no part.

        The decomposition also asks whether the oracle's system is robust; here only this one is looked at, and that counts as
        robust.
        """
        if not frame.misclassified or frame.pixels_margin is None or frame.mask_margin is None:
            return None
        return attribute(
            oracle_robust=True,
            robust=False,
            clean_correct=not self.clean.misclassified,
            pixels_wrong=frame.pixels_margin > 0,
            mask_wrong=frame.mask_margin > 0,
        )
