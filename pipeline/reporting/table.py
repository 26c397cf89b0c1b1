"""A table, once for all outputs: the page, CSV and LaTeX. Text from data is escaped for where it goes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from pipeline.evaluation.statistics import Estimate
from pipeline.reporting import templating, wording


@dataclass(frozen=True)
class Cell:
    """What stands in a table, as text."""

    text: str
    detail: str = ""
    """The interval, or what else belongs to it in smaller print."""
    outcome: str = ""
    """PASS, FAIL or SKIP, where the cell says so."""


@dataclass(frozen=True)
class Column:
    """A heading."""

    label: str
    detail: str = ""
    """Unit."""
    numeric: bool = False


Row = tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report. The first column names the row."""

    name: str
    """Of its files, and of its place in the page."""
    title: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    """Titles (empty for none) with their rows."""
    tidy: pl.DataFrame = field(repr=False)
    """The same figures for programs: one row a figure, shares in [0,1], no rounding."""

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for _, rows in self.groups)


def make_table(
    name: str,
    *,
    title: str,
    caption: str,
    columns: Iterable[Column],
    rows: Iterable[tuple[str, Row]],
    tidy: pl.DataFrame | Iterable[Mapping[str, object]],
) -> Table:
    """A table of rows, each with the title of its group (empty for none), and of figures for programs, a mapping each."""
    groups: dict[str, list[Row]] = {}
    for heading, row in rows:
        groups.setdefault(heading, []).append(row)
    frame = tidy if isinstance(tidy, pl.DataFrame) else pl.DataFrame(list(tidy), infer_schema_length=None)
    grouped = tuple((heading, tuple(of_heading)) for heading, of_heading in groups.items())
    return Table(name=name, title=title, caption=caption, columns=tuple(columns), groups=grouped, tidy=frame)


def numbers(label: str, detail: str = "") -> Column:
    """A column of figures."""
    return Column(label, detail, numeric=True)


def share_cell(estimate: Estimate) -> Cell:
    """A share in percent with its interval."""
    return Cell(estimate.number(), estimate.interval())


def points_cell(estimate: Estimate) -> Cell:
    """A difference in percentage points with its interval."""
    return Cell(wording.points(estimate), wording.points_interval(estimate))


def tidy_estimate(estimate: Estimate) -> dict[str, float | int]:
    """An estimate as columns for programs."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "images": estimate.n, "groups": estimate.groups}


def to_csv(table: Table) -> bytes:
    """UTF-8 CSV of the tidy figures. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    texts = pl.selectors.string()
    guarded = table.tidy.with_columns(
        pl.when(texts.str.contains(r"^\s*[=+\-@]|^[\t\r\n]")).then(pl.lit("'") + texts).otherwise(texts).name.keep()
    )
    return guarded.write_csv().encode()


def to_latex(table: Table) -> bytes:
    """A booktabs table, to be used with \\input."""
    return templating.tex().get_template("table.tex").render(table=table).encode()
