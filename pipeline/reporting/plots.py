"""Figures: one panel a file, so that each can be read on a phone; SVG and PDF with the same bytes for the same run."""

from collections.abc import Collection, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.calibration import Bin
from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting.data import Condition
from pipeline.reporting.figures import SystemFigures
from pipeline.reporting.metrics import ACCURACY, MASK_IOU, Metric
from pipeline.reporting.panel import INK, LOOKS, RC, VARIANTS, Look, Panel, make_panel

WIDTH, HEIGHT, LEGEND_LINE = 4.4, 2.9, 0.19
"""Inches."""


@mpl.rc_context(RC)
def curves(name: str, title: str, systems: Sequence[SystemFigures], metric: Metric, *, norm: str) -> Panel:
    """A metric over epsilon with intervals, one line a system; at 0 that of images that are not attacked."""
    place = {kind: number for number, kind in enumerate(LOOKS)}
    ordered = sorted(systems, key=lambda one: place.get(one.condition.test_masks, len(place)))
    series = [(one, one.curve(metric)) for one in ordered]
    figure, axes = _figure(num_labels=len(series))
    _lines(axes, series, scale=metric.scale)
    axes.set(ylabel=metric.axis)
    if metric.limits is not None:
        low, high = metric.limits
        axes.set(ylim=(low - 0.02 * (high - low), high + 0.02 * (high - low)))
    _epsilon_axis(axes, systems, norm)
    return make_panel(figure, axes, name, title, _spoken(series, metric))


@mpl.rc_context(RC)
def degradation(name: str, title: str, systems: Sequence[SystemFigures], *, epsilon: float) -> Panel:
    """Robust accuracy at one epsilon over the clean IoU of the masks: the oracle, what was made of it, and predicted masks, from
    which an arrow points to the IoU that is left of them under attack."""
    kinds: dict[str, list[SystemFigures]] = {}
    for one in systems:
        kinds.setdefault(one.condition.test_masks, []).append(one)
    figure, axes = _figure(num_labels=len(kinds))
    for kind, members in kinds.items():
        look = _look(kind)
        chain = members if members[0].condition.uses_segmenter else kinds.get("oracle", [])[:1] + members
        chain = sorted(chain, key=lambda one: one.clean_iou.value)
        if not members[0].condition.uses_segmenter and len(chain) > 1:
            axes.plot(
                [one.clean_iou.value for one in chain],
                [100 * one.robust(epsilon).value for one in chain],
                color=look.color,
                linestyle=look.dashes,
                linewidth=1,
            )
        for one in members:
            _placed(axes, one, epsilon, look, label=kind if one is members[0] else None)
    axes.set(
        ylabel=f"right under attack (%), {epsilon_text(epsilon)}", xlabel="mask IoU with the oracle, clean images", ylim=(-2, 102)
    )
    axes.set_xlim(right=1.02)
    spoken = "; ".join(
        f"{one.condition.tested}: IoU {one.clean_iou.value:.2f}, {100 * one.robust(epsilon).value:.1f} %" for one in systems
    )
    return make_panel(figure, axes, name, title, f"Robust accuracy over mask IoU. {spoken}.")


@mpl.rc_context(RC)
def bars(name: str, title: str, rows: Sequence[tuple[str, Estimate]], *, xlabel: str, color: str) -> Panel:
    """Shares with intervals as horizontal bars, in the given order from the top."""
    figure, axes = _figure(height=0.75 + 0.36 * len(rows))
    places = list(range(len(rows)))
    values = [100 * value.value for _, value in rows]
    axes.barh(places, values, height=0.6, color=color)
    axes.errorbar(values, places, xerr=_reaches([value for _, value in rows], 100), fmt="none", ecolor=INK["ink"], elinewidth=1)
    axes.set_yticks(places, [label for label, _ in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=xlabel, xlim=(0, max(5.0, min(100.0, 1.15 * max(100 * value.high for _, value in rows)))))
    spoken = "; ".join(f"{label}: {100 * value.value:.1f} %" for label, value in rows)
    return make_panel(figure, axes, name, title, f"Bars. {spoken}.")


@mpl.rc_context(RC)
def gains(name: str, title: str, points: Sequence[tuple[float, Estimate]]) -> Panel:
    """The oracle's gain with its interval over the share of background, from left to right."""
    figure, axes = _figure(height=3.2)
    shares = [100 * share for share, _ in points]
    axes.axhline(0, color=INK["ink"], linewidth=0.8)
    _intervals(axes, shares, [value for _, value in points], LOOKS["oracle"], elinewidth=None, capsize=3)
    axes.set(xlabel="background (% of the image)", ylabel="oracle - none (points)")
    spoken = "; ".join(
        f"{share:.0f} % background: {100 * value.value:+.1f} points" for share, (_, value) in zip(shares, points, strict=True)
    )
    return make_panel(figure, axes, name, title, f"Gain over background. {spoken}.")


@mpl.rc_context(RC)
def reliability(name: str, title: str, lines: Sequence[tuple[Condition, Sequence[Bin]]]) -> Panel:
    """Share right over mean confidence, one line a system; on the diagonal a confidence is what it says."""
    figure, axes = _figure(num_labels=len(lines))
    axes.plot([0, 100], [0, 100], color=INK["muted"], linewidth=0.8, linestyle=(0, (2, 2)))
    for condition, bins in lines:
        confidences, right = [100 * one.confidence for one in bins], [one.right for one in bins]
        _intervals(axes, confidences, right, _look(condition.test_masks), elinewidth=0.8, label=_label(condition))
    axes.set(xlabel="mean confidence (%)", ylabel="right (%)", xlim=(-2, 102), ylim=(-2, 102))
    spoken = "; ".join(
        f"{_label(condition)}: "
        + ", ".join(f"{100 * one.confidence:.0f} % sure, {100 * one.right.value:.0f} % right" for one in bins)
        for condition, bins in lines
    )
    return make_panel(figure, axes, name, title, f"Share right over confidence. {spoken}.")


Series = Sequence[tuple[SystemFigures, dict[float, Estimate]]]


def _label(condition: Condition) -> str:
    """``learned (natural segmenter), trained with oracle``"""
    if condition.is_own:
        return f"{condition.classifier_objective} (masks {condition.tested})"
    trained = "" if condition.trained == condition.test_masks else f", trained with {condition.trained}"
    return condition.tested + trained


def _figure(*, num_labels: int = 0, height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height + LEGEND_LINE * num_labels), layout="constrained")
    return figure, figure.subplots()


def _look(kind: str) -> Look:
    return LOOKS.get(kind, LOOKS["none"])


def _lines(axes: Axes, series: Series, *, scale: float) -> None:
    drawn: dict[str, int] = {}
    widest = max(epsilon for _, values in series for epsilon in values)
    for place, (figures, values) in enumerate(series):
        kind = figures.condition.test_masks
        look, variant = _look(kind), drawn.get(kind, 0)
        drawn[kind] = variant + 1
        dodge = widest * 0.006 * (place - (len(series) - 1) / 2)  # so that intervals of equal values stay apart
        told_apart = VARIANTS[(variant - 1) % len(VARIANTS)] | {"markerfacecolor": "#ffffff"} if variant else {}
        about = {"markerfacecolor": look.color, "label": _label(figures.condition)} | told_apart
        _intervals(axes, [epsilon + dodge for epsilon in values], values.values(), look, scale=scale, **about)


def _placed(axes: Axes, figures: SystemFigures, epsilon: float, look: Look, *, label: str | None) -> None:
    at, value = figures.clean_iou.value, figures.robust(epsilon)
    size = 8 if figures.condition.uses_segmenter else 5
    _intervals(axes, [at], [value], look, markersize=size, linestyle="none", label=label)
    if figures.condition.uses_segmenter:
        arrow = {"arrowstyle": "->", "color": look.color, "linewidth": 1, "shrinkA": 5, "shrinkB": 0}
        height = 100 * value.value
        axes.annotate("", xy=(figures.at(MASK_IOU, epsilon).value, height), xytext=(at, height), arrowprops=arrow)
        axes.plot([figures.at(MASK_IOU, epsilon).value], [height], alpha=0)  # so that the axis reaches there


def _epsilon_axis(axes: Axes, systems: Sequence[SystemFigures], norm: str) -> None:
    epsilons = sorted({epsilon for one in systems for epsilon in one.curve(ACCURACY)})
    names = {
        "linf": "largest change of a value",
        "l2": "Euclidean length of the change",
        "l1": "sum of all changes of values",
        "patch": "share of the image that a patch covers",
    }
    axes.set_xticks(epsilons, ["0 (clean)", *(epsilon_text(epsilon) for epsilon in epsilons[1:])])
    axes.set(xlabel=f"epsilon ({names.get(norm, norm)})")


def _intervals(
    axes: Axes, places: Sequence[float], values: Collection[Estimate], look: Look, *, scale: float = 100, **more: Any
) -> None:
    """Values with their intervals at places of the other axis, as a mask source looks, unless ``more`` says otherwise."""
    drawn = {"color": look.color, "marker": look.marker, "linestyle": look.dashes, "elinewidth": 1, **more}
    axes.errorbar(places, [scale * value.value for value in values], yerr=_reaches(values, scale), **drawn)


def _reaches(values: Collection[Estimate], scale: float) -> tuple[list[float], list[float]]:
    """How far intervals reach down and up."""
    down = [scale * max(0.0, one.value - one.low) for one in values]
    return down, [scale * max(0.0, one.high - one.value) for one in values]


def _spoken(series: Series, metric: Metric) -> str:
    lines = []
    for figures, values in series:
        scaled = {epsilon: f"{metric.scale * value.value:.3g}{metric.suffix}" for epsilon, value in values.items()}
        lines.append(
            f"{_label(figures.condition)}: {', '.join(f'{epsilon_text(epsilon)}: {text}' for epsilon, text in scaled.items())}"
        )
    return f"Lines of {metric.spoken} over epsilon. {'; '.join(lines)}."
