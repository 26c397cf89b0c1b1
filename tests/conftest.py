"""Shared by all tests: shapes are checked as types, real data is found or skipped, torch is quiet and deterministic."""

import atexit
import gc
import importlib.util
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Generator
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings

# Before torch is imported: tests run in several processes (pytest-xdist), and threads on top of that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

# Before the packages are imported for the first time: every annotated shape becomes a check. jaxtyping wants the checker by an
# importable name; an int may stand where a float is expected, as Python's typing has it.
_checker = types.ModuleType("foreguard_typechecker")
_checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[_checker.__name__] = _checker
_sizes_of_a_call = jaxtyping.jaxtyped("context")


def _checked(function: Any, *, typechecker: Callable[[Any], Any]) -> Any:
    """What the import hook makes of a function or a data class.

    Its own decorator checks arguments before a call and again with what is returned, and keeps account of sizes where no array is
    annotated: for small tensors a good part of the time. Here everything is checked once. Sizes that are computed from arguments
    ("{count}"), annotations in quotation marks and generators, which begin later than they are called, are left to it.
    """
    annotations = [*getattr(function, "__annotations__", {}).values()]
    written = str(annotations)
    left = "{" in written or any(isinstance(one, str) for one in annotations) or inspect.isgeneratorfunction(function)
    if left or not isinstance(function, types.FunctionType):
        return _jaxtyped(function, typechecker=typechecker)
    checked = typechecker(function)
    if "jaxtyping." not in written:
        return checked

    @wraps(function)
    def with_its_sizes(*args: Any, **kwargs: Any) -> Any:
        with _sizes_of_a_call:
            return checked(*args, **kwargs)

    return with_its_sizes


if sys.version_info < (3, 12):  # which finds the members of a protocol once; 3.11 looks for them at every check
    typing._get_protocol_attrs = cache(typing._get_protocol_attrs)  # type: ignore[attr-defined]
    typing._is_callable_members_only = cache(typing._is_callable_members_only)  # type: ignore[attr-defined]

_jaxtyped, jaxtyping.jaxtyped = jaxtyping.jaxtyped, lambda *, typechecker: partial(_checked, typechecker=typechecker)
jaxtyping.install_import_hook(["segmenter", "classifier", "pipeline"], "foreguard_typechecker.check")

atexit.register(gc.unfreeze)  # below; what ends in order tells of no leak


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Without garbage collection, which finds nothing while everything is imported, and takes a third of the time."""
    gc.disable()
    found = yield
    gc.freeze()  # what is imported stays to the end: nobody need look through it again
    gc.enable()
    return found


LONG = (
    *("test_kills", "test_shared_ablation", "test_launchers", "test_stopped_from_outside", "test_shared", "test_zoo"),
    *("test_examples", "test_pages"),
)
"""Files with tests that take about a minute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the long tests begin first, so that no worker is left at the end with one."""
    items.sort(key=lambda item: item.path.stem not in LONG)


# How long an example takes says nothing on a busy machine.
settings.register_profile("foreguard", deadline=None)
settings.load_profile("foreguard")

SHARED_DATA = Path(os.environ.get("FOREGUARD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def load_file() -> Callable[[Path], types.ModuleType]:
    """Imports a file that lies beside the tests, which are no package, under the name of the file."""

    def load(path: Path) -> types.ModuleType:
        specification = importlib.util.spec_from_file_location(path.stem, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[path.stem] = module
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """The small real COCO set; tests that need it skip where it is absent."""
    return _present(SHARED_DATA / "coco-mini")


@pytest.fixture(scope="session")
def gtsrb_mini() -> Path:
    """The small real GTSRB set; tests that need it skip where it is absent."""
    return _present(SHARED_DATA / "gtsrb-mini")


def _present(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"real data not present: {path.name}")
    return path


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prepared synthetic data set, to be read only."""
    from pipeline.data.builder import write_prepared
    from pipeline.data.synthetic import source as synthetic

    config = synthetic.SyntheticConfig(num_train=96, num_val=32, num_test=32)
    target = tmp_path_factory.mktemp("prepared") / "synthetic"
    write_prepared(synthetic.plan(config), target, name="synthetic", image_size=config.image_size, root=None, workers=0)
    return target
