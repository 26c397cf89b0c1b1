"""``foreguard COMMAND --help``: every key with its meaning, unit, range and default, read from the configuration classes."""

import textwrap
from collections.abc import Iterator
from typing import Any

from pipeline.cli.composition import compose
from pipeline.cli.groups import group_choices, groups_of
from pipeline.cli.keys import Alternative, Key, described_keys
from pipeline.errors import ConfigError

WIDTH = 110


def command_help(name: str, summary: str, example: str, config_class: type[Any]) -> str:
    """The help page of one command, as plain text."""
    lines = [f"foreguard {name}: {summary}", "", f"usage: foreguard {name} key=value ...", f"  e.g. {example}"]
    groups = groups_of(config_class)
    if groups:
        lines += ["", "choices (files in configs/; each may be followed by single keys):"]
        lines += [f"  {group}={'|'.join(group_choices(group))}" for group in groups]
    lines += ["", "keys:"]
    for entry in described_keys(config_class, composed_defaults(name, config_class)):
        lines += _alternative(entry) if isinstance(entry, Alternative) else _key(entry)
    return "\n".join(lines)


def composed_defaults(name: str, config_class: type[Any]) -> dict[str, Any]:
    """What the shipped files set, which comes before the defaults of the classes."""
    try:
        return compose(name, config_class, [])
    except ConfigError:  # a choice without default must still have a help page
        return {}


def _alternative(entry: Alternative) -> list[str]:
    return textwrap.wrap(f"-- {entry.key}: {entry.tag} -- {entry.meaning}", WIDTH, initial_indent="  ", subsequent_indent="      ")


def _key(entry: Key) -> Iterator[str]:
    yield f"  {entry.name}  [{entry.kind}; {entry.default}]" if entry.kind else f"  {entry.name}"
    yield from textwrap.wrap(entry.meaning, WIDTH, initial_indent="      ", subsequent_indent="      ")
    for choice, does in entry.choices:
        yield from textwrap.wrap(f"{choice}: {does}", WIDTH, initial_indent="        ", subsequent_indent="          ")
