"""The command ``foreguard doctor``: is this machine ready, and if not, what is missing and how to get it."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from packaging.requirements import Requirement
from pydantic import Field

from pipeline.config import AnyPath, Number, configuration
from pipeline.errors import DataError, UserError, said
from pipeline.terminal import Style, colored
from pipeline.versions import checkout, own_version

Verdict = Literal["ok", "note", "FAIL"]
GIB = 1024**3
INSTALL = "make setup, or: python -m pip install --require-hashes --no-deps -r requirements.lock"


@configuration
class DoctorConfig:
    """Configuration of ``foreguard doctor``."""

    prepared: AnyPath | None = None
    """A prepared data set to verify byte by byte; null: none."""
    directory: AnyPath = Path()
    """Where runs and data will be written: its disk is measured."""
    min_disk: Annotated[Number, Field(ge=0, le=1e9)] = 2.0
    """Free disk below which a FAIL is reported, in GiB."""
    min_memory: Annotated[Number, Field(ge=0, le=1e9)] = 3.0
    """Available memory below which a FAIL is reported, in GiB."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the examination."""

    verdict: Verdict
    what: str
    detail: str
    remedy: str = ""


_STYLES: dict[Verdict, Style] = {"ok": "good", "note": "note", "FAIL": "bad"}


def doctor(config: DoctorConfig) -> dict[str, Any]:
    """Print the findings and return them. Raises UserError where one of them is a FAIL, so that a script can ask."""
    findings = list(examine(config))
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{colored(f'{finding.verdict:<4}', _STYLES[finding.verdict])}  {finding.what:<{width}}  {finding.detail}")
        if finding.remedy:
            print(f"{'':<{width + 6}}  -> {finding.remedy}")
    failed = [finding.what for finding in findings if finding.verdict == "FAIL"]
    answer = {"ready": not failed, "findings": findings}
    if failed:
        error = UserError(f"doctor: not ready ({', '.join(failed)}); the remedies are above")
        error.answer = answer
        raise error
    print(colored("ready", "good"))
    return answer


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Everything that is looked at, most basic first."""
    yield _python()
    yield from _packages()
    yield _torch_and_torchvision()
    yield from _devices()
    yield _disk(config.directory, config.min_disk)
    yield _memory(config.min_memory)
    if config.prepared is not None:
        yield _prepared(config.prepared)


def _python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(verdict="ok" if fits else "FAIL", what="Python", detail=detail, remedy="" if fits else "use Python 3.11 to 3.13")


def _packages() -> Iterator[Finding]:
    """The package itself, and whether everything that its metadata says it needs is there in a version that it allows."""
    try:
        metadata = importlib.metadata.distribution("foreguard")
        needed = metadata.requires or []
        yield Finding(verdict="ok", what="foreguard", detail=metadata.version)
    except importlib.metadata.PackageNotFoundError:
        needed = checkout().get("dependencies", [])
        detail, remedy = f"{own_version()}, run from its sources, not installed", "make setup, or: pip install -e ."
        yield Finding(verdict="note", what="foreguard", detail=detail, remedy=remedy)
    for requirement in map(Requirement, needed):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement)


def _package(requirement: Requirement) -> Finding:
    needed = str(requirement.specifier) or "any version"
    try:
        installed = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(verdict="FAIL", what=requirement.name, detail=f"missing (needed: {needed})", remedy=INSTALL)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Finding(verdict="FAIL", what=requirement.name, detail=f"{installed} (needed: {needed})", remedy=INSTALL)
    return Finding(verdict="ok", what=requirement.name, detail=installed)


def _torch_and_torchvision() -> Finding:
    """torchvision's compiled operators register only with the torch build they were made for."""
    what = "torch with torchvision"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a mismatch also warns; the finding says it better
            import torch
            import torchvision

            kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8]), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        detail = f"do not work together ({said(error, 160)})"
        return Finding(verdict="FAIL", what=what, detail=detail, remedy=f"install both from the lock: {INSTALL}")
    return Finding(verdict="ok" if kept.tolist() == [0] else "FAIL", what=what, detail="same build, operators run")


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import torch
    except (ImportError, OSError):
        return
    yield Finding(verdict="ok", what="CPU", detail=f"{cores} usable cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Finding(verdict="ok", what=f"GPU {index}", detail=f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding(verdict="ok", what="GPU", detail="Apple MPS")
    else:
        yield Finding(verdict="note", what="GPU", detail="none found: everything runs on the CPU; use small images and models")


def _disk(directory: Path, least: float) -> Finding:
    existing = next(path for path in [directory.absolute(), *directory.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    fits = free >= least and os.access(existing, os.W_OK)
    detail = f"{free:.1f} GiB free at {directory.absolute()}" + ("" if os.access(existing, os.W_OK) else ", not writable")
    remedy = "" if fits else f"free {least:g} GiB or name another place: directory=DIR"
    return Finding(verdict="ok" if fits else "FAIL", what="disk", detail=detail, remedy=remedy)


def _memory(least: float) -> Finding:
    state = psutil.virtual_memory()
    fits = state.available / GIB >= least
    detail = f"{state.available / GIB:.1f} of {state.total / GIB:.1f} GiB available"
    remedy = "" if fits else f"close other programs: the quickstart needs {least:g} GiB"
    return Finding(verdict="ok" if fits else "FAIL", what="memory", detail=detail, remedy=remedy)


def _prepared(path: Path) -> Finding:
    from pipeline.data.dataset import open_prepared  # here, so that the rest works where its packages are missing

    try:
        dataset = open_prepared(path)
    except DataError as error:
        return Finding(verdict="FAIL", what="prepared data", detail=str(error))
    detail = (
        f"{len(dataset)} samples, {dataset.num_classes} classes, {dataset.image_size} px, fingerprint {dataset.fingerprint[:12]}"
    )
    return Finding(verdict="ok", what="prepared data", detail=detail)
