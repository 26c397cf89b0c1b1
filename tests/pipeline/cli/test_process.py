"""The command line as a process: what it imports, how it ends, what it prints where."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.commands import COMMANDS

HEAVY = ("torch", "torchvision", "lightning", "polars", "matplotlib", "cv2", "numpy", "scipy", "albumentations")
AFTER_MAIN = """
import sys
from pipeline.cli.main import main
code = main(sys.argv[1:])
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def python(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )


def of_command(name: str, parameter: object) -> object:
    """Each is a process of its own: of two commands in the fast tests, of the others in the slow ones."""
    return pytest.param(parameter, marks=() if name in ("ablate", "evaluate") else pytest.mark.slow)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], *(of_command(name, [name, "--help"]) for name in COMMANDS)], ids=" ".join
)
def test_a_question_is_answered_without_the_libraries_of_the_work(words: list[str]) -> None:
    done = python("-c", AFTER_MAIN.format(heavy=HEAVY), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("name", [of_command(name, name) for name in COMMANDS if name != "doctor"])
def test_a_typo_is_found_before_the_libraries_of_the_work_are_imported(name: str) -> None:
    done = python("-c", AFTER_MAIN.format(heavy=HEAVY), name, "no_such_key=1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [done.stderr.splitlines()[0], "[]"]
    assert "no_such_key: unknown key" in done.stderr


ENDS = """
import atexit, sys, threading, time
from pipeline.cli import main as cli

class Collected:
    def __del__(self):
        print("the last garbage collection")

def work(words):
    atexit.register(print, "an exit handler")
    threading.Thread(target=lambda: (time.sleep(0.3), print("a thread"))).start()
    print("the work")
    print("not flushed", end="")
    {outcome}

kept = Collected()
cli._dispatch = work
cli.command_line()
"""


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("pass", 0), ("raise cli.UserError('wrong')", 2), ("raise KeyboardInterrupt", 130)],
    ids=["done", "wrong", "interrupted"],
)
def test_a_process_ends_with_its_threads_handlers_and_output_but_without_a_last_collection(outcome: str, code: int) -> None:
    done = python("-c", ENDS.format(outcome=outcome))
    assert done.returncode == code, done.stderr
    assert done.stdout == "the work\nnot flusheda thread\nan exit handler\n"


@pytest.mark.parametrize(("given", "kept"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")], ids=["none", "own"])
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(given: dict[str, str], kept: str) -> None:
    code = """
import os
from pipeline.cli import main as cli
os.environ.pop("OMP_WAIT_POLICY", None)
os.environ |= GIVEN
cli._dispatch = lambda words: print(os.environ["OMP_WAIT_POLICY"])
cli.command_line()
"""
    done = python("-c", code.replace("GIVEN", repr(given)))
    assert done.stdout == f"{kept}\n", done.stderr


def test_a_bug_is_a_traceback_and_exit_code_1() -> None:
    done = python("-c", ENDS.format(outcome="raise AssertionError('a bug')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "a bug" in done.stderr


def test_a_terminal_that_knows_ascii_only_gets_escapes() -> None:
    done = python("-m", "pipeline", "prepäre", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr.startswith("foreguard: 'prep\\xe4re' is no command; did you mean prepare?")


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "pipeline", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "foreguard: the output of the command: No space left on device\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m pipeline prepare --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.strip() in ("0", "141")
    assert done.stderr == ""
