"""The simulator of ``simulated.py``, and one report of a simulated ablation that many tests read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.evaluation import statistics
from pipeline.reporting.commands import report
from pipeline.reporting.config import ReportConfig


@pytest.fixture(scope="session", autouse=True)
def few_resamples() -> Iterator[None]:
    """Intervals a little rougher than those of users: what is tested here is not how exact they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", 999)
        yield


@pytest.fixture(scope="session")
def simulated(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).with_name("simulated.py"))


@pytest.fixture(scope="session")
def ablation(simulated, tmp_path_factory) -> Path:
    """A run with every part of a report in it: two seeds, a failed check, hostile class names. To be read only."""
    return simulated.write_ablation(tmp_path_factory.mktemp("simulated") / "ablation", num_images=60)


@pytest.fixture(scope="session")
def reported(ablation, tmp_path_factory) -> Path:
    """Its report. To be read only."""
    out = tmp_path_factory.mktemp("reported") / "report"
    report(ReportConfig(run=ablation, out=out))
    return out
