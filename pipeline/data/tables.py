"""Tables of text as programs save them: separated by commas, semicolons or tabs, with or without a byte order mark."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError

NOTHING = ("", "nan", "NaN", "<NA>")
"""What programs write into a cell that holds nothing."""


class Table(NamedTuple):
    """What a table holds, cells without blanks around them."""

    header: list[str]
    rows: list[tuple[int, list[str]]]
    """With the number of their line; rows of empty cells are left out."""
    delimiter: str


def read_table(path: Path) -> Table:
    """Read all rows. The separator is the commonest one of the header. Raises DataError; FileNotFoundError where there is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
            said = re.fullmatch(r'"?sep=(.)"?\s*', first)  # written for Excel, which does not show the line
            delimiter, above = (said[1], 1) if said else (max(",;\t", key=first.count), 0)
            if not said:
                stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)  # else an open quote swallows all rows behind it
            header = [cell.strip() for cell in next(reader, [])]
            rows = [(above + reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: row {above + reader.line_num}: {error}; is a quote left open?") from error
    return Table(header, [(number, cells) for number, cells in rows if any(cells)], delimiter)
