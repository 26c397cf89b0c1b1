"""Locks between processes. The oracle is a process of its own that holds one (``hold``) and is killed."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import OccupiedError, RunError, UserError
from pipeline.runs.locking import locked, wait_until_free

Hold = Callable[[Path], subprocess.Popen[str]]


def test_a_lock_that_another_process_holds_is_refused_waited_for_and_free_when_that_is_killed(tmp_path: Path, hold: Hold) -> None:
    lock = tmp_path / "lock"
    with hold(lock) as other:
        with pytest.raises(OccupiedError, match="somebody is here") as raised, locked(lock, busy="somebody is here"):
            pass
        assert raised.value.lock == lock
        waiting = threading.Thread(target=wait_until_free, args=(lock,))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        other.kill()
    waiting.join()
    with locked(lock, busy="-"):
        pass


def test_every_error_of_ours_can_be_raised_again_with_more_to_say() -> None:
    """As an ablation does it, which names the job."""
    kinds, found = [UserError], []
    while kinds:
        found.append(kind := kinds.pop())
        kinds += kind.__subclasses__()
    assert OccupiedError in found
    for kind in found:
        assert str(kind("[1/2] attack: it is occupied")) == "[1/2] attack: it is occupied"


def test_nobody_waits_for_a_lock_that_is_not_there(tmp_path: Path) -> None:
    wait_until_free(tmp_path / "gone" / "lock")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(RunError, match=r"lock: cannot be written: Is a directory"), locked(tmp_path / "lock", busy="-"):
        pass
