"""Worker processes of a loader live through what is sent to the whole group, also while they start, and nobody waits for them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing, sys, time
from pathlib import Path
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import Loader
from pipeline.interrupts import held_back, interruption, signals_handled

if __name__ == "__main__":
    loader = Loader(
        open_prepared(Path(sys.argv[1])), "train", batch_size=8, seed=0, augment=None, shuffle=True, drop_last=True, num_workers=1
    )
    with signals_handled(), held_back():
        batches = loader.epoch(0)
        seen = [next(batches)] if "working" in sys.argv[2] else []
        print("ready", flush=True)
        while not interruption():
            time.sleep(0.01)
        if "given up" in sys.argv[2]:
            loader.interrupt()
            print(len(multiprocessing.active_children()), flush=True)
        else:
            print(len([*seen, *batches]), flush=True)
"""


def end_of(synthetic_set: Path, script: Path, state: str, number: signal.Signals) -> tuple[int, str, str]:
    """Exit code and output of a process whose whole group gets a signal while its worker is in a state."""
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(synthetic_set), state]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("state", ["starting", "working"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_leave_a_signal_to_all_to_their_parent(synthetic_set, tmp_path, number, state):
    _, out, err = end_of(synthetic_set, tmp_path / "script.py", state, number)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert out == "12\n", err
    assert err.splitlines()[-1] == f"pipeline.interrupts.Interrupted: interrupted by {name}"


@pytest.mark.slow
@pytest.mark.parametrize("state", ["given up while starting", "given up while working"])
def test_nobody_waits_for_a_worker_that_is_given_up(synthetic_set, tmp_path, state):
    _, out, err = end_of(synthetic_set, tmp_path / "script.py", state, signal.SIGTERM)
    assert out == "0\n"  # workers that are left
    assert err.splitlines()[-1] == "pipeline.interrupts.Interrupted: interrupted by SIGTERM"
    assert err.count("Traceback") == 1
