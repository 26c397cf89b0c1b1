"""A system of the user's own for ``foreguard evaluate``: found by its import path, built, tried on the data."""

import importlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import read_rows
from pipeline.errors import ConfigError, InputError, kind_and_words
from pipeline.evaluation.chunks import attack_batch
from pipeline.evaluation.doubts import doubts_about
from pipeline.evaluation.inputs import checked_logits, checked_system, doubt_about, without_values
from pipeline.evaluation.loading import LoadedSystem
from pipeline.evaluation.preprocessing import SHOWN, doubts_about_preprocessing
from pipeline.runs.checkpoints import state_digest
from pipeline.runs.files import canonical_sha256, file_sha256
from pipeline.system import context_of

FEW = 8
"""Images of the data that a system is tried on, and as many as it is asked about one by one."""


def load_own(path: str, *, dataset: PreparedDataset, device: torch.device) -> LoadedSystem:
    """Build the system that ``package.module:callable`` returns, and try it on the first images of the data.

    Its class k is class k of the data set. What makes it the same when a run is continued is its import path and its digest.
    Raises ConfigError in one line: a path that leads nowhere, a callable that needs arguments or raises, what is no module, outputs
    that are no logits of the data's classes.
    """
    module = build_own(path)
    rows = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).astype(np.int64)  # of all classes, however they lie
    read = read_rows(dataset, rows).to(device)
    try:
        system = checked_system(module.to(device))
        system.eval()  # what it may have been wrapped in comes in training mode
        shown = attack_batch(system, read.images, read.labels, context_of(read), guides=None, batch_size=SHOWN)
        batch = shown.select(torch.arange(min(FEW, len(shown)), device=device))
        logits = checked_logits(system, batch.images, batch.context)
        if logits.shape[1] != dataset.num_classes:
            both = f"has {logits.shape[1]} classes, and {dataset.path} has {dataset.num_classes}"
            raise InputError(f"{both}: class k is class k of both")
        if (doubt := doubt_about(system, batch.images, logits)) is not None:
            raise InputError(doubt)
        for doubt in (*doubts_about(system, batch.images, batch.context, logits), *doubts_about_preprocessing(shown)):
            print(f"BEWARE: system={path}: {doubt}")
    except InputError as error:
        raise ConfigError(f"system={path}: {error}") from error
    digest = system_digest(path, module)
    return LoadedSystem(
        system=system,
        system_id=canonical_sha256({"system": path, "digest": digest})[:16],
        masks=None,
        trained_masks=None,
        inputs={"system": digest},
        dataset=dataset,
    )


def system_digest(path: str, module: nn.Module) -> str:
    """What a system that was built from an import path is known by: SHA-256 over its state and the source files of its own code.

    These are the file that the path names, that of the callable, and those of the classes of all its modules, but for classes of
    this package and of installed ones. Functions that they call from other files are not looked at.
    """
    classes = {one for part in module.modules() for one in type(part).__mro__}
    own = {one.__module__ for one in (*classes, _found(path)) if not _is_installed(_file_of(one.__module__))}
    files = {name: _file_of(name) for name in own | {path.partition(":")[0]}}
    sources = sorted([name, file_sha256(file)] for name, file in files.items() if file is not None)
    return canonical_sha256({"state": state_digest(module), "sources": sources})


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file is not None and Path(file).is_file() else None


def _is_installed(file: Path | None) -> bool:
    """Of Python, of an installed package or of this one: what these compute, their versions say."""
    if file is None:
        return True
    places = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib")), Path(__file__).parents[1]]
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return bool(installed) or any(file.resolve().is_relative_to(place.resolve()) for place in places)


def _found(path: str) -> Callable[..., Any]:
    name, separator, attribute = path.partition(":")
    if not (name and separator and attribute) or not all(part.isidentifier() for part in (*name.split("."), attribute)):
        raise ConfigError(f"system={path}: expected MODULE:CALLABLE, as in my_package.module:build")
    module = _imported(path, name)
    found = getattr(module, attribute, None)
    if found is None:
        near = get_close_matches(attribute, [other for other in vars(module) if not other.startswith("_")], n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"system={path}: {name} has no {attribute}{hint}")
    if not callable(found) or isinstance(found, nn.Module):
        raise ConfigError(f"system={path}: is a {type(found).__name__}; expected a function or class that returns the module")
    callable_found: Callable[..., Any] = found
    return callable_found


def _imported(path: str, name: str) -> ModuleType:
    try:
        with _working_directory_first():
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # of the user's own code, which may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            what = f"there is no module {error.name}, neither in {os.getcwd()} nor in this environment"
        else:
            what = f"importing {name} fails: {kind_and_words(error)}"
        raise ConfigError(f"system={path}: {what}") from error


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """What lies in the working directory can be imported, as by ``python -m``; a script's path does not have it."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


def build_own(path: str) -> nn.Module:
    """The module that ``package.module:callable`` returns, as it is built. Raises ConfigError in one line."""
    build = _found(path)
    try:
        needed = [
            name
            for name, parameter in inspect.signature(build).parameters.items()
            if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):  # something built in, which does not say
        needed = []
    if needed:
        raise ConfigError(f"system={path}: needs arguments ({', '.join(needed)}); name a function that needs none and calls it")
    try:
        with _working_directory_first():
            module = build()
    except (Exception, SystemExit) as error:  # of the user's own code, which may raise anything
        raise ConfigError(f"system={path}: fails: {kind_and_words(error)}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"system={path}: returns a {type(module).__name__}; expected a torch.nn.Module from images to logits")
    if (empty := without_values(module)) is not None:
        raise ConfigError(
            f"system={path}: its {empty} has no values yet: run it on an image, or load its weights, before it is returned"
        )
    return module
