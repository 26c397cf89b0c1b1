"""``foreguard ablate shared=true``: real processes that share jobs and parts, of which one is killed."""

import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from runpy import run_path
from typing import Any

import psutil
import pytest
import torch
from polars.testing import assert_frame_equal

from pipeline.ablation.devices import gpus, note_shared_gpus
from pipeline.evaluation.records import read_records

Start = Callable[..., Any]
WORDS = run_path(str(Path(__file__).parents[1] / "tiny.py"))["ABLATION"]


def words(directory: Path) -> list[str]:
    return ["ablate", f"run={directory / 'run'}", f"prepared={directory / 'prepared'}", *WORDS]


@pytest.fixture(scope="module")
def start(warm: Any) -> Start:
    """Starts an ablation in a directory, with more words."""
    return lambda directory, *more: warm.start([*words(directory), *more], cwd=directory)


def run_alone(start: Start, directory: Path, *more: str) -> None:
    process = start(directory, *more)
    said = process.communicate()
    assert process.returncode == 0, said


def expect_same_records(shared: Path, alone: Path) -> None:
    expected, found = (json.loads((directory / "run" / "ablation.json").read_text()) for directory in (alone, shared))
    assert found["finished"]
    assert [arm["name"] for arm in found["arms"]] == [arm["name"] for arm in expected["arms"]]
    for mine, theirs in zip(found["arms"], expected["arms"], strict=True):
        records = [
            read_records(directory / "run" / arm["evaluation"]).sort("sample_id", "epsilon", "attack").drop("seconds")
            for directory, arm in ((shared, mine), (alone, theirs))
        ]
        assert_frame_equal(*records, check_exact=True)


@pytest.mark.slow
def test_three_processes_of_which_one_is_killed_come_to_the_ablation_of_one(tmp_path: Path, start: Start) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for directory in (alone, shared):
        directory.mkdir()
    run_alone(start, alone)
    processes = [start(shared, "shared=true") for _ in range(3)]
    while not list((shared / "run" / "store").glob("*/.*.job")):
        assert [one.poll() for one in processes] == [None] * 3
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGKILL)
    printed = [one.communicate() for one in processes]
    assert [one.returncode for one in processes] == [-9, 0, 0], printed
    reports = sum("report: " in out for out, _ in printed[1:])
    assert reports == 1, printed
    expect_same_records(shared, alone)
    trained = [line for _, err in printed for line in err.splitlines() if "] train " in line]
    assert len(trained) <= 3 + 1  # what the killed one was at is begun again, and nothing else


def test_every_process_of_several_devices_sees_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(3) == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,GPU-1f")
    assert gpus(2) == ["5", "7"]


def test_more_processes_than_gpus_take_them_in_turn_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(5) == ["0", "1", "0", "1", "0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1f")
    assert gpus(2) == ["GPU-1f", "GPU-1f"]
    note_shared_gpus(1)
    assert capsys.readouterr().err == ""
    note_shared_gpus(2)
    assert capsys.readouterr().err == "devices=2: there is 1 GPU, which the processes share\n"


def takers_of_jobs(command: int) -> list[psutil.Process]:
    """The processes beside a command's own. A child that has just ended, such as git, has no words any more."""
    found = []
    for child in psutil.Process(command).children():
        with suppress(psutil.NoSuchProcess):
            found += [child] * ("spawn_main" in " ".join(child.cmdline()))
    return found


@pytest.mark.slow
def test_several_devices_are_stopped_with_the_command_and_come_to_the_ablation_of_one(tmp_path: Path, start: Start) -> None:
    alone, several = tmp_path / "alone", tmp_path / "several"
    for directory in (alone, several):
        directory.mkdir()
    longer = ["seeds=[0,1]", "classifier_trainer.epochs=20", "segmenter_trainer.epochs=20"]  # both processes are at work by then
    run_alone(start, alone, *longer)
    for end, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        command = start(several, "devices=2", *longer)
        others: list[psutil.Process] = []
        while len(list((several / "run").glob("ablation.*.log"))) < 2 or not others:
            assert command.poll() is None
            others = takers_of_jobs(command.pid)
            time.sleep(0.1)
        command.send_signal(end)
        said = command.communicate()
        assert command.returncode == code, said
        psutil.wait_procs(others)
        for log in (several / "run").glob("ablation.*.log"):
            log.unlink()
    for _ in range(2):  # to its end, and once more, which is to say the same
        command = start(several, "devices=2", *longer)
        said = command.communicate()
        assert command.returncode == 0, said
        assert said[0].count("report: ") == 1, said
    expect_same_records(several, alone)
