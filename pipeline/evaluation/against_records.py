"""Hold what was recorded against what the diagnostics find on the same images, under the same threat, at the same epsilon."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from scipy.stats import binomtest
from torch import Tensor

from pipeline.attacks.diagnostics.check import Check, judged, skipped
from pipeline.attacks.diagnostics.probing import fresh_copy, logits_of
from pipeline.attacks.objectives import margin
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.tracker import verdict
from pipeline.evaluation.evaluator import EvaluationRun, attack_again
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.own import OwnImages

_ROUNDING = 1e-3
"""By how much a margin may move with batch and copy, relative to the median clean margin."""
_TOO_HIGH = 1.0
"""Points of robust accuracy that an outside attack may lower a figure by."""
_SHOWN = 5


def survivors_misclassified(
    ids: Sequence[str], batch: AttackBatch, points: Mapping[str, Tensor], records: pl.DataFrame, epsilon: float
) -> Check:
    """Images that are robust in the records and misclassified in a diagnostic search: robust accuracy that is not there.

    It fails where that is surely more than a point of robust accuracy: more images make the bound sharper, not stricter.

    ``batch`` are survivors at this epsilon, ``ids`` their sample ids, ``points`` what each search found for the first of them.
    """
    name = "survivors misclassified"
    if not len(batch):
        return skipped(name, f"no image is robust to the suite at epsilon {epsilon:.4g}")
    by: dict[str, list[str]] = {}
    for search, found in points.items():
        some = batch.select(torch.arange(len(found), device=batch.labels.device))
        wrong = verdict(some.system, found, some.labels, some.context).misclassified
        for row in wrong.nonzero().flatten().tolist():
            by.setdefault(ids[row], []).append(search)
    robust = robust_images(records, epsilon)["robust"]
    worth, robust_share = 100 * len(by) / len(robust), 100 * int(robust.sum()) / len(robust)
    least = robust_share * float(binomtest(len(by), len(batch)).proportion_ci(method="exact").low)
    extrapolated = robust_share * len(by) / len(batch)
    figures: dict[str, float] = {"misclassified": len(by), "tried": len(batch)}
    figures |= {"points": worth, "points_extrapolated": extrapolated, "points_least": least}
    finding = f"{len(by)} of {len(batch)} images that are recorded as robust at epsilon {epsilon:.4g} are not"
    if by:
        examples = ", ".join(f"{one} ({', '.join(searches)})" for one, searches in list(by.items())[:_SHOWN])
        finding += f": {examples}. Robust accuracy is at least {worth:.2f} points too high, {extrapolated:.1f} if the others are"
        finding += f" alike (at least {least:.1f}, exact 95 % interval)"
    advice = "the suite was too short or misled: run attack=standard with more steps and restarts, or the search that found them"
    return judged(name, least > _TOO_HIGH, finding, advice, figures)


def records_repeat(ids: Sequence[str], batch: AttackBatch, records: pl.DataFrame) -> Check:
    """The clean images have to get the recorded margins again, of a fresh copy, one at a time."""
    recorded = _rows(records.unique("sample_id"), ids)
    expected = recorded["clean_margin"].to_numpy()
    fresh = replace(batch, system=fresh_copy(batch.system))
    margins = np.concatenate([_margins(fresh.select(row)) for row in torch.arange(len(batch), device=batch.labels.device)[:, None]])
    moved = np.abs(margins - expected) / _typical_margin(records)
    changed = [one for one, difference in zip(ids, moved, strict=True) if not difference <= _ROUNDING]
    finding = f"{len(changed)} of {len(ids)} clean margins are not those recorded{_named(changed)}"
    finding += f"; largest change, relative: {float(np.nanmax(moved, initial=0)):.1e}"
    advice = "the system answered otherwise when it was attacked (state, batch, copy): no figure of this run can be trusted"
    return judged("records repeat", bool(changed), finding, advice, {"changed": len(changed), "images": len(ids)})


def successes_stand(run: EvaluationRun | OwnImages, records: pl.DataFrame, epsilon: float, num_images: int) -> Check:
    """What the suite claims to have found has to be misclassified for a fresh copy, one at a time and without gradients.

    The attacks that were recorded run once more on the first of the images that they had succeeded on.
    """
    name = "successes stand"
    right = records.filter((pl.col("clean_prediction") == pl.col("label")) & (pl.col("adversarial_prediction") != pl.col("label")))
    order = dict(zip(run.sample_ids(run.rows), run.rows.tolist(), strict=True))
    misclassified = right.filter(pl.col("found_by").is_not_null() & (pl.col("epsilon") <= epsilon)).unique(
        "sample_id", keep="first"
    )
    misclassified = _rows(misclassified, list(order)).drop_nulls("found_by").head(num_images)
    if not len(misclassified):
        return skipped(name, f"no image is misclassified under the suite at epsilon {epsilon:.4g}")
    device = next((part.device for part in run.system.parameters()), torch.device("cpu"))
    claimed, lost = 0, []
    tolerance = _ROUNDING * _typical_margin(records)
    for (attack, found_epsilon), part in misclassified.group_by("found_by", "found_epsilon", maintain_order=True):
        ids = part["sample_id"].to_list()
        batch = run.batch(np.array([order[one] for one in ids]), device)
        found = attack_again(run, str(attack), float(str(found_epsilon)), batch)
        fresh = replace(batch, system=fresh_copy(batch.system), images=found.images)
        for row in found.misclassified.nonzero():
            claimed += 1
            if float(_margins(fresh.select(row))[0]) < -tolerance:
                lost.append(ids[int(row)])
    if not claimed:
        return skipped(name, f"none of {len(misclassified)} successes recurred when the attacks ran again")
    points = 100 * len(lost) / records["sample_id"].n_unique()
    finding = f"{claimed} of {len(misclassified)} successes recurred"
    finding += f", of which {len(lost)} do not stand when they are scored afresh{_named(lost)}"
    finding += f": {points:.2f} points of robust accuracy at least" if lost else ""
    advice = "the system answers a search and its verdict differently: no figure of this run can be trusted"
    return judged(name, bool(lost), finding, advice, {"lost": len(lost), "claimed": claimed, "points": points})


def _typical_margin(records: pl.DataFrame) -> float:
    """The median size of the clean margins."""
    return max(float(np.median(np.abs(records["clean_margin"].to_numpy()))), 1e-300)


def _margins(batch: AttackBatch) -> np.ndarray:
    found: np.ndarray = margin(logits_of(batch), batch.labels).double().cpu().numpy()
    return found


def _rows(records: pl.DataFrame, ids: Sequence[str]) -> pl.DataFrame:
    """One record of each of the samples, in their order."""
    return pl.DataFrame({"sample_id": list(ids)}).join(records, on="sample_id", how="left", maintain_order="left")


def _named(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f" ({', '.join(ids[:_SHOWN])}{more})"
