"""Work that is shared. Processes are threads here, for a lock on a file tells the two apart no more than we do; what is killed is a
process."""

import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.errors import OccupiedError, RunError
from pipeline.runs.locking import locked, locked_together
from pipeline.runs.sharing import Together, alone, once

Hold = Callable[[Path], subprocess.Popen[str]]
PARTS = 12


class Bench:
    """Parts that are files in a directory, and who made each."""

    def __init__(self, path: Path) -> None:
        self.path, self.results, self.claims = path, path / "results", path / "claims"
        self.made: list[int] = []

    def missing(self) -> list[int]:
        return [part for part in range(PARTS) if not (self.results / str(part)).exists()]

    def work(self, part: int) -> None:
        self.made.append(part)
        (self.results / str(part)).touch()

    def together(self, waiting: Callable[[], None] = lambda: None) -> Together:
        return Together(self.claims, self.results, waiting=waiting)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def side_by_side(number: int, task: Callable[[], object]) -> None:
    """All begin at the same moment, and none fails."""
    barrier, failed = threading.Barrier(number), []

    def run() -> None:
        barrier.wait()
        try:
            task()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_every_part_is_made_once_however_many_make_them(bench: Bench) -> None:
    side_by_side(4, lambda: bench.together()(bench.missing, bench.work))
    assert sorted(bench.made) == list(range(PARTS))


def test_two_that_work_at_the_same_time_work_on_different_parts(bench: Bench) -> None:
    """Each part waits until another one is being made too, which never comes if parts are made one after the other."""
    pairs = threading.Barrier(2)

    def work(part: int) -> None:
        pairs.wait(timeout=60)
        bench.work(part)

    side_by_side(2, lambda: bench.together()(bench.missing, work))
    assert sorted(bench.made) == list(range(PARTS))


def test_what_is_finished_is_left_alone(bench: Bench) -> None:
    bench.results.mkdir()
    for part in range(3, PARTS):
        (bench.results / str(part)).touch()
    bench.together()(bench.missing, bench.work)
    alone(bench.missing, bench.work)
    assert bench.made == [0, 1, 2]


def test_a_part_in_the_hands_of_another_is_waited_for_and_taken_over_when_that_is_killed(bench: Bench, hold: Hold) -> None:
    bench.claims.mkdir()
    waits: list[list[int]] = []
    with hold(bench.claims / "00004.lock") as other:

        def waiting() -> None:
            waits.append(sorted(bench.made))
            other.kill()
            other.wait()

        bench.together(waiting)(bench.missing, bench.work)
    assert waits[0] == [part for part in range(PARTS) if part != 4]
    assert bench.made[-1] == 4


def test_a_part_that_another_finished_while_it_was_waited_for_is_not_made_again(bench: Bench) -> None:
    with ExitStack() as other:
        bench.claims.mkdir()
        bench.results.mkdir()
        other.enter_context(locked(bench.claims / "00000.lock", busy="-"))

        def waiting() -> None:
            (bench.results / "0").touch()
            other.close()

        bench.together(waiting)(bench.missing, bench.work)
    assert bench.made == list(range(1, PARTS))


def test_a_part_whose_work_fails_is_free_for_the_others(bench: Bench) -> None:
    def broken(part: int) -> None:
        raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 0"):
        bench.together()(bench.missing, broken)
    bench.together()(bench.missing, bench.work)
    assert bench.made == list(range(PARTS))


def test_a_lock_that_the_work_wants_and_does_not_get_is_told(bench: Bench) -> None:
    def work(part: int) -> None:
        with locked(bench.path / "elsewhere", busy=f"taken, part {part}"):
            pass

    with locked(bench.path / "elsewhere", busy="-"), pytest.raises(OccupiedError, match="taken, part 0"):
        bench.together()(bench.missing, work)


def test_claims_that_cannot_be_written_are_one_clear_line(bench: Bench) -> None:
    bench.claims.touch()
    with pytest.raises(RunError, match=r"claims: cannot be made: File exists"):
        bench.together()(bench.missing, bench.work)


def test_those_who_finish_at_the_same_moment_do_the_last_thing_once(bench: Bench) -> None:
    summary, written = bench.path / "summary", []

    def sum_up() -> None:
        assert not summary.exists()
        written.append(threading.get_ident())
        summary.touch()

    answers: list[bool] = []
    side_by_side(5, lambda: answers.append(once(bench.claims / "last", bench.path, done=summary.exists, work=sum_up)))
    assert len(written) == 1
    assert sorted(answers) == [False] * 4 + [True]


def test_the_last_thing_is_taken_over_from_one_that_is_killed_at_it(bench: Bench, hold: Hold) -> None:
    bench.claims.mkdir()
    summary = bench.path / "summary"
    with hold(bench.claims / "last") as other:
        waiting = threading.Thread(
            target=once, args=(bench.claims / "last", bench.path), kwargs={"done": summary.exists, "work": summary.touch}
        )
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert not summary.exists()
        other.kill()
    waiting.join()
    assert summary.exists()


def test_a_directory_is_shared_by_many_or_owned_by_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    both = locked_together(lock, busy="-"), locked_together(lock, busy="-")
    with both[0], both[1], pytest.raises(OccupiedError, match="mine alone"), locked(lock, busy="mine alone"):
        pass
    with locked(lock, busy="-"), pytest.raises(OccupiedError, match="with others"), locked_together(lock, busy="with others"):
        pass
    with locked_together(lock, busy="-"):
        pass
    with pytest.raises(RunError, match=r"cannot be written: Is a directory"), locked_together(tmp_path, busy="-"):
        pass
