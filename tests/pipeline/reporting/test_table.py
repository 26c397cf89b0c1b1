"""Tables in other programs: text from data stays text."""

import csv
import io
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reporting.table import Cell, Column, Table, to_csv, to_latex
from pipeline.reporting.templating import latex


def table(text: str) -> Table:
    return Table(
        name="t",
        title="T",
        caption=f"about {text}",
        columns=(Column(label=text), Column(label="value", detail="%", numeric=True)),
        groups=((text, ((Cell(text=text), Cell(text="1.0", detail="[0.5, 1.5]")),)),),
        tidy=pl.DataFrame({"name": [text], "value": [-0.25]}),
    )


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=cmd"])
def test_a_spreadsheet_never_runs_text_as_a_formula(text):
    rows = list(csv.DictReader(io.StringIO(to_csv(table(text)).decode(), newline="")))
    assert rows == [{"name": f"'{text}", "value": "-0.25"}]


def test_other_text_and_numbers_are_unchanged_in_csv():
    rows = list(csv.DictReader(io.StringIO(to_csv(table('a "b", c\nd')).decode(), newline="")))
    assert rows == [{"name": 'a "b", c\nd', "value": "-0.25"}]


PRINTED = {
    r"\textbackslash{}": "\\",
    r"\textasciicircum{}": "^",
    r"\textasciitilde{}": "~",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    "{[}": "[",
    "{]}": "]",
    **{rf"\{character}": character for character in "{}$&#_%"},
}


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"])))
def test_latex_prints_what_was_meant(text):
    """Undone by a reader that knows the commands from the manual, and nothing else of it is special."""
    pattern = "|".join(re.escape(command) for command in sorted(PRINTED, key=len, reverse=True))
    assert re.sub(pattern, lambda found: PRINTED[found[0]], latex(text)) == text
    assert not re.search(r"[\\{}$&#^_%~]", re.sub(pattern, "", latex(text)))


def test_a_class_name_cannot_run_latex():
    text = to_latex(table("\\input{/etc/passwd} & $x$ % \n\\end{document}")).decode()
    assert "\\input{/" not in text
    assert "\\end{document}" not in text
    assert text.count("\\begin") == text.count("\\end{t") == 2


def test_a_latex_row_has_as_many_cells_as_its_table(reported):
    paths = sorted((reported / "tables").glob("*.tex"))
    assert len(paths) > 8
    for path in paths:
        lines = path.read_text().splitlines()
        columns = next(re.search(r"begin\{tabular\}\{([lr]+)\}", line)[1] for line in lines if "begin{tabular}" in line)
        rows = [line for line in lines if line.endswith("\\\\") and "multicolumn" not in line]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1, f"{path.name}: {row}"
