"""Trainings that others start and take away, SLURM and torchrun: they go on, and end as if nothing had happened."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TRAINER = ["epochs=12", "batch_size=16", "ema_decay=0.9", "trackers=[]", "accelerator=cpu", "num_workers=0"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pipeline"]


def words(data: Path, run: Path) -> list[str]:
    """A training, as it is said for the first time."""
    trainer = (f"trainer.{word}" for word in TRAINER)
    return ["train-classifier", f"prepared={data}", f"run={run}", "classifier.width=2", *trainer]


def table(run: Path) -> str:
    path = run / "metrics.csv"
    return path.read_text() if path.exists() else ""


def assert_same_weights(run: Path, other: Path) -> None:
    one, two = (load_file(next((path / "checkpoints").glob("last*.safetensors"))) for path in (run, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_training_that_slurm_requeues_and_preempts_goes_on_by_itself_to_the_same_weights(
    synthetic_set: Path, slurm: dict[str, str], tiny: ModuleType, warm: Any, tmp_path: Path
) -> None:
    run, whole, said = tmp_path / "run", tmp_path / "whole", tmp_path / "said"
    submit = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={said}", f"--chdir={ROOT}"]
    submit.append(f"--wrap=exec {shlex.join([sys.executable, '-m', 'pipeline', *words(synthetic_set, run)])}")
    job = subprocess.run(submit, env=slurm | ENVIRONMENT, capture_output=True, text=True, check=True).stdout.strip()
    tiny.taken_away_twice(slurm, job, said, lambda: table(run))
    lines = said.read_text()
    assert lines.count(f"{run}: this job is run once more, so its run is continued") == 2, lines
    assert lines.count("foreguard: interrupted by SIGTERM at step ") == 2, lines
    first, second = (int(step) for step in re.findall(rf"{re.escape(str(run))}: resumed at step (\d+),", lines))
    assert 0 < first < second, lines
    undisturbed = warm.start(words(synthetic_set, whole))
    whole_said = undisturbed.communicate()
    assert undisturbed.returncode == 0, whole_said
    assert_same_weights(run, whole)


def test_two_processes_of_torchrun_end_with_it_and_go_on_where_they_were(synthetic_set: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"

    def start(path: Path, *more: str) -> subprocess.Popen[str]:
        command = [*TORCHRUN, *words(synthetic_set, path), "trainer.devices=2", *more]
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)

    process = start(run)
    while not table(run):
        assert process.poll() is None
        time.sleep(0.02)
    trained_by = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    (step,) = re.findall(r"foreguard: interrupted by SIGTERM at step (\d+), which is saved; the same command with", said)
    assert len(trained_by) >= 2
    assert psutil.wait_procs(trained_by, timeout=60)[1] == []
    resumed = start(run, "resume=true")
    assert f"{run}: resumed at step {step}," in resumed.communicate()[1]
    undisturbed = start(whole)
    undisturbed.communicate()
    assert [resumed.returncode, undisturbed.returncode] == [0, 0]
    assert_same_weights(run, whole)
