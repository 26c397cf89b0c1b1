"""A process that holds a lock."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def _hold(lock: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def hold() -> Callable[[Path], subprocess.Popen[str]]:
    """Start a process that holds the lock on a file until it is killed."""
    return _hold
