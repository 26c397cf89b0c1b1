"""Constant predictors: a system that says the same of every image cannot be made to say anything else."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from pipeline.attacks.diagnostics.check import Check, judged

CONSTANT = "constant predictor"
"""Name of the check."""
_MOST = 0.5
"""Share of the predictions from which on one class is suspicious, unless it is about as common among the labels."""
_EXCESS = 2.0
_NEARLY_ALL = 0.95


@dataclass(frozen=True, kw_only=True)
class ModalPrediction:
    """The class that a system predicts most often on clean images. All shares are of images, 0 to 1."""

    label: int
    share: float
    """Of images that are said to be of this class."""
    label_share: float
    """Of images that are of this class: the accuracy of saying it always."""

    @property
    def is_constant(self) -> bool:
        """Most predictions are this one, and at least twice as many as there are images of the class; or nearly all are, and nearly
        all images are not.

        Such a system keeps its accuracy under attack because it hardly looks at the image.
        """
        constant = self.share >= _NEARLY_ALL and self.label_share < _NEARLY_ALL
        return constant or (self.share > _MOST and self.share >= _EXCESS * self.label_share)

    def text(self, class_name: str | None = None) -> str:
        """One sentence for people."""
        named = f"class {self.label}" if class_name is None else repr(class_name)
        return (
            f"{self.share:.0%} of its answers on clean images are {named}, which {self.label_share:.0%} of them are: an answer that"
            " hardly depends on the image is hardly changed by an attack either"
        )


def modal_prediction(records: pl.DataFrame) -> ModalPrediction:
    """The commonest prediction in the records of an evaluation; of equally common ones the class with the smallest number."""
    images = records.unique("sample_id")
    counts = images["clean_prediction"].value_counts().sort(["count", "clean_prediction"], descending=[True, False])
    label = int(counts["clean_prediction"][0])
    return ModalPrediction(
        label=label,
        share=int(counts["count"][0]) / len(images),
        label_share=int((images["label"] == label).sum()) / len(images),
    )


def constant_predictor(records: pl.DataFrame, class_names: Sequence[str] | None = None) -> Check:
    """A system that answers nearly the same to everything cannot be fooled, and is worth nothing."""
    modal = modal_prediction(records)
    text = modal.text(class_names[modal.label] if class_names else None)
    finding = text if modal.is_constant else f"the commonest answer to clean images is that to {modal.share:.0%} of them"
    advice = "compare it with nothing; train longer, at a smaller epsilon, or on classes that are alike in size"
    return judged(CONSTANT, modal.is_constant, finding, advice, {})
