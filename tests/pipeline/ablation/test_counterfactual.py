"""Re-scoring with one path undone: against the oracle system, a system computed by hand, and every saved image."""

from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from pipeline.ablation.counterfactual import Attribution, attribute, decompose_arm, path_margins, rescored_margins, shares
from pipeline.attacks.objectives import margin
from pipeline.data.loader import read_rows
from pipeline.evaluation.evaluator import attack_images
from pipeline.evaluation.metrics import robust_accuracy, robust_images
from pipeline.evaluation.records import RecordStore, Status, read_records
from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Two classes: the logits are 0 and the sum of the first channel minus one half."""

    def forward(self, images: Tensor) -> Tensor:
        total = images[:, :1].sum(dim=(1, 2, 3)) - 0.5
        return torch.stack([torch.zeros_like(total), total], dim=1)


class SecondChannel(nn.Module):
    """Foreground, surely, where the second channel is above one half."""

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, 1:2] - 0.5) * 200


def test_with_an_oracle_mask_the_pixels_alone_are_the_whole_attack(small: ModuleType) -> None:
    system = small.system(MaskSource.ORACLE)
    images, context = small.pictures()
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    labels = torch.arange(len(images)) % small.CLASSES
    margins = path_margins(system, images, (images + noise).clamp(0, 1), labels, context)
    with torch.no_grad():
        attacked, clean = (margin(system(points, context), labels) for points in ((images + noise).clamp(0, 1), images))
    assert torch.equal(margins["pixels_margin"], attacked)
    assert torch.equal(margins["oracle_mask_margin"], attacked)
    assert torch.equal(margins["mask_margin"], clean)


def test_each_path_of_a_system_computed_by_hand() -> None:
    """One pixel, black fill: the class score is channel 0 times the mask, and channel 1 alone decides the mask."""
    system = TwoStage(Brightness(), masks=MaskConfig(source=MaskSource.LEARNED_HARD, fill=Fill.BLACK), segmenter=SecondChannel())
    clean = torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1)
    adversarial = torch.tensor([0.8, 0.0, 0.0]).view(1, 3, 1, 1)  # a little darker, and the mask is gone
    context = MaskContext(oracle_masks=torch.full((1, 1, 1, 1), 0.5))
    margins = path_margins(system, clean, adversarial, torch.tensor([1]), context)
    assert margins["pixels_margin"].item() == pytest.approx(-(0.8 - 0.5))  # through the clean mask, which is 1
    assert margins["mask_margin"].item() == pytest.approx(0.5)  # clean pixels through an empty mask: black
    assert margins["oracle_mask_margin"].item() == pytest.approx(-(0.5 * 0.8 - 0.5))


def test_the_attributions_split_the_images_without_remainder() -> None:
    names = ("oracle_robust", "robust", "clean_correct", "pixels_wrong", "mask_wrong")
    found = {values: attribute(**dict(zip(names, values, strict=True))) for values in product((False, True), repeat=5)}
    for (oracle_robust, robust, *_), given in found.items():
        assert (given in (Attribution.ROBUST, Attribution.GAINED)) == robust
        assert given.startswith("lost-") == (oracle_robust and not robust)
    lost = {values[2:]: given for values, given in found.items() if values[:2] == (True, False)}
    assert {lost[False, pixels, mask] for pixels in (False, True) for mask in (False, True)} == {Attribution.LOST_CLEAN}
    assert lost[True, True, False] == Attribution.LOST_PIXELS
    assert lost[True, False, True] == Attribution.LOST_MASK
    assert lost[True, True, True] == Attribution.LOST_EITHER
    assert lost[True, False, False] == Attribution.LOST_TOGETHER


def verdicts(records: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(
        robust_images(records, epsilon).select("sample_id", epsilon=pl.lit(epsilon), robust="robust")
        for epsilon in records["epsilon"].unique().sort().to_list()
    )


def test_saved_images_are_scored_by_the_paths_of_the_system_that_they_fooled(small: ModuleType, tmp_path: Path) -> None:
    run = small.evaluation_run(save_images=True)
    attack_images(run, RecordStore(tmp_path), device=CPU, advance=[].append)
    records = read_records(tmp_path)
    found = rescored_margins(run.system, run.dataset, [tmp_path], batch_size=7, device=CPU)
    assert len(found) == small.IMAGES * len(small.EPSILONS)
    # Brute force over the parts: every image and epsilon has the margins of one of its saved images of the largest margin.
    store = RecordStore(tmp_path)
    saved = {}
    for unit in store.units():
        table = store.read(unit).filter(pl.col("status") == Status.ATTACKED)
        for row, image in zip(table.iter_rows(named=True), store.read_images(unit), strict=True):
            saved[row["sample_id"], row["attack"], row["epsilon"]] = image
    ids = run.dataset.samples["sample_id"].to_list()
    for row in found.iter_rows(named=True):
        of_image = records.filter((pl.col("sample_id") == row["sample_id"]) & (pl.col("epsilon") == row["epsilon"]))
        worst = of_image.sort("adversarial_margin", descending=True).row(0, named=True)
        batch = read_rows(run.dataset, np.array([ids.index(row["sample_id"])]))
        points = batch.images
        if worst["found_by"] is not None:
            points = torch.from_numpy(saved[row["sample_id"], worst["found_by"], worst["found_epsilon"]])[None]
        with torch.no_grad():
            logits = run.system.classify(points, run.system.masks(batch.images), None)
        assert row["pixels_margin"] == pytest.approx(margin(logits, batch.labels).item(), abs=1e-4)


@pytest.mark.slow
def test_of_several_evaluations_the_strongest_image_is_scored(small: ModuleType, tmp_path: Path) -> None:
    """One that stops at the first success, and one that runs to its end: its images are deeper beyond the boundary."""
    runs = {
        name: small.evaluation_run(save_images=True, attack_all=name == "to the end") for name in ("first success", "to the end")
    }
    alone = {}
    for name, run in runs.items():
        attack_images(run, RecordStore(tmp_path / name), device=CPU, advance=[].append)
        alone[name] = rescored_margins(run.system, run.dataset, [tmp_path / name], batch_size=8, device=CPU)
    both = rescored_margins(run.system, run.dataset, [tmp_path / name for name in runs], batch_size=8, device=CPU)
    keys = ["sample_id", "epsilon"]
    joined = both.join(alone["first success"], on=keys, suffix="_first").join(alone["to the end"], on=keys, suffix="_end")
    assert len(joined) == len(both) == small.IMAGES * len(small.EPSILONS)
    for row in joined.iter_rows(named=True):
        stronger = "first" if row["margin_first"] >= row["margin_end"] else "end"
        for column in ("margin", "pixels_margin", "mask_margin", "oracle_mask_margin"):
            assert row[column] == row[f"{column}_{stronger}"]
    assert (joined["margin_end"] > joined["margin_first"]).any()


def test_lost_minus_gained_is_the_difference_of_the_robust_accuracies(small: ModuleType, tmp_path: Path) -> None:
    tables = {}
    for source in (MaskSource.LEARNED, MaskSource.ORACLE):
        run = small.evaluation_run(source, attacks={"pgd": small.ATTACKS["pgd"]}, save_images=True)
        attack_images(run, RecordStore(tmp_path / source), device=CPU, advance=[].append)
        tables[source] = read_records(tmp_path / source)
    learned, oracle = tables[MaskSource.LEARNED], tables[MaskSource.ORACLE]
    right = learned.unique("sample_id").select("sample_id", "group", clean_correct=pl.col("clean_prediction") == pl.col("label"))
    run = small.evaluation_run(MaskSource.LEARNED, save_images=True)
    margins = rescored_margins(run.system, run.dataset, [tmp_path / MaskSource.LEARNED], batch_size=8, device=CPU)
    arm = verdicts(learned).join(right, on="sample_id")
    rows = decompose_arm(arm, verdicts(oracle), margins, {"pixels": verdicts(learned)})
    assert rows.columns[:2] == ["sample_id", "epsilon"]
    for epsilon in small.EPSILONS:
        part = rows.filter(pl.col("epsilon") == epsilon)
        assert len(part) == small.IMAGES
        estimates = shares(part)
        assert sum(estimates[str(each)].value for each in Attribution) == pytest.approx(1)
        lost = sum(estimates[str(each)].value for each in Attribution if each.startswith("lost-"))
        difference = robust_accuracy(oracle, epsilon).value - robust_accuracy(learned, epsilon).value
        assert lost - estimates["gained"].value == pytest.approx(difference)
        assert estimates["pixels-attack-robust"].value == pytest.approx(robust_accuracy(learned, epsilon).value)
