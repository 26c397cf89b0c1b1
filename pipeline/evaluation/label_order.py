"""Labels that are numbered otherwise than the classes of a system: a figure near 0 that says nothing of it."""

import polars as pl

_FEWEST, _MAPPED = 3, 0.6
"""Images a class, and the share of all that have to be said to be of one other class, until labels are doubted."""


def doubt_about_labels(records: pl.DataFrame) -> str | None:
    """A sentence where nearly no image is right, and those of each label are mostly said to be of one other class."""
    images = records.unique("sample_id")
    counts = images.group_by("label", "clean_prediction").len().sort("len", "clean_prediction", descending=[True, False])
    commonest = counts.group_by("label", maintain_order=True).first().sort("label")
    pairs = [(label, said) for label, said in commonest.select("label", "clean_prediction").iter_rows() if label != said]
    share, right = commonest["len"].sum() / len(images), (images["label"] == images["clean_prediction"]).mean()
    assert isinstance(right, float)
    enough = len(commonest) > 1 and len(images) >= _FEWEST * len(commonest)
    is_mapping = len(pairs) == len(commonest) == commonest["clean_prediction"].n_unique()
    if not (enough and is_mapping and share >= _MAPPED and right < share / 3):
        return None
    steps = {said - label for label, said in pairs}
    shown = ", ".join(f"{label} {said}" for label, said in pairs[:4])
    what = "counted from another number" if len(steps) == 1 else "in another order"
    what = f"{what} than the system's classes (label and answer: {shown}{', ...' if len(pairs) > 4 else ''})"
    return f"{right:.0%} of the images are right, and {share:.0%} would be if labels are {what}: number both alike"
