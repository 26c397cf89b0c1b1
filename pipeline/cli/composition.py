"""From the words of a command line to a configuration: Hydra composes ``configs/``, the configuration's class validates."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, TypeVar

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.cli.groups import check_aliases, check_own_file, group_choices, group_names, own_directory
from pipeline.config import CONFIG_DIR, dotted_keys, validate
from pipeline.errors import ConfigError, said, shortened
from pipeline.schema import did_you_mean, inside_mapping

SWEEP_KEYS = ("hydra.", "hydra/")
"""How the keys begin that say how Hydra runs a sweep, and where."""

Config = TypeVar("Config")
_QUOTED = re.compile(r"'.*'|\".*\"")


def search_path() -> list[str]:
    """What Hydra is told of the directory of the user's own choices."""
    own = own_directory()
    return [] if own is None else [f"hydra.searchpath=[{quoted(f'file://{own}')}]"]


def load_config(command: str, config_class: type[Config], overrides: Sequence[str]) -> Config:
    """Compose the configuration of a command with the user's ``key=value`` words and validate it. Raises ConfigError."""
    return validate(config_class, compose(command, config_class, overrides))


def compose(command: str, config_class: type[Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What Hydra makes of ``configs/<command>.yaml`` and the overrides, as plain containers. Raises ConfigError."""
    words = check_overrides(config_class, overrides)
    for word in words:
        if word.startswith(SWEEP_KEYS):
            raise ConfigError(f"{word}: is for --multirun only")
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            composed = OmegaConf.to_container(hydra.compose(command, overrides=[*search_path(), *words]), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        said = re.sub(r"(.*?)(?: full_key: (\S+))? object_type=\w+$", r"\2: \1", one_line(error)).removeprefix(": ")
        hint = r"; say \${...} where these letters are meant" if "nterpolation" in said or "${" in said else ""
        raise ConfigError(said + hint) from error
    except RecursionError as error:
        raise ConfigError(f"{shortened(' '.join(overrides))}: a value refers to itself or is nested too deeply") from error
    except Exception as error:  # of a YAML file, Hydra lets through whatever its readers raise
        if (own := own_directory()) is None:
            raise
        raise ConfigError(f"{own}: Hydra cannot read what was chosen of it: {one_line(error)}") from error
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def check_overrides(config_class: type[Any], overrides: Sequence[str], *, sweep: bool = False) -> list[str]:
    """The overrides as Hydra wants them. Raises ConfigError for a word that is no override, an unknown key or an unknown choice.

    A plain ``key=value`` becomes ``++key=value``, because the YAML files need not repeat the defaults that the dataclasses hold.
    The value of a path is taken verbatim, whatever letters it has, but for ``null``, quotes around it and ``${...}``; in a sweep
    only where it is none of Hydra's expressions. A mapping, ``data.classes={cup:[cup]}``, takes the place of the one that was.
    """
    check_aliases()
    words: list[str] = []
    known = set(dotted_keys(config_class)) if overrides else set()
    paths = set(dotted_keys(config_class, of_paths=True)) if overrides else set()
    for word in overrides:
        override = _read(word, paths, sweep=sweep)
        key = override.key_or_group
        if key in group_names():
            _check_choice(key, override)
        elif not key.startswith(SWEEP_KEYS):
            if override.type != OverrideType.DEL and key not in known and not inside_mapping(key, known):
                raise ConfigError(f"{shortened(key)}: unknown key{did_you_mean(key, known | set(group_names()))}")
            if override.type == OverrideType.CHANGE:
                words += [f"++{key}=null"] if f"{key}.*" in known and not override.is_sweep_override() else []
                words.append(f"++{override.input_line}")
                continue
        words.append(str(override.input_line))
    return words


def _read(word: str, paths: set[str], *, sweep: bool) -> Override:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in word):
        raise ConfigError(f"{shortened(repr(word))} holds control characters or bytes that are no text")
    key, equals, value = word.partition("=")
    if not equals and not word.startswith("~"):
        raise ConfigError(f"{shortened(repr(word))} is not of the form key=value")
    if key.lstrip("+") in paths and value != "null" and not _QUOTED.fullmatch(value):
        verbatim = f"{key}={quoted(value)}"
        if not sweep:
            return _parse(verbatim)
        try:
            return _parse(word)
        except ConfigError:
            return _parse(verbatim)
    return _parse(word)


def quoted(value: str) -> str:
    """A value that Hydra's grammar takes verbatim, but for ``${...}``: backslashes count only before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except (HydraException, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        hint = "put quotes around a value with special characters: key='\"value\"'"
        raise ConfigError(f"{shortened(repr(word))} cannot be read as key=value ({one_line(error)}); {hint}") from error


def _check_choice(group: str, override: Override) -> None:
    if override.is_sweep_override() or override.type == OverrideType.DEL:
        return
    choices, choice = group_choices(group), override.value()
    if choice not in choices:
        raise ConfigError(f"{group}={shortened(str(choice))}: unknown choice; choose one of {', '.join(choices)}")
    check_own_file(group, str(choice))


def one_line(error: BaseException) -> str:
    """What a library says, without its line breaks."""
    return shortened(said(error))
