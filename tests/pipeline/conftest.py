"""The small evaluation of ``small.py``, two small stages in their runs, processes that start at once, and a SLURM."""

import getpass
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).with_name("small.py"))


@pytest.fixture(scope="session")
def stopping(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).with_name("stopping.py"))


@pytest.fixture(scope="session")
def tiny(load_file: Callable[[Path], ModuleType]) -> ModuleType:
    return load_file(Path(__file__).with_name("tiny.py"))


@pytest.fixture(scope="session")
def warm(load_file: Callable[[Path], ModuleType]) -> Iterator[Any]:
    """Starts commands and scripts that need not import torch first (``warm.py``)."""
    server = load_file(Path(__file__).with_name("warm.py")).Server()
    yield server
    server.close()


@pytest.fixture(scope="session", autouse=True)
def shipped_fonts() -> Iterator[int]:
    """How the figures of a report embed their fonts as shipped: cut down to their letters, which takes a good part of the time of a
    small report. Here letters are drawn as outlines, as in ``warm.py``; ``reporting/test_quiet.py`` looks at what is shipped."""
    from pipeline.reporting.panel import RC

    shipped: int = RC["pdf.fonttype"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RC, "pdf.fonttype", 3)
        yield shipped


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


@pytest.fixture
def slurm(tmp_path: Path, tiny: ModuleType) -> Iterator[dict[str, str]]:
    """A cluster of this machine, as the environment that makes it known."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    programs = [shutil.which(name, path=path) for name in ("slurmctld", "slurmd", "srun")]
    if None in programs:
        pytest.skip("no SLURM: apt-get install slurmctld slurmd slurm-client")
    directory, host = tmp_path / "slurm", platform.node().split(".")[0]
    for name in ("state", "spool"):
        (directory / name).mkdir(parents=True)
    settings = {"host": host, "user": getpass.getuser(), "directory": directory}
    ports = {"controller_port": tiny.free_port(), "daemon_port": tiny.free_port()}
    configuration = directory / "slurm.conf"
    configuration.write_text(Path(__file__).with_name("slurm.conf").read_text().format(**settings, **ports))
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    with (directory / "log").open("w") as log:
        daemons = [
            subprocess.Popen([str(program), "-D", "-f", str(configuration), *more], stdout=log, stderr=log, env=environment)
            for program, more in zip(programs[:2], ([], ["-N", host]), strict=True)
        ]
        try:
            yield environment
        finally:
            subprocess.run(["scancel", "--me"], env=environment, check=False)
            while subprocess.run(["squeue", "-h"], env=environment, check=False, capture_output=True).stdout:
                time.sleep(0.1)  # a step that could not report its end would wait for ever
            for daemon in daemons:
                daemon.terminate()
                daemon.wait()
