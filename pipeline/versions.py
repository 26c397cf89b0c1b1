"""Versions of this package and of others, where nothing may be installed: what is not known is ``unknown``, never an error."""

import importlib.metadata
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """The version of a package as it is installed. What it offers may be there under another name (opencv-python), or as a copy."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def own_version() -> str:
    """The version of the code that runs: that of the checkout it lies in, be another one installed or none; else the installed."""
    return str(checkout().get("version") or version_of("foreguard"))


def checkout() -> Mapping[str, Any]:
    """What ``pyproject.toml`` says of the project, where the code lies in a checkout; else nothing."""
    try:
        project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project if project["name"] == "foreguard" else {}
    except (OSError, ValueError, KeyError, TypeError):  # none there, or none that can be read
        return {}
