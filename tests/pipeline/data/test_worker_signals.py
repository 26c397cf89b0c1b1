"""Worker processes of a loader live through what is sent to the whole group, also while they start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from pathlib import Path
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import Loader
from pipeline.interrupts import held_back, interruption, signals_handled

if __name__ == "__main__":
    loader = Loader(
        open_prepared(Path(sys.argv[1])), "train", batch_size=8, seed=0, augment=None, shuffle=True, drop_last=True, num_workers=1
    )
    try:
        with signals_handled(), held_back():
            batches = loader.epoch(0)  # the worker is only being started
            os.killpg(os.getpid(), int(sys.argv[2]))
            print(sum(1 for _ in batches), int(interruption()))
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_workers_leave_a_signal_to_all_to_their_parent(synthetic_set: Path, tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(synthetic_set), str(int(number))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True, check=False)
    assert done.stdout.split() == ["12", str(int(number))], done.stderr
