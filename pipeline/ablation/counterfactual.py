"""Where did the robustness go: adversarial images scored again with one of the two paths undone.

A learned mask gives an attacker two ways to the class: the pixels that the classifier sees, and the mask that it sees them through.
Scoring an adversarial image with the clean image's mask undoes what it did to the mask; scoring the clean image with the
adversarial image's mask undoes what it did to the pixels. Both say what this adversarial image used, not what an attacker
restricted to one path could have done: for that there are attacks whose gradient knows one path only, with as many steps.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.attacks.objectives import margin
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import Batch, read_rows
from pipeline.evaluation.metrics import strongest
from pipeline.evaluation.records import RecordStore, Status
from pipeline.evaluation.statistics import Estimate, share
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images, Labels, Scores
from pipeline.system import StagedSystem, attacked, context_of


class Attribution(StrEnum):
    """What became of one image between the arm with the oracle and the arm with learned masks, at one epsilon, and why."""

    ROBUST = "robust"
    """Right under attack in both."""
    MISCLASSIFIED = "misclassified"
    """Wrong in both."""
    GAINED = "gained"
    """Wrong with the oracle, right with the learned mask."""
    LOST_CLEAN = "lost-clean"
    """Lost, and without an attack already: the learned mask is not good enough."""
    LOST_MASK = "lost-mask"
    """Lost, and the adversarial mask alone (on clean pixels) is enough, while the adversarial pixels alone are not."""
    LOST_PIXELS = "lost-pixels"
    """Lost, and the adversarial pixels alone (through the clean mask) are enough, while the adversarial mask alone is not."""
    LOST_EITHER = "lost-either"
    """Lost, and each of the two alone is enough."""
    LOST_TOGETHER = "lost-together"
    """Lost, and neither of the two alone is enough."""


@torch.no_grad()
def path_margins(
    system: StagedSystem,
    clean: Images,
    adversarial: Images,
    labels: Labels,
    context: MaskContext,
    *,
    masks: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Scores]:
    """The largest other logit minus the label's of each image, above 0 is misclassified, with the mask of its counterpart:
    ``pixels_margin`` of the adversarial image seen through the clean image's mask, ``mask_margin`` of the clean image seen through
    the adversarial image's and, where the context holds oracle masks, ``oracle_mask_margin`` of the adversarial image seen through
    the oracle's.

    The context holds what the system needs beside. ``masks`` are those that it sees the clean and the adversarial images through,
    where they are known already.
    """
    with attacked(system):
        clean_masks, adversarial_masks = masks or (system.masks(clean, context), system.masks(adversarial, context))
        seen = {"pixels_margin": (adversarial, clean_masks), "mask_margin": (clean, adversarial_masks)}
        if context.oracle_masks is not None:
            seen["oracle_mask_margin"] = (adversarial, context.oracle_masks.to(adversarial.dtype))
        return {name: margin(system.classify(images, through, context), labels) for name, (images, through) in seen.items()}


def attribute(*, oracle_robust: bool, robust: bool, clean_correct: bool, pixels_wrong: bool, mask_wrong: bool) -> Attribution:
    """Why one image is lost, if it is. ``pixels_wrong`` and ``mask_wrong``: that path of its adversarial image alone is enough."""
    if robust:
        return Attribution.ROBUST if oracle_robust else Attribution.GAINED
    if not oracle_robust:
        return Attribution.MISCLASSIFIED
    if not clean_correct:
        return Attribution.LOST_CLEAN
    if pixels_wrong and mask_wrong:
        return Attribution.LOST_EITHER
    if pixels_wrong:
        return Attribution.LOST_PIXELS
    return Attribution.LOST_MASK if mask_wrong else Attribution.LOST_TOGETHER


def rescored_margins(
    system: StagedSystem, dataset: PreparedDataset, runs: Sequence[Path], *, batch_size: int, device: torch.device
) -> pl.DataFrame:
    """The path margins of each image's strongest saved adversarial image, at every epsilon of some evaluations of one system.

    Columns: sample_id, epsilon, margin, pixels_margin, mask_margin, oracle_mask_margin. The strongest is the one with the largest
    margin over all runs; an image that is wrong clean is its own. An evaluation that stops at the first success knows only points
    just beyond the boundary, which nearly any change brings back: give one with ``attack_all`` too. Raises RunError where images
    are damaged or were not saved.
    """
    tables = [_rescored(system, dataset, RecordStore(run), batch_size=batch_size, device=device) for run in runs]
    strongest = pl.concat(tables).sort("margin", descending=True, maintain_order=True)
    return strongest.unique(["sample_id", "epsilon"], keep="first", maintain_order=True)


def _rescored(
    system: StagedSystem, dataset: PreparedDataset, store: RecordStore, *, batch_size: int, device: torch.device
) -> pl.DataFrame:
    rows_of = {sample_id: row for row, sample_id in enumerate(dataset.samples["sample_id"].to_list())}
    tables = []
    for worst, images in _worst_images(store):
        rows = np.array([rows_of[sample_id] for sample_id in worst["sample_id"]], dtype=np.int64)
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            batch = read_rows(dataset, rows[part])
            found = batch.images.clone()
            for position, image in enumerate(images[part]):
                if image is not None:
                    found[position] = torch.from_numpy(image)
            margins = _margins(system, batch.to(device), found.to(device))
            keys = worst[part].select("sample_id", "epsilon", margin="adversarial_margin")
            tables.append(keys.with_columns(*margins))
    return pl.concat(tables)


def decompose_arm(arm: pl.DataFrame, oracle: pl.DataFrame, margins: pl.DataFrame, paths: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row for each image and epsilon: what became of it, and why.

    ``arm`` and ``oracle`` are verdicts (sample_id, epsilon, robust) of the two arms, ``arm`` with ``group`` and ``clean_correct``
    too; ``margins`` comes from ``rescored_margins``; ``paths`` are verdicts under one attack each, by the paths that its gradient
    follows. Columns: those of ``arm``, oracle_robust, the margins, PATH_attack_robust for each path, and attribution.
    """
    joined = arm.join(oracle.rename({"robust": "oracle_robust"}), on=["sample_id", "epsilon"])
    joined = joined.join(margins, on=["sample_id", "epsilon"])
    for path, verdicts in paths.items():
        joined = joined.join(verdicts.rename({"robust": f"{path}_attack_robust"}), on=["sample_id", "epsilon"])
    wrong = {f"{path}_wrong": pl.col(f"{path}_margin") > 0 for path in ("pixels", "mask")}
    known = joined.select("oracle_robust", "robust", "clean_correct", **wrong)
    attributions = [str(attribute(**row)) for row in known.iter_rows(named=True)]
    return joined.with_columns(pl.Series("attribution", attributions, dtype=pl.String)).sort("epsilon", "sample_id")


def shares(rows: pl.DataFrame) -> dict[str, Estimate]:
    """The share of images of each attribution among the rows of one epsilon, and of images that are right with one path undone.

    The unit is the image; intervals are for independent groups. The attributions add up to 1, and the lost minus the gained are the
    difference of the two arms' robust accuracy.
    """
    right = rows["clean_correct"]
    claims = {str(each): rows["attribution"] == each for each in Attribution}
    claims["right-through-clean-mask"] = right & (rows["pixels_margin"] <= 0)
    claims["right-through-oracle-mask"] = right & (rows["oracle_mask_margin"] <= 0)
    claims["right-on-clean-pixels"] = right & (rows["mask_margin"] <= 0)
    for name in rows.columns:
        if name.endswith("_attack_robust"):
            claims[name.removesuffix("_robust").replace("_", "-") + "-robust"] = rows[name]
    groups = rows["group"].to_numpy()
    return {name: share(claim.to_numpy(), groups) for name, claim in claims.items()}


def _worst_images(store: RecordStore) -> Iterator[tuple[pl.DataFrame, list[np.ndarray | None]]]:
    """Chunk by chunk: one record for each image and epsilon, and its adversarial image (None: the clean one)."""
    for _, units in groupby(sorted(store.units()), key=lambda unit: unit.chunk):
        tables: list[pl.DataFrame] = []
        images: dict[tuple[str, str, float], np.ndarray] = {}
        for unit in units:
            tables.append(store.read(unit))
            made = tables[-1].filter(pl.col("status") == Status.ATTACKED)
            keys = zip(made["sample_id"], made["attack"], made["epsilon"], strict=True)
            images |= dict(zip(keys, store.read_images(unit), strict=True))
        worst = strongest(pl.concat(tables), "sample_id", "epsilon")
        keys = zip(worst["sample_id"], worst["found_by"], worst["found_epsilon"], strict=True)
        yield worst, [None if found_by is None else images[sample, found_by, epsilon] for sample, found_by, epsilon in keys]


def _margins(system: StagedSystem, batch: Batch, adversarial: Tensor) -> list[pl.Series]:
    margins = path_margins(system, batch.images, adversarial, batch.labels, context_of(batch))
    return [pl.Series(name, values.double().cpu().numpy()) for name, values in margins.items()]
