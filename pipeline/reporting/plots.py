"""Figures: one panel a file, so that each can be read on a phone; SVG and PDF with the same bytes for the same run.

Colors, line styles and markers go together, so nothing is said by color alone. In the page the colors are CSS variables that
differ between the light and the dark theme; in the files they are those of the light one, on white.
"""

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.statistics import Estimate
from pipeline.evaluation.summary import epsilon_text
from pipeline.reporting.figures import SystemFigures
from pipeline.reporting.metrics import ACCURACY, MASK_IOU, Metric

# Where a launcher shows all that is logged, it says of every PDF which tables of the font it keeps.
logging.getLogger("fontTools").setLevel(logging.WARNING)

WIDTH, HEIGHT, LEGEND_LINE = 4.4, 2.9, 0.19
"""Inches."""

INK = {"ink": "#1b1e24", "muted": "#59606a", "rule": "#d4d8de"}
"""Text, axes, grid."""

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "foreguard",
    "pdf.fonttype": 42,
    "text.color": INK["ink"],
    "axes.edgecolor": INK["muted"],
    "axes.labelcolor": INK["ink"],
    "xtick.color": INK["muted"],
    "ytick.color": INK["muted"],
    "xtick.labelcolor": INK["ink"],
    "ytick.labelcolor": INK["ink"],
    "grid.color": INK["rule"],
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
}


class Look(NamedTuple):
    """How a mask source is drawn."""

    color: str
    marker: str
    dashes: str


LOOKS = {
    "none": Look("#6a7079", "s", "--"),
    "oracle": Look("#0069a8", "o", "-"),
    "learned": Look("#c24e00", "^", "-"),
    "learned-hard": Look("#a8407f", "v", "-."),
    "joint": Look("#9c3d00", "h", "-"),
    "frozen": Look("#856600", "D", ":"),
    "random": Look("#00785a", "X", ":"),
    "eroded": Look("#6a52b3", "v", "-."),
    "dilated": Look("#00767f", "D", "--"),
    "shifted": Look("#8f5b3b", "P", ":"),
    "box": Look("#4d7a00", "p", "-."),
    "inverted": Look("#b0363f", "*", ":"),
}
"""Colors with a contrast of at least 4.5 to white; their partners of the dark theme are in ``templates/style.css``."""


class Variant(NamedTuple):
    """How a second and a third system of one mask source are told from the first."""

    marker: str
    dashes: tuple[float, tuple[float, ...]]


VARIANTS = (Variant("o", (0, (5, 2))), Variant("s", (0, (1.5, 1.5))), Variant("D", (0, (6, 1.5, 1, 1.5))))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of a report."""

    name: str
    """Of its files."""
    title: str
    description: str
    """What can be seen, for who does not see it."""
    svg: bytes
    pdf: bytes


def curves(name: str, title: str, systems: Sequence[SystemFigures], metric: Metric, *, norm: str) -> Panel:
    """A metric over epsilon with intervals, one line a system; at 0 that of images that are not attacked."""
    series = [(one, one.curve(metric)) for one in _ordered(systems)]
    with mpl.rc_context(_RC):
        figure, axes = _figure(len(series))
        _lines(axes, series, scale=metric.scale)
        axes.set(ylabel=metric.axis)
        if metric.limits is not None:
            low, high = metric.limits
            axes.set(ylim=(low - 0.02 * (high - low), high + 0.02 * (high - low)))
        _epsilon_axis(axes, systems, norm)
        return _panel(figure, axes, name, title, _spoken(series, metric))


def degradation(name: str, title: str, systems: Sequence[SystemFigures], *, epsilon: float) -> Panel:
    """Robust accuracy at one epsilon over the clean IoU of the masks: the oracle, what was made of it, and predicted masks, from
    which an arrow points to the IoU that is left of them under attack."""
    kinds: dict[str, list[SystemFigures]] = {}
    for one in systems:
        kinds.setdefault(one.condition.test_masks, []).append(one)
    with mpl.rc_context(_RC):
        figure, axes = _figure(len(kinds))
        for kind, members in kinds.items():
            look = LOOKS.get(kind, LOOKS["none"])
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
            ylabel=f"right under attack (%), {epsilon_text(epsilon)}",
            xlabel="mask IoU with the oracle, clean images",
            ylim=(-2, 102),
        )
        axes.set_xlim(right=1.02)
        spoken = "; ".join(
            f"{one.condition.tested}: IoU {one.clean_iou.value:.2f}, {100 * one.robust(epsilon).value:.1f} %" for one in systems
        )
        return _panel(figure, axes, name, title, f"Robust accuracy over mask IoU. {spoken}.")


def bars(name: str, title: str, rows: Sequence[tuple[str, Estimate]], *, xlabel: str, color: str) -> Panel:
    """Shares with intervals as horizontal bars, in the given order from the top."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = list(range(len(rows)))
        values = [100 * value.value for _, value in rows]
        spread = [_reach(value, 100) for _, value in rows]
        axes.barh(places, values, height=0.6, color=color)
        axes.errorbar(values, places, xerr=list(zip(*spread, strict=True)), fmt="none", ecolor=INK["ink"], elinewidth=1)
        axes.set_yticks(places, [label for label, _ in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=xlabel, xlim=(0, max(5.0, min(100.0, 1.15 * max(100 * value.high for _, value in rows)))))
        spoken = "; ".join(f"{label}: {100 * value.value:.1f} %" for label, value in rows)
        return _panel(figure, axes, name, title, f"Bars. {spoken}.")


def gains(name: str, title: str, points: Sequence[tuple[float, Estimate]]) -> Panel:
    """The oracle's gain with its interval over the share of background, from left to right."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        shares = [100 * share for share, _ in points]
        spread = list(zip(*(_reach(value, 100) for _, value in points), strict=True))
        look = LOOKS["oracle"]
        axes.axhline(0, color=INK["ink"], linewidth=0.8)
        axes.errorbar(
            shares, [100 * value.value for _, value in points], yerr=spread, color=look.color, marker=look.marker, capsize=3
        )
        axes.set(xlabel="background (% of the image)", ylabel="oracle - none (points)")
        spoken = "; ".join(
            f"{share:.0f} % background: {100 * value.value:+.1f} points" for share, (_, value) in zip(shares, points, strict=True)
        )
        return _panel(figure, axes, name, title, f"Gain over background. {spoken}.")


def themed(panel: Panel) -> str:
    """The figure to stand inside a page: only those identifiers that it refers to, colors as CSS variables, the size left to the
    page. Its description has to stand beside it."""
    svg = panel.svg.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    svg = svg.replace("xlink:href=", "href=")
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{panel.name}-{found[1]}"' if found[1] in referred else "", svg)
    svg = re.sub(r"url\(#", f"url(#{panel.name}-", svg).replace('href="#', f'href="#{panel.name}-')
    colors = {look.color: f"var(--mask-{kind})" for kind, look in LOOKS.items()} | {
        hexa: f"var(--{key})" for key, hexa in INK.items()
    }
    for hexa, variable in colors.items():
        svg = svg.replace(hexa, variable)
    return svg.replace("#ffffff", "var(--paper)").replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


Series = Sequence[tuple[SystemFigures, dict[float, Estimate]]]


def _ordered(systems: Sequence[SystemFigures]) -> list[SystemFigures]:
    order = list(LOOKS)
    return sorted(
        systems, key=lambda one: order.index(one.condition.test_masks) if one.condition.test_masks in LOOKS else len(order)
    )


def label_of(figures: SystemFigures) -> str:
    """``learned (natural segmenter), trained with oracle``"""
    condition = figures.condition
    if condition.is_own:
        return f"{condition.classifier_objective} (masks {condition.tested})"
    trained = "" if condition.trained == condition.test_masks else f", trained with {condition.trained}"
    return condition.tested + trained


def _figure(num_labels: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT + LEGEND_LINE * num_labels), layout="constrained")
    return figure, figure.subplots()


def _lines(axes: Axes, series: Series, *, scale: float) -> None:
    drawn: dict[str, int] = {}
    widest = max(epsilon for _, values in series for epsilon in values)
    for place, (figures, values) in enumerate(series):
        kind = figures.condition.test_masks
        look, variant = LOOKS.get(kind, LOOKS["none"]), drawn.get(kind, 0)
        drawn[kind] = variant + 1
        dodge = widest * 0.006 * (place - (len(series) - 1) / 2)  # so that intervals of equal values stay apart
        axes.errorbar(
            [epsilon + dodge for epsilon in values],
            [scale * value.value for value in values.values()],
            yerr=list(zip(*(_reach(value, scale) for value in values.values()), strict=True)),
            color=look.color,
            marker=look.marker if not variant else VARIANTS[(variant - 1) % len(VARIANTS)].marker,
            linestyle=look.dashes if not variant else VARIANTS[(variant - 1) % len(VARIANTS)].dashes,
            markerfacecolor=look.color if not variant else "#ffffff",
            elinewidth=1,
            label=label_of(figures),
        )


def _placed(axes: Axes, figures: SystemFigures, epsilon: float, look: Look, *, label: str | None) -> None:
    at, value = figures.clean_iou.value, figures.robust(epsilon)
    axes.errorbar(
        [at],
        [100 * value.value],
        yerr=[[reach] for reach in _reach(value, 100)],
        color=look.color,
        marker=look.marker,
        markersize=8 if figures.condition.uses_segmenter else 5,
        linestyle="none",
        elinewidth=1,
        label=label,
    )
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


def _panel(figure: Figure, axes: Axes, name: str, title: str, description: str) -> Panel:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower left", frameon=False, handlelength=3.2, labelspacing=0.35, borderaxespad=0
        )
    return Panel(name=name, title=title, description=description, svg=_saved(figure, "svg"), pdf=_saved(figure, "pdf"))


def _saved(figure: Figure, kind: str) -> bytes:
    without_time = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=without_time[kind])
    return buffer.getvalue()


def _reach(value: Estimate, scale: float) -> tuple[float, float]:
    return scale * max(0.0, value.value - value.low), scale * max(0.0, value.high - value.value)


def _spoken(series: Series, metric: Metric) -> str:
    lines = []
    for figures, values in series:
        scaled = {epsilon: f"{metric.scale * value.value:.3g}{metric.suffix}" for epsilon, value in values.items()}
        lines.append(f"{label_of(figures)}: {', '.join(f'{epsilon_text(epsilon)}: {text}' for epsilon, text in scaled.items())}")
    return f"Lines of {metric.spoken} over epsilon. {'; '.join(lines)}."
