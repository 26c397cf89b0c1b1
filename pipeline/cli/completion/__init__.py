"""Shell completion: ``foreguard completion bash`` prints what bash loads, and that asks ``foreguard completion words ...`` then.

Commands, keys up to the next dot, choices of groups, named values and files are completed, from the same classes as --help has its
texts. Neither torch nor Hydra is imported.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.cli.commands import CONFIG_DIR, JSON, Command
from pipeline.cli.groups import added_directory, config_directory, group_choices, groups_of
from pipeline.cli.keys import Key, described_keys
from pipeline.errors import ConfigError, shortened

SHELLS = ("bash", "zsh", "fish")
USAGE = """\
foreguard completion: print what a shell loads to complete commands, keys, choices and files

usage: foreguard completion bash|zsh|fish
  bash  eval "$(foreguard completion bash)"        in ~/.bashrc
  zsh   eval "$(foreguard completion zsh)"         in ~/.zshrc, after compinit
  fish  foreguard completion fish | source         in ~/.config/fish/config.fish"""


def completion(words: Sequence[str], commands: Mapping[str, Command]) -> str:
    """The answer to ``foreguard completion``: a script for a shell, or the candidates for the last of the words behind ``words``.

    ``commands`` are those of ``cli.commands``. Raises ConfigError for another shell.
    """
    if words[:1] == ["words"]:
        return "\n".join(candidates(words[1:], commands))
    if len(words) != 1 or words[0] not in SHELLS:
        raise ConfigError(f"{shortened(' '.join(['completion', *words]))}: say one of {', '.join(SHELLS)}")
    return Path(__file__).with_name(f"foreguard.{words[0]}").read_text(encoding="utf-8")


def candidates(words: Sequence[str], commands: Mapping[str, Command]) -> list[str]:
    """What may stand in place of the last word, sorted. A candidate that ends with ``.``, ``=`` or ``/`` goes on behind that."""
    *before, typed = words or [""]
    if not before:
        found: Iterator[str] = iter([*commands, "completion", "--help", "--version"])
    elif before[0] == "completion":
        found = iter(SHELLS)
    elif before[0] not in commands:
        return []
    else:
        found = _of_command(commands[before[0]], before[1:], typed)
    return sorted({one for one in found if one.startswith(typed)})


def _of_command(command: Command, before: Sequence[str], typed: str) -> Iterator[str]:
    if before[-1:] == [CONFIG_DIR]:
        yield from _files(typed)
        return
    key, equals, value = typed.partition("=")
    if equals:
        with added_directory(_own(before)):
            yield from (f"{key}={one}" for one in _values(command.config_class(), key, value))
        return
    given = {word.partition("=")[0] for word in before}
    options = ("-h", "--help", "--multirun", CONFIG_DIR, *((JSON,) if command.answers else ()))
    names = (*groups_of(command.config_class()), *(one.name for one in _keys(command.config_class())), *options)
    yield from _next_parts(typed, (name for name in names if name not in given))


def _own(words: Sequence[str]) -> Path | None:
    """The directory of choices of the user's own, where there is one by that name."""
    try:
        return config_directory(words)[1]
    except ConfigError:
        return None


def _written_out(config_class: Any) -> tuple[Key, ...]:
    described = (entry for entry in described_keys(config_class, {}) if isinstance(entry, Key))
    return tuple(key for key in described if key.kind and "NAME" not in key.name.split("."))


_keys: Callable[[Any], tuple[Key, ...]] = cache(_written_out)
"""Keys that can be written out; below NAME there are others."""


def _next_parts(typed: str, names: Iterator[str]) -> Iterator[str]:
    """Each name up to the next dot behind what is typed, as files are completed up to the next slash."""
    for name in names:
        dot = name.find(".", len(typed))
        if name.startswith("-"):
            yield name
        else:
            yield name[: dot + 1] if dot >= 0 else f"{name}="


def _values(config_class: type[Any], name: str, typed: str) -> Iterator[str]:
    if name in groups_of(config_class):
        yield from group_choices(name)
    if name == CONFIG_DIR:
        yield from _files(typed)
    for key in _keys(config_class):
        if key.name == name:
            yield from key.values
            if key.is_path:
                yield from _files(typed)


def _files(typed: str) -> Iterator[str]:
    """What a typed path may become: directories end with a slash, hidden files have to be begun, ``~`` stays as it is."""
    folder, slash, beginning = typed.rpartition("/")
    try:
        with os.scandir(os.path.expanduser(f"{folder}{slash}") or ".") as entries:
            for entry in entries:
                if beginning.startswith(".") or not entry.name.startswith("."):
                    yield f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}"
    except OSError:  # no such directory, or none that may be read: nothing to complete
        return
