"""The small evaluation of ``small.py``, which runs in other processes as well, and two small stages in their runs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def small(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).with_name("small.py"))


@pytest.fixture(scope="session")
def tiny(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).with_name("tiny.py"))


@pytest.fixture(scope="module")
def runs(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """``segmenter`` and ``classifier`` as training leaves them, but for the weights, which are the initial ones."""
    from pipeline.data.dataset import open_prepared

    path = tmp_path_factory.mktemp("runs")
    dataset = open_prepared(synthetic_set)
    tiny.save_stages(
        path,
        config={"masks": {"source": "learned", "fill": "black"}},
        refers=True,
        classes=dataset.classes,
        image_size=dataset.image_size,
        data_fingerprint=dataset.fingerprint,
        mean_color=dataset.mean,
    )
    return path
