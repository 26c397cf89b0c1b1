"""A table, once for all outputs: the page, CSV and LaTeX. Text from data is escaped for where it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from pipeline.reporting import templating


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What stands in a table, as text."""

    text: str
    detail: str = ""
    """The interval, or what else belongs to it in smaller print."""
    outcome: str = ""
    """PASS, FAIL or SKIP, where the cell says so."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A heading."""

    label: str
    detail: str = ""
    """Unit."""
    numeric: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report. The first column names the row."""

    name: str
    """Of its files, and of its place in the page."""
    title: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    """Titles (empty for none) with their rows."""
    tidy: pl.DataFrame = field(repr=False)
    """The same figures for programs: one row a figure, shares in [0,1], no rounding."""

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for _, rows in self.groups)


def grouped(rows: Mapping[str, Sequence[tuple[Cell, ...]]]) -> tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]:
    """Rows by the title of their group, as ``Table.groups``."""
    return tuple((title, tuple(of_title)) for title, of_title in rows.items())


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
