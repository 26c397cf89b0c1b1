"""What a result was made with: versions, and the commit of the code."""

import dataclasses
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch
from pydantic import ConfigDict

from pipeline.versions import own_version


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Versions of the program and of what computes; the code's commit where it runs from a git work tree."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    foreguard: str
    """Version of this package; ``unknown`` for a copy of its sources without pyproject.toml."""
    python: str
    """Version of the interpreter."""
    torch: str
    """Version of torch, with its build."""
    commit: str | None
    """The commit that is checked out, or None outside a work tree."""
    dirty: bool | None
    """True if tracked files of the work tree were changed since that commit; None outside a work tree."""


@cache
def provenance() -> Provenance:
    """The provenance of what this process computes."""
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None
    dirty = None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no"))
    versions = {"foreguard": own_version(), "python": platform.python_version(), "torch": str(torch.__version__)}
    return Provenance(**versions, commit=commit, dirty=dirty)


def _git(*arguments: str) -> str | None:
    """Output of a git command in the directory of the code, or None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
