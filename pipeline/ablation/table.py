"""The main arms of an ablation in a table, for the terminal."""

from collections.abc import Sequence

from pipeline.ablation.cache import RunCache
from pipeline.ablation.config import AblateConfig
from pipeline.ablation.grid import arms, own_systems
from pipeline.ablation.results import percent
from pipeline.evaluation.summary import SUMMARY, Summary, epsilon_text
from pipeline.terminal import aligned

_HEAD = ("classifier", "segmenter", "masks in training", "in testing", "seed", "clean", "mask IoU")


def _figures(result: Summary) -> list[str]:
    """Clean accuracy, mask IoU, robust accuracy by epsilon."""
    robust = [percent(point.robust_accuracy) for point in result.curve]
    return [percent(result.clean_accuracy), f"{result.clean_mask_iou.value:.2f}", *robust]


def table(config: AblateConfig, cache: RunCache) -> list[str]:
    """Robust accuracy of the main arms by epsilon, with n. Intervals are in the report."""
    rows: list[Sequence[str]] = [[*_HEAD, *map(epsilon_text, config.attack.threat.epsilons)]]
    counted = "no images"
    for arm in arms(config):
        if arm.role != "main" or (state := cache.finished(arm)) is None:
            continue
        result = Summary.read(state.path / SUMMARY)
        one = arm.example
        n, groups = result.clean_accuracy.n, result.clean_accuracy.groups
        counted = f"n={n} images an arm" + (f" in {groups} photographs or tracks" if groups < n else "")
        segmenter = one.segmenter or one.classifier.segmenter
        row = [one.classifier.objective, segmenter.objective if segmenter else "-"]
        row += [one.classifier.masks.source.value, one.masks.source.value, str(one.seed)]
        rows.append([*row, *_figures(result)])
    for own in own_systems(config):
        if (state := cache.finished(own)) is not None:
            result = Summary.read(state.path / SUMMARY)
            rows.append([own.name, "-", "-", result.mask_source, str(own.seed), *_figures(result)])
    title = f"robust accuracy by {config.attack.threat.norm} epsilon{config.attack.threat.limits}, worst case of all attacks"
    return [f"{title}; {counted}; intervals are in the report", *aligned(rows)]
