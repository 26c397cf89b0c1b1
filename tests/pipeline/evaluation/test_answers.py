"""The commonest answer, counted by hand."""

import polars as pl
import pytest

from pipeline.evaluation.answers import CommonestAnswer, commonest_answer


def records(predictions: list[int], labels: list[int]) -> pl.DataFrame:
    """Two records an image, as under two attacks."""
    once = pl.DataFrame({"sample_id": [f"s{i}" for i in range(len(labels))], "clean_prediction": predictions, "label": labels})
    return pl.concat([once, once])


def test_images_are_counted_once_whatever_the_number_of_attacks() -> None:
    found = commonest_answer(records([0, 0, 0, 2], [0, 1, 2, 2]))
    assert found == CommonestAnswer(label=0, share=0.75, label_share=0.25)
    assert commonest_answer(records([2, 1], [0, 0])).label == 1


@pytest.mark.parametrize(
    ("share", "label_share", "suspicious"),
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
def test_an_answer_is_suspicious_where_it_is_most_of_them_and_not_most_of_the_labels(
    share: float, label_share: float, suspicious: bool
) -> None:
    found = CommonestAnswer(label=0, share=share, label_share=label_share)
    assert found.suspicious is suspicious
    assert f"{share:.0%} of its answers on clean images are 'person', which {label_share:.0%} of them are" in found.text("person")
