"""The curves of a scene: what is above 0 is misclassified, and how well the mask still fits."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, LEFT, RIGHT = 320, 34, 6
"""Of every chart, in units of its own; the margins left and right of the curves."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve."""

    name: str
    kind: str
    """Its look, a class of the style sheet."""
    points: str
    """For SVG."""
    end: tuple[float, float]
    """Where its marked point is."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over the points of an attack."""

    title: str
    alt: str
    height: int
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    """Heights with what stands beside them."""
    zero: float | None
    """Height above which an image is misclassified; None: it has no such meaning."""
    now: float
    """Where the marked point is, across."""


def chart(
    title: str,
    alt: str,
    series: Sequence[tuple[str, str, Sequence[float]]],
    *,
    until: int,
    now: int,
    bounds: tuple[float, float],
    height: int,
    has_zero: bool,
) -> Chart:
    """``series`` are name, look and values from point 0 on; ``until`` is the last point's number, ``bounds`` are bottom and top."""
    low, high = bounds
    top, bottom = 8.0, height - 8.0

    def across(position: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * position / max(1, until), 2)

    def up(value: float) -> float:
        return round(bottom + (top - bottom) * (min(max(value, low), high) - low) / (high - low), 2)

    lines = []
    for name, kind, values in series:
        points = [(across(position), up(value)) for position, value in enumerate(values)]
        joined = " ".join(f"{x},{y}" for x, y in points)
        lines.append(Line(name=name, kind=kind, points=joined, end=points[min(now, len(points) - 1)]))
    marked = (low, 0.0 if has_zero else (low + high) / 2, high)
    ticks = tuple((up(value), f"{value:g}".replace("-", "\N{MINUS SIGN}")) for value in marked)
    zero = up(0) if has_zero else None
    return Chart(title=title, alt=alt, height=height, lines=tuple(lines), ticks=ticks, zero=zero, now=across(now))


def around_zero(values: Iterable[float]) -> tuple[float, float]:
    """Round bounds that hold all values and 0 well inside: of 1, 2 or 5 times a power of ten.

    >>> around_zero([-8.8, -4.1])
    (-10.0, 5.0)
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    reach = max(-low, high, 0.1)
    return -_round_up(max(-low, reach / 2)), _round_up(max(high, reach / 3))


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))
