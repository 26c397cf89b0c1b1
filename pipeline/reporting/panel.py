"""What a figure of a report is: how it looks, and the files and the markup that are made of it.

Colors, line styles and markers go together, so nothing is said by color alone. In the page the colors are CSS variables that
differ between the light and the dark theme; in the files they are those of the light one, on white.
"""

import io
import logging
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Where a launcher shows all that is logged, it says of every PDF which tables of the font it keeps.
logging.getLogger("fontTools").setLevel(logging.WARNING)

INK = {"ink": "#1b1e24", "muted": "#59606a", "rule": "#d4d8de"}
"""Text, axes, grid."""

RC: Any = {
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
    "eroded": Look("#6a52b3", "8", "-."),
    "dilated": Look("#00767f", "D", "--"),
    "shifted": Look("#8f5b3b", "P", ":"),
    "box": Look("#4d7a00", "p", "-."),
    "inverted": Look("#b0363f", "*", ":"),
    "foreign-same": Look("#4b5fc4", "d", "--"),
    "foreign-other": Look("#8a5a00", "<", ":"),
    "random-alike": Look("#2f7d32", ">", "-."),
}
"""Colors with a contrast of at least 4.5 to white; their partners of the dark theme are in ``templates/style.css``."""
VARIANTS: tuple[dict[str, Any], ...] = (
    {"marker": "o", "linestyle": (0, (5, 2))},
    {"marker": "s", "linestyle": (0, (1.5, 1.5))},
    {"marker": "D", "linestyle": (0, (6, 1.5, 1, 1.5))},
)
"""How a second and a third system of one mask source are told from the first."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of a report."""

    name: str
    """Of its files."""
    title: str
    description: str
    """What can be seen, for who does not see it."""
    figure: Figure

    @cached_property
    def svg(self) -> bytes:
        """The same bytes for the same run."""
        return self._saved("svg", {"Date": None})

    @cached_property
    def pdf(self) -> bytes:
        """Likewise. Drawn after the other one: how a figure is laid out depends a little on how often it was."""
        self.svg  # noqa: B018
        return self._saved("pdf", {"CreationDate": None, "ModDate": None})

    def _saved(self, kind: str, metadata: dict[str, None]) -> bytes:
        buffer = io.BytesIO()
        with mpl.rc_context(RC):
            self.figure.savefig(buffer, format=kind, metadata=metadata)
        return buffer.getvalue()


def make_panel(figure: Figure, axes: Axes, name: str, title: str, description: str) -> Panel:
    """A figure with its legend below it."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower left", frameon=False, handlelength=3.2, labelspacing=0.35, borderaxespad=0
        )
    return Panel(name=name, title=title, description=description, figure=figure)


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
