"""``foreguard ablate shared=true``: real processes that share jobs and parts, of which one is killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from runpy import run_path

import pytest
from polars.testing import assert_frame_equal

from pipeline.cli.main import main
from pipeline.evaluation.records import read_records

ROOT = Path(__file__).parents[3]
WORDS = run_path(str(Path(__file__).parents[1] / "tiny.py"))["ABLATION"]


def words(directory: Path) -> list[str]:
    return ["ablate", f"run={directory / 'run'}", f"prepared={directory / 'prepared'}", *WORDS]


def start(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", *words(directory), "shared=true"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_three_processes_of_which_one_is_killed_come_to_the_ablation_of_one(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for directory in (alone, shared):
        directory.mkdir()
    assert main(words(alone)) == 0
    processes = [start(shared) for _ in range(3)]
    while not list((shared / "run" / "store").glob("*/.*.job")):
        assert [one.poll() for one in processes] == [None] * 3
        time.sleep(0.02)
    processes[0].kill()
    printed = [one.communicate() for one in processes]
    assert [one.returncode for one in processes] == [-9, 0, 0], printed
    reports = sum("report: " in out for out, _ in printed[1:])
    assert reports == 1, printed
    expected, found = (json.loads((directory / "run" / "ablation.json").read_text()) for directory in (alone, shared))
    assert found["finished"]
    assert [arm["name"] for arm in found["arms"]] == [arm["name"] for arm in expected["arms"]]
    for mine, theirs in zip(found["arms"], expected["arms"], strict=True):
        records = [
            read_records(directory / "run" / arm["evaluation"]).sort("sample_id", "epsilon", "attack").drop("seconds")
            for directory, arm in ((shared, mine), (alone, theirs))
        ]
        assert_frame_equal(*records, check_exact=True)
    trained = [line for _, err in printed for line in err.splitlines() if "] train " in line]
    assert len(trained) <= 3 + 1  # what the killed one was at is begun again, and nothing else
