"""Shared by all tests: shapes are checked as types, real data is found or skipped, torch is quiet and deterministic."""

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

# Before torch is imported: tests run in several processes (pytest-xdist), and threads on top of that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before the packages are imported for the first time: every annotated shape becomes a check. jaxtyping wants the checker by an
# importable name; an int may stand where a float is expected, as Python's typing has it.
_checker = types.ModuleType("foreguard_typechecker")
_checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[_checker.__name__] = _checker
install_import_hook(["segmenter", "classifier", "pipeline"], "foreguard_typechecker.check")

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
