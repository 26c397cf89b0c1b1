"""The configuration groups: directories of files in ``configs/``, such as ``attack/fast.yaml`` for ``attack=fast``."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.cli import commands
from pipeline.config import CONFIG_DIR, json_schema_of
from pipeline.errors import ConfigError, said

EXPERIMENT = "experiment"
_GLOBAL = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*?[ \t]*#[ \t]*@package[ \t]+_global_")
_OWN: ContextVar[Path | None] = ContextVar("directory of choices of the user's own", default=None)


@cache
def group_names() -> tuple[str, ...]:
    """The configuration groups, such as ``data`` and ``attack/training``."""
    return tuple(sorted({path.parent.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.glob("*/**/*.yaml")}))


def groups_of(config_class: type[Any]) -> list[str]:
    """The groups that a command takes a choice of."""
    properties = json_schema_of(config_class)["properties"]
    return [group for group in group_names() if group in properties]


def group_choices(group: str) -> list[str]:
    """The files of a configuration group: what may stand behind ``group=``."""
    own = own_directory()
    directories = [CONFIG_DIR] if own is None else [CONFIG_DIR, own]
    return sorted({path.stem for directory in directories for path in (directory / group).glob("*.yaml")})


MOST_VALUES = 100_000
"""Values of a file, written out: a few lines of aliases of aliases stand for more than any memory holds."""


def check_aliases() -> None:
    """Raises ConfigError for a file of the user's own, chosen or drawn in by another, whose aliases stand for too many values."""
    own = own_directory()
    for path in () if own is None else (path for group in group_names() for path in sorted((own / group).glob("*.yaml"))):
        import yaml  # type: ignore[import-untyped]  # here alone: --help and completion take no time

        try:
            text = path.read_text(encoding="utf-8")
            node = yaml.compose(text) if "*" in text else None
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue  # which is said where it is chosen
        if node is not None and _written_out(node, {}) > MOST_VALUES:
            raise ConfigError(f"{path}: its aliases (*name) stand for more than {MOST_VALUES:,} values; write out what is meant")


def _written_out(node: Any, known: dict[int, float]) -> float:
    """How many values a node of YAML stands for; of one that holds itself there is no end."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted
        inner = node.value if isinstance(node.value, list) else []
        parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def check_own_file(group: str, choice: str) -> None:
    """Raises ConfigError for a file of the user's own that Hydra would end over in a traceback, or take for something else."""
    own = own_directory()
    if own is None or not (path := own / group / f"{choice}.yaml").is_file():
        return
    from omegaconf import DictConfig, OmegaConf  # here alone: --help and completion take no time

    try:
        text = path.read_text(encoding="utf-8")
        values = OmegaConf.create(text)
    except Exception as error:  # of YAML, OmegaConf or the text
        raise ConfigError(f"{path}: cannot be read as YAML in UTF-8: {said(error, 300)}") from error
    if not isinstance(values, DictConfig) or not values:
        raise ConfigError(f"{path}: holds no keys, key: value")
    if group == EXPERIMENT and not _GLOBAL.match(text):
        raise ConfigError(f"{path}: has to begin with the line '# @package _global_', else its keys are nobody's")


def config_directory(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without ``--config-dir DIR`` (or ``--config-dir=DIR``), and the directory. Raises ConfigError: there is none."""
    left, named = [], None
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option != commands.CONFIG_DIR:
            left.append(word)
            continue
        given = value if equals else next(remaining, "")
        named = Path(given).expanduser()
        if not given or not named.is_dir():
            raise ConfigError(f"{commands.CONFIG_DIR} {given}: no such directory; it holds groups such as experiment/NAME.yaml")
    return left, named


@contextmanager
def added_directory(directory: Path | None) -> Iterator[None]:
    """Choices of the user's own beside the shipped ones, as long as this lasts: ``directory/experiment/NAME.yaml``."""
    token = _OWN.set(None if directory is None else directory.resolve())
    try:
        yield
    finally:
        _OWN.reset(token)


def own_directory() -> Path | None:
    """That directory; None where there is none."""
    return _OWN.get()
