"""Worker processes of a loader live through what is sent to the whole group, also while they start, and nobody waits for them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import multiprocessing, sys, time
from pathlib import Path
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import Loader
from pipeline.interrupts import held_back, interruption, signals_handled

loader = Loader(
    open_prepared(Path(sys.argv[1])), "train", batch_size=8, seed=0, augment=None, shuffle=True, drop_last=True, num_workers=1
)
with signals_handled(), held_back():
    batches = loader.epoch(0)
    seen = [next(batches)] if "working" in sys.argv[2] else []
    Path(sys.argv[3]).touch()
    while not interruption():
        time.sleep(0.01)
    if "given up" in sys.argv[2]:
        loader.interrupt()
        print(len(multiprocessing.active_children()), flush=True)
    else:
        print(len([*seen, *batches]), flush=True)
"""


@pytest.fixture
def end_of(warm: Any, synthetic_set: Path, tmp_path: Path) -> Callable[[str, signal.Signals], tuple[str, str]]:
    """What a process prints whose whole group gets a signal while its worker is in a state."""

    def end(state: str, number: signal.Signals) -> tuple[str, str]:
        ready = tmp_path / "ready"
        process = warm.start([str(synthetic_set), state, str(ready)], script=SCRIPT)
        while not ready.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.killpg(process.pid, number)
        return process.communicate()

    return end


@pytest.mark.slow
@pytest.mark.parametrize("state", ["starting", "working"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_leave_a_signal_to_all_to_their_parent(end_of, number, state):
    out, err = end_of(state, number)
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert out == "12\n", err
    assert err.splitlines()[-1] == f"pipeline.interrupts.Interrupted: interrupted by {name}"


@pytest.mark.slow
@pytest.mark.parametrize("state", ["given up while starting", "given up while working"])
def test_nobody_waits_for_a_worker_that_is_given_up(end_of, state):
    out, err = end_of(state, signal.SIGTERM)
    assert out == "0\n"  # workers that are left
    assert err.splitlines()[-1] == "pipeline.interrupts.Interrupted: interrupted by SIGTERM"
    assert err.count("Traceback") == 1
