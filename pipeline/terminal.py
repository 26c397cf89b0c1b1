"""What is printed for people: in columns, and in color where a terminal wants it."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from pipeline.errors import printable

Style = Literal["good", "bad", "note", "head"]
_CODES: dict[Style, str] = {"good": "32", "bad": "1;31", "note": "33", "head": "1"}


@runtime_checkable
class Stream(Protocol):
    """Where text goes."""

    def isatty(self) -> bool: ...


def wants_color(stream: Stream, variables: Mapping[str, str] = os.environ) -> bool:
    """Whether text for a stream is colored: on a terminal that can, unless NO_COLOR says no (https://no-color.org) or FORCE_COLOR
    that it is wanted anywhere."""
    if variables.get("NO_COLOR"):
        return False
    return bool(variables.get("FORCE_COLOR")) or (stream.isatty() and variables.get("TERM") != "dumb")


def colored(text: str, style: Style, stream: Stream | None = None) -> str:
    """The text as it is, or in the color of its style where ``stream`` wants it; None: standard output."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if wants_color(stream or sys.stdout) else text


def aligned(rows: Sequence[Sequence[str]], styles: Mapping[str, Style] | None = None) -> list[str]:
    """Rows of a table, the headings first, as lines with two blanks between columns. Cells whose whole text has a style get it;
    None: plain text, for a file."""
    widths = [max(len(printable(row[column])) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for number, row in enumerate(rows):
        padded = [printable(cell).ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)]
        known = [None if styles is None else styles.get(cell, "head" if number == 0 else None) for cell in row]
        lines.append("  ".join(colored(cell, style) if style else cell for cell, style in zip(padded, known, strict=True)).rstrip())
    return lines
