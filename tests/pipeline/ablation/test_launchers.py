"""Jobs of an ablation under launchers, with real clusters of this machine: what is taken away goes on by itself."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any

import pytest
from polars.testing import assert_frame_equal

from pipeline.cli.main import main
from pipeline.evaluation.records import read_records

ROOT = Path(__file__).parents[3]
WORDS = run_path(str(Path(__file__).parents[1] / "tiny.py"))["ABLATION"]
SWEEP = ["--multirun", "seeds=[0],[1]", "run=runs/seed${seeds[0]}", "store=store", "prepared=prepared", *WORDS]
NOISE = re.compile("Traceback|fontTools|ightning")
"""What the logs of jobs beside each other are free of."""
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both seeds, one after the other in this process."""
    path = tmp_path_factory.mktemp("one")
    where = [f"run={path}/runs/both", f"store={path}/store", f"prepared={path}/prepared"]
    assert main(["ablate", "seeds=[0,1]", *where, *WORDS]) == 0
    return path


def arms(directory: Path, run: str) -> dict[str, Path]:
    """The evaluations of a finished ablation, by arm."""
    manifest = json.loads((directory / "runs" / run / "ablation.json").read_text())
    assert manifest["finished"]
    return {arm["name"]: directory / "runs" / run / arm["evaluation"] for arm in manifest["arms"]}


def assert_same(found: Path, expected: Path) -> None:
    """Two ablations of a seed each have found what one of both has."""
    mine, theirs = arms(found, "seed0") | arms(found, "seed1"), arms(expected, "both")
    assert mine.keys() == theirs.keys()
    assert len(mine) == 4
    for name, path in theirs.items():
        tables = [read_records(one).sort("sample_id", "epsilon", "attack").drop("seconds") for one in (mine[name], path)]
        assert_frame_equal(*tables, check_exact=True)


@pytest.fixture
def ray_cluster(tmp_path: Path, tiny: ModuleType) -> Iterator[dict[str, str]]:
    """A cluster that runs, begun elsewhere and without our code on its path, as the environment that makes it known."""
    pytest.importorskip("ray", reason="no Ray: pip install foreguard[ray]")
    port, elsewhere = tiny.free_port(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | RAY
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as temporary, (tmp_path / "log").open("w") as log:  # short: sockets
        options = [
            f"--port={port}",
            f"--temp-dir={temporary}",
            "--num-cpus=2",
            "--num-gpus=0",
            "--include-dashboard=false",
            "--block",
        ]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", *options]
        head = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log)
        try:
            while "block forever" not in (tmp_path / "log").read_text():
                assert head.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            yield environment | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait()


@pytest.mark.slow
def test_on_a_running_cluster_of_ray_a_job_that_is_killed_goes_on_by_itself(
    by_one: Path, tmp_path: Path, ray_cluster: dict[str, str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    launcher = ["hydra/launcher=ray", "hydra.launcher.ray.init.address=auto"]
    command = [sys.executable, "-m", "pipeline", "ablate", *SWEEP, *launcher]
    impossible = subprocess.run(
        [*command, "++hydra.launcher.ray.remote.num_gpus=1"], cwd=work, env=ray_cluster, check=False, **PIPES
    )
    assert impossible.returncode == 2
    assert impossible.stderr.count("\n") == 1
    assert "no machine of the cluster has what a job asks for: CPU 1 (the most on one is 2), GPU 1 (the most on one is 0)" in (
        impossible.stderr
    )
    process = subprocess.Popen(command, cwd=work, env=ray_cluster, **PIPES)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if match := re.search(r"\(job 1 pid=(\d+)\).* attack ", line):
            os.kill(int(match[1]), signal.SIGKILL)
            break
    assert match, "".join(said)
    out, err = process.communicate()
    assert process.returncode == 0, "".join(said) + err
    assert not NOISE.search("".join(said) + err + out)
    assert len({*re.findall(r"\(job 1 pid=(\d+)\)", "".join(said) + err)}) == 2  # killed, and begun again
    assert "job 0" in out
    assert_same(work, by_one)


@pytest.mark.slow
def test_without_a_cluster_ray_begins_one_that_ends_with_the_sweep(tmp_path: Path, tiny: ModuleType) -> None:
    pytest.importorskip("ray", reason="no Ray: pip install foreguard[ray]")
    (tmp_path / "set2").write_text("in the way")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | RAY | {"PYTHONPATH": str(ROOT)}
    words = ["prepare", "--multirun", "prepared=set${data.seed}", "data.seed=1,2", *tiny.DATA, "hydra/launcher=ray"]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as temporary:
        environment["RAY_TMPDIR"] = temporary  # where a running one would be looked for
        command = [sys.executable, "-m", "pipeline", *words]
        none = subprocess.run(
            [*command, "hydra.launcher.ray.init.address=auto"], cwd=tmp_path, env=environment, check=False, **PIPES
        )
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, **PIPES)
        assert none.returncode == ended.returncode == 2, ended.stderr
        assert "hydra.launcher.ray.init: no cluster answers at address=auto: " in none.stderr
        assert "foreguard: set2: " in ended.stderr  # the job that could not, ...
        assert (tmp_path / "set1" / "dataset.json").is_file()  # ... which did not stop the other
        listed = subprocess.run(["ps", "-A", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
        assert temporary not in listed


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not happened():
        if process.poll() is not None:
            pytest.fail("".join(process.communicate()))
        time.sleep(0.1)


@pytest.mark.slow
def test_jobs_of_submitit_that_slurm_requeues_and_preempts_go_on_by_themselves(
    by_one: Path, tmp_path: Path, slurm: dict[str, str], tiny: ModuleType
) -> None:
    pytest.importorskip("submitit", reason="no submitit: pip install hydra-submitit-launcher")
    work = tmp_path / "work"
    work.mkdir()
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=test", "hydra.launcher.timeout_min=60"]
    launcher += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"]
    command = [sys.executable, "-m", "pipeline", "ablate", *SWEEP, *launcher]
    process = subprocess.Popen(command, cwd=work, env=slurm | {"PYTHONPATH": str(ROOT)}, **PIPES)
    wait_until(lambda: any(work.glob("store/evaluations/*/records/*.parquet")), process)
    first, second = sorted(tiny.states(slurm))
    tiny.requeue(slurm, first)
    tiny.preempt(slurm, [job for job in (first, second) if job in tiny.states(slurm)])
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    logs = "".join(log.read_text() for log in work.rglob("*_log.err"))
    assert "PREEMPTION" in logs, logs
    assert not NOISE.search(logs + err)
    assert_same(work, by_one)
