"""Pictures of single images for the page: PNG inside it, nothing beside it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.evaluation.gallery import Gallery, GalleryOutcome, read_gallery
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting import wording
from pipeline.reporting.data import Arm, Study

SIDE = 128
"""Larger images are scaled down to this many pixels a side."""
MAX_CARDS = 60
"""In one page: what keeps it quick on a phone."""

OUTCOMES = {
    GalleryOutcome.MISCLASSIFIED: "misclassified under attack",
    GalleryOutcome.ROBUST: "robust",
    GalleryOutcome.WRONG_CLEAN: "wrong without attack",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a card."""

    caption: str
    uri: str
    """``data:image/png;base64,...``"""
    alt: str

    @classmethod
    def of(cls, caption: str, pixels: UInt8[np.ndarray, "side side *channels"], alt: str) -> "Picture":
        """That of some pixels."""
        return cls(caption=caption, uri=png_uri(pixels), alt=alt)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One image under one system."""

    sample_id: str
    system: str
    system_number: int
    """For the filter: the position of the system among those shown."""
    outcome: str
    outcome_text: str
    label: str
    clean: str
    """Prediction and its confidence."""
    adversarial: str
    attack: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Cards:
    """The gallery of a report."""

    systems: tuple[str, ...]
    cards: tuple[Card, ...]
    without: tuple[str, ...]
    """Names of main arms whose evaluation kept no gallery."""


def gallery_cards(study: Study) -> Cards:
    """Cards of the main arms of the first seed, outcome by outcome, as many for every arm. Raises RunError for a damaged one."""
    first = [arms[0] for arms in study.by_condition("main").values()]
    kept = [(arm, read_gallery(arm.path)) for arm in first]
    shown = [(arm, gallery) for arm, gallery in kept if gallery is not None and len(gallery)]
    per_outcome = max(1, MAX_CARDS // max(1, len(shown) * len(OUTCOMES)))
    cards: list[Card] = []
    for number, (arm, gallery) in enumerate(shown):
        for outcome in OUTCOMES:
            rows = np.flatnonzero(gallery.outcome == outcome.value)[:per_outcome]
            cards += [_card(arm, number, gallery, int(row), outcome) for row in rows]
    return Cards(
        systems=tuple(wording.system_text(arm.condition) for arm, _ in shown),
        cards=tuple(cards),
        without=tuple(arm.name for arm, gallery in kept if gallery is None),
    )


def png_uri(pixels: UInt8[np.ndarray, "side side *channels"]) -> str:
    """A picture as a data URI, the same bytes for the same pixels."""
    picture = Image.fromarray(pixels)
    if max(picture.size) > SIDE:
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _card(arm: Arm, number: int, gallery: Gallery, row: int, outcome: GalleryOutcome) -> Card:
    classes = gallery.classes
    label = str(classes[gallery.label[row]])
    name, epsilon = str(gallery.attack[row]), float(gallery.epsilon[row])
    return Card(
        sample_id=str(gallery.sample_id[row]),
        system=wording.system_text(arm.condition),
        system_number=number,
        outcome=outcome.value,
        outcome_text=OUTCOMES[outcome],
        label=label,
        clean=_said(classes, int(gallery.clean_prediction[row]), float(gallery.clean_confidence[row])),
        adversarial=_said(classes, int(gallery.adversarial_prediction[row]), float(gallery.adversarial_confidence[row])),
        attack=f"{name}, {epsilon_text(epsilon)}" if name else "not attacked",
        pictures=tuple(_pictures(gallery, row, label, has_attack=bool(name))),
    )


def _pictures(gallery: Gallery, row: int, label: str, *, has_attack: bool) -> Sequence[Picture]:
    sample = f"image {gallery.sample_id[row]} of class {label}"
    pictures = [
        Picture.of("image", gallery.image[row], f"The {sample} as it is"),
        Picture.of("oracle mask", gallery.oracle_mask[row], f"True foreground of {sample}, white"),
        Picture.of("mask used", gallery.clean_mask[row], f"Mask that the classifier sees {sample} through"),
    ]
    if not has_attack:
        return pictures
    scale = float(gallery.perturbation_scale[row])
    magnified = (128 + gallery.perturbation[row].astype(np.int16)).clip(0, 255).astype(np.uint8)
    factor = f"x {0.5 / scale:.0f}" if scale else "none"
    return [
        *pictures,
        Picture.of(f"change {factor}", magnified, f"Perturbation of {sample}, magnified, grey is no change"),
        Picture.of("attacked image", gallery.adversarial[row], f"The {sample} under attack"),
        Picture.of("its mask", gallery.adversarial_mask[row], "Mask that the classifier sees it through now"),
    ]


def _said(classes: np.ndarray, prediction: int, confidence: float) -> str:
    return f"{classes[prediction]} ({100 * confidence:.0f} %)"
