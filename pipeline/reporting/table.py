"""A table, once for all outputs: the page, CSV and LaTeX. Text from data is escaped for where it goes."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl


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
    align = "".join("r" if column.numeric else "l" for column in table.columns)
    heads = [
        f"\\shortstack{{{latex(one.label)}\\\\{latex(one.detail)}}}" if one.detail else latex(one.label) for one in table.columns
    ]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering\\small",
        f"  \\caption{{{latex(table.caption)}}}",
        f"  \\label{{tab:{table.name}}}",
        f"  \\begin{{tabular}}{{{align}}}",
        "    \\toprule",
        f"    {' & '.join(heads)} \\\\",
    ]
    for title, rows in table.groups:
        lines.append("    \\midrule")
        if title:
            lines.append(f"    \\multicolumn{{{len(table.columns)}}}{{l}}{{\\emph{{{latex(title)}}}}} \\\\")
        lines += [f"    {_latex_row(table.columns, row)} \\\\" for row in rows]
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines).encode()


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "[": "{[}",  # would be read as an option behind a line break
    "]": "{]}",
}


def latex(text: str) -> str:
    """Text that LaTeX prints as it is. Line breaks and control characters become blanks."""
    clean = "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)
    return "".join(_LATEX.get(character, character) for character in clean)


def _latex_row(columns: tuple[Column, ...], cells: tuple[Cell, ...]) -> str:
    """Details stand below their figures: beside them a table of five epsilons is wider than any page."""
    texts = []
    for column, cell in zip(columns, cells, strict=True):
        side = "r" if column.numeric else "l"
        small = f"{{\\scriptsize {latex(cell.detail)}}}"
        texts.append(f"\\shortstack[{side}]{{{latex(cell.text)}\\\\{small}}}" if cell.detail else latex(cell.text))
    return " & ".join(texts)
