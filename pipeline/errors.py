"""The one error tree. The command line catches ``UserError`` and nothing else; any other exception is a bug."""

import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any


def printable(text: str) -> str:
    """The text on one line and harmless to a terminal: control and format characters and lone surrogates are escaped.

    >>> printable("red\\x1b[31m\\n")
    'red\\\\x1b[31m\\\\n'
    """
    escaped = (letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _ESCAPED else letter for letter in text)
    return "".join(escaped)


def shortened(text: str) -> str:
    """The text for use within a line: what is very long ends in its length."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text)} characters)"


def said(error: BaseException, most: int | None = None) -> str:
    """What somebody else's error says, on one line and at most so long."""
    return " ".join(str(error).split())[:most]


def kind_and_words(error: BaseException) -> str:
    """``ValueError: what it says``, for an error that may be any."""
    return f"{type(error).__name__}: {said(error)}"[:300]


_MOST_SHOWN = 300
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's classes of what moves the cursor, turns the direction of writing or cannot be encoded."""


class UserError(Exception):
    """A mistake that the user can mend: one line that says what is wrong, where, and what would be right. Exit code 2."""

    answer: Mapping[str, Any] = MappingProxyType({})
    """What was found before, for ``--json``."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be: unknown key, wrong type, value out of range. The message names the dotted key."""


class DataError(UserError):
    """A source or a prepared data set that cannot be used: missing, damaged, empty. The message names the file."""


class InputError(UserError, ValueError):
    """Images, labels, masks or a model of the user's own that cannot be attacked. The message says what would be right."""


class NumberError(UserError, FloatingPointError):
    """A system that answers with NaN or infinite values, or has NaN gradients. The message names the images by their sample ids."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used: missing, damaged, of another architecture or class count. The message names the file."""


class RunError(UserError):
    """A run directory that cannot be written or continued. The message names the directory."""


class OccupiedError(RunError):
    """A directory that another process is working in. The message names it."""

    def __init__(self, message: str, lock: Path | None = None) -> None:
        """``lock`` is the file that the other process holds: who wants to wait, waits for that. None: nobody can wait."""
        super().__init__(message, lock)
        self.lock = lock

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(target: object, *, cannot: str = "be written") -> Iterator[None]:
    """Raises RunError, in one line, for an operating system that does not let ``target`` be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{target}: cannot {cannot}: {error.strerror or error}") from error
