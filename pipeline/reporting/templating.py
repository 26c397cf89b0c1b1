"""The templates of a report, each kind with its own way to make text from data harmless: the page, LaTeX, plain sentences."""

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from pipeline.templates import templates

_HERE = "pipeline.reporting"
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


@cache
def page() -> Environment:
    """For HTML: every value is escaped."""
    return templates(_HERE, autoescape=True)


@cache
def tex() -> Environment:
    """For LaTeX: every value is escaped as it is put in. Its tags are << >>, <% %> and <# #>, for braces belong to LaTeX."""
    return templates(
        _HERE,
        autoescape=True,  # so that what a macro returns is known to be finished
        finalize=lambda value: value if isinstance(value, Markup) else Markup(latex(str(value))),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        keep_trailing_newline=True,
    )


@cache
def _plain() -> Environment:
    return templates(_HERE, autoescape=False)


def sentences(template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> list[str]:
    """Plain text for people, one sentence or paragraph a line of the template's result."""
    environment = _plain()
    environment.filters |= filters
    return [line.strip() for line in environment.get_template(template).render(**values).splitlines() if line.strip()]


def latex(text: str) -> str:
    """Text that LaTeX prints as it is. Line breaks and control characters become blanks."""
    clean = "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)
    return "".join(_LATEX.get(character, character) for character in clean)
