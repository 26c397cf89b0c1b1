"""The commonest prediction, counted by hand."""

import polars as pl
import pytest

from pipeline.evaluation.constant_predictor import ModalPrediction, constant_predictor, modal_prediction


def records(predictions: list[int], labels: list[int]) -> pl.DataFrame:
    """Two records an image, as under two attacks."""
    once = pl.DataFrame({"sample_id": [f"s{i}" for i in range(len(labels))], "clean_prediction": predictions, "label": labels})
    return pl.concat([once, once])


def test_images_are_counted_once_whatever_the_number_of_attacks() -> None:
    found = modal_prediction(records([0, 0, 0, 2], [0, 1, 2, 2]))
    assert found == ModalPrediction(label=0, share=0.75, label_share=0.25)
    assert modal_prediction(records([2, 1], [0, 0])).label == 1


@pytest.mark.parametrize(
    ("share", "label_share", "is_constant"),
    [
        (0.94, 0.32, True),
        (0.94, 0.9, False),
        (1.0, 0.6, True),
        (1.0, 0.97, False),
        (0.54, 0.32, False),
        (0.5, 0.1, False),
        (0.51, 0.1, True),
    ],
)
def test_a_predictor_is_constant_where_one_class_is_most_of_its_answers_and_not_most_of_the_labels(
    share: float, label_share: float, is_constant: bool
) -> None:
    found = ModalPrediction(label=0, share=share, label_share=label_share)
    assert found.is_constant is is_constant
    assert f"{share:.0%} of its answers on clean images are 'person', which {label_share:.0%} of them are" in found.text("person")


def test_the_check_names_the_class_where_its_name_is_known() -> None:
    found = records([1, 1, 1, 1], [0, 1, 2, 2])
    assert "images are class 1, which" in constant_predictor(found).finding
    assert "images are 'cup', which" in constant_predictor(found, ("mug", "cup", "jug")).finding
