"""The one error tree. The command line catches ``UserError`` and nothing else; any other exception is a bug."""

from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend: one line that says what is wrong, where, and what would be right. Exit code 2."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be: unknown key, wrong type, value out of range. The message names the dotted key."""


class DataError(UserError):
    """A source or a prepared data set that cannot be used: missing, damaged, empty. The message names the file."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used: missing, damaged, of another architecture or class count. The message names the file."""


class RunError(UserError):
    """A run directory that cannot be written or continued. The message names the directory."""


class OccupiedError(RunError):
    """A directory that another process is working in. The message names it."""

    def __init__(self, message: str, lock: Path) -> None:
        """``lock`` is the file that the other process holds: who wants to wait, waits for that."""
        super().__init__(message, lock)
        self.lock = lock

    def __str__(self) -> str:
        return str(self.args[0])
