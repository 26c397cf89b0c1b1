"""The public names: what they are, and what reading them costs."""

import subprocess
import sys

import pytest

import pipeline

NAMES = ["MaskConfig", "ThreatModel", "TwoStage", "attack", "evaluate", "load_system", "predict"]


def test_the_public_names_are_these_and_all_of_them_are_there() -> None:
    assert pipeline.__all__ == NAMES
    assert set(NAMES) <= set(dir(pipeline))
    for name in NAMES:
        assert getattr(pipeline, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'attak'"):
        _ = pipeline.attak


def test_importing_the_package_imports_none_of_them() -> None:
    program = "import sys, pipeline; print(sorted({'torch', 'pydantic', 'numpy', 'pipeline.system'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
