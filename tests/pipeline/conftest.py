"""The small evaluation of ``small.py``, which runs in other processes as well."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def small() -> ModuleType:
    name = "small_evaluation"
    specification = importlib.util.spec_from_file_location(name, Path(__file__).with_name("small.py"))
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module
