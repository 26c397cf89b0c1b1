"""The one error tree. The command line catches ``UserError`` and nothing else; any other exception is a bug."""


class UserError(Exception):
    """A mistake that the user can mend: one line that says what is wrong, where, and what would be right. Exit code 2."""


class ConfigError(UserError):
    """A configuration that cannot be: unknown key, wrong type, value out of range. The message names the dotted key."""


class DataError(UserError):
    """A source or a prepared data set that cannot be used: missing, damaged, empty. The message names the file."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used: missing, damaged, of another architecture or class count. The message names the file."""


class RunError(UserError):
    """A run directory that cannot be written or continued. The message names the directory."""
