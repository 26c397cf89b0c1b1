"""A job that SLURM takes from its machine and starts again: it goes on by itself, and ends as if nothing had happened."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[3]
TRAINER = ["epochs=30", "batch_size=16", "ema_decay=0.9", "trackers=[]", "accelerator=cpu", "num_workers=0"]


def words(data: Path, run: Path) -> list[str]:
    """A training, as it is said for the first time."""
    trainer = (f"trainer.{word}" for word in TRAINER)
    return ["train-classifier", f"prepared={data}", f"run={run}", "classifier.width=2", *trainer]


def submit(call: list[str], log: Path, environment: dict[str, str]) -> str:
    """The number of the job."""
    script = f'#!/bin/sh\nexec "{sys.executable}" -m pipeline {" ".join(call)}\n'
    command = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={log}", f"--chdir={ROOT}"]
    return subprocess.run(command, env=environment, input=script, capture_output=True, text=True, check=True).stdout.strip()


def wait_to_the_end(job: str, environment: dict[str, str]) -> None:
    """A requeued job is left to rest for minutes; this one need not."""
    while True:
        found = subprocess.run(
            ["squeue", "-h", "-o", "%T", "-j", job], env=environment, capture_output=True, text=True, check=False
        )
        if not found.stdout.strip():
            return
        if "PENDING" in found.stdout:
            subprocess.run(
                ["scontrol", "update", f"JobId={job}", "StartTime=now"], env=environment, capture_output=True, check=False
            )
        time.sleep(0.5)


def weights(run: Path) -> dict[str, torch.Tensor]:
    (found,) = (run / "checkpoints").glob("last*.safetensors")
    return load_file(found)


@pytest.mark.slow
def test_a_requeued_job_resumes_by_itself_and_ends_with_the_same_weights(synthetic_set, slurm, tmp_path) -> None:
    environment = slurm | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log"
    job = submit(words(synthetic_set, run), log, environment)
    while not (run / "checkpoints" / "last.json").exists():
        assert not (run / "result.json").exists()
        time.sleep(0.05)
    subprocess.run(["scontrol", "requeue", job], env=environment, check=True)
    wait_to_the_end(job, environment)
    said = log.read_text()
    assert f"{run}: SLURM runs this job once more, so its run is continued" in said
    assert re.search(rf"{run}: resumed at step [1-9]\d*,", said), said
    command = [sys.executable, "-m", "pipeline", *words(synthetic_set, whole)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=True)
    resumed, undisturbed = weights(run), weights(whole)
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)
