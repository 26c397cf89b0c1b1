"""Shared by all tests: shapes are checked as types, real data is found or skipped, torch is quiet and deterministic."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before the packages are imported for the first time: every annotated shape becomes a check.
install_import_hook(["segmenter", "classifier", "pipeline"], "beartype.beartype")

SHARED_DATA = Path(os.environ.get("FOREGUARD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


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
