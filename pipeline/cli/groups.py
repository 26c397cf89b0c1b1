"""The configuration groups: directories of files in ``configs/``, such as ``attack/fast.yaml`` for ``attack=fast``."""

from functools import cache
from typing import Any

from pipeline.config import CONFIG_DIR, json_schema_of


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
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
