"""Signals: processes of their own get real ones."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_WAITED = 120
"""Seconds until a hang is a failure; no test says how fast anything has to be."""
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

HEAD = """
import os, signal, sys, time
from pipeline.interrupts import Interrupted, held_back, interruption, signals_handled, told
from pipeline.workers import end_with_parent, leave_to_parent

def say(*words):
    print(*words, flush=True)

def wait():
    time.sleep(120)
"""
PLAIN = """
try:
    with signals_handled():
        say("ready")
        wait()
except KeyboardInterrupt as error:
    say(Interrupted.by(error, "at a place"))
    sys.exit(error.exit_code)
"""
HELD = """
try:
    with signals_handled(), held_back():
        say("ready")
        while (arrived := interruption()) is None:
            time.sleep(0.01)
        say("safe")
        raise Interrupted(arrived, "in safety")
except Interrupted as error:
    say(error)
    sys.exit(error.exit_code)
"""
UNSEEN = """
try:
    with signals_handled(), held_back():
        say("ready")
        sys.stdin.readline()
        say("to its end")
except Interrupted as error:
    sys.exit(error.exit_code)
"""
DEAF = """
with signals_handled(), held_back():
    say("ready")
    while interruption() is None:
        time.sleep(0.01)
    say("heard")
    wait()
"""


def hearing() -> None:
    """Whoever starts the tests in the background, or says nohup, has some ignored, and what starts from them too."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)


def start(script: str, **options: object) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command, options = [sys.executable, "-c", HEAD + script], {"preexec_fn": hearing} | options
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes, **options)  # type: ignore[call-overload]
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], text: str = "") -> tuple[int, str]:
    out, err = process.communicate(text, timeout=MOST_WAITED)
    assert err == ""
    return process.returncode, out


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_interrupts_with_its_name_and_exit_code(number: signal.Signals) -> None:
    process = start(PLAIN)
    process.send_signal(number)
    name = "Ctrl-C" if number is signal.SIGINT else number.name
    assert ended(process) == (128 + number, f"interrupted by {name} at a place\n")


@pytest.mark.parametrize("number", NUMBERS)
def test_work_that_holds_it_back_stops_where_it_is_safe(number: signal.Signals) -> None:
    process = start(HELD)
    process.send_signal(number)
    code, out = ended(process)
    assert code == 128 + number
    assert out.splitlines()[0] == "safe"
    assert out.splitlines()[1].endswith("in safety")


def test_one_that_nobody_looked_at_is_not_lost() -> None:
    process = start(UNSEEN)
    process.send_signal(signal.SIGTERM)
    assert ended(process, "\n") == (143, "to its end\n")


SWALLOWED = """
class Last:
    def __del__(self):
        say("ready")
        wait()
with signals_handled():
    Last()
    say("goes on")
"""


def test_one_that_comes_where_no_exception_is_let_out_leaves_no_traceback() -> None:
    process = start(SWALLOWED)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[1].splitlines()[-1:] == ["goes on"]


def test_the_second_one_ends_at_once_and_the_echo_of_the_first_does_not() -> None:
    process = start(DEAF)
    for _ in range(2):  # as timeout sends it: to the process, and to its group
        process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "heard\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGHUP)
    assert ended(process) == (129, "")


LONG_CALL = """
with signals_handled(), held_back():
    say("ready")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.sigwait([signal.SIGUSR1])  # as a long call of torch, it does not return to Python when another signal arrives
"""


def test_the_second_one_ends_a_call_into_which_no_handler_comes() -> None:
    process = start(LONG_CALL)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "")


def test_who_knows_first_how_to_go_on_says_it() -> None:
    script = """
try:
    with signals_handled(), told("outside"), told("inside"):
        say("ready")
        wait()
except Interrupted as error:
    say(error)
"""
    process = start(script)
    process.terminate()
    assert ended(process) == (0, "interrupted by SIGTERM inside\n")


@pytest.mark.parametrize("held", [False, True])
def test_an_error_that_code_has_made_of_it_is_the_interruption_and_one_of_before_is_an_error(held: bool) -> None:
    """pydantic makes a SchemaError of it, others catch all that they meet."""
    script = f"""
try:
    with signals_handled(), told("outside"), told("inside"):
        with held_back() if {held} else told("within"):
            say("ready")
            try:
                wait() if not {held} else sys.stdin.readline()
            except BaseException:
                pass
            raise ValueError("a word of its own")
except (Interrupted, ValueError) as error:
    say(error)
"""
    process = start(script)
    process.terminate()
    assert ended(process, "\n") == (0, "a word of its own\n" if held else "interrupted by SIGTERM within\n")


STARTING = """
from pipeline.workers import Workers
try:
    with signals_handled(), Workers().starting():
        say("ready")
        time.sleep(0.6)
except Interrupted as error:
    say(error)
    sys.exit(error.exit_code)
"""


def test_one_signal_in_a_long_start_of_workers_is_not_taken_for_two() -> None:
    process = start(STARTING)
    process.terminate()
    assert ended(process) == (143, "interrupted by SIGTERM\n")


NESTED = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    with signals_handled(), signals_handled():
        say("ready")
        wait()
except Interrupted as error:
    say(error)
"""


def test_handling_within_handling_changes_nothing_also_where_a_signal_is_ignored() -> None:
    process = start(NESTED)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "interrupted by Ctrl-C\n")


FORKED = """
say("ready")
sys.stdin.readline()
reader, writer = os.pipe()
with signals_handled(), held_back():
    child = os.fork()
    if not child:
        os.write(writer, b".")
        wait()
    os.read(reader, 1)  # from here on it is a process of its own
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    time.sleep(0.3)
    say(os.WTERMSIG(status), interruption())
"""


def test_a_signal_to_a_forked_child_is_none_to_its_parent() -> None:
    assert ended(start(FORKED)) == (0, "15 None\n")


def test_nohup_is_respected() -> None:
    process = start(PLAIN, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


def test_handlers_are_given_back() -> None:
    from pipeline.interrupts import signals_handled

    before = [signal.getsignal(number) for number in NUMBERS]
    with signals_handled():
        inside = [signal.getsignal(number) for number in NUMBERS]
        with signals_handled():
            assert [signal.getsignal(number) for number in NUMBERS] == inside
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert not (set(before) - {signal.SIG_IGN}) & set(inside)  # what is ignored, under nohup say, stays so


PARENT = """
reader, writer = os.pipe()
child = os.fork()
if not child:
    end_with_parent()
    os.write(writer, b".")
    wait()
os.read(reader, 1)  # from here on the child knows its parent
say("ready")
say(child)
wait()
"""


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False


def ends(process: int) -> bool:
    for _ in range(MOST_WAITED * 20):
        if not is_running(process):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_worker_ends_with_its_parent_however_that_ended() -> None:
    process = start(PARENT)
    child = int(process.stdout.readline())
    assert is_running(child)
    process.kill()
    process.communicate(timeout=MOST_WAITED)
    assert ends(child)


WORKER = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as it is while a worker starts
leave_to_parent()
say("ready")
wait()
"""


def test_a_worker_leaves_a_signal_to_all_to_its_parent() -> None:
    process = start(WORKER)
    for number in NUMBERS:
        subprocess.run(["sh", "-c", f"kill -{int(number)} {process.pid}"], check=True)  # not from its parent
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.2)
    process.terminate()
    assert ended(process) == (1, "")


GIVEN_UP = """
from pipeline import interrupts
from pipeline.interrupts import unbroken

interrupts.GIVEN_S = 0.3
kept = []

def keep():
    kept.append("kept")
    return f"at a place that is {kept[-1]}"

def long_call():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.sigwait([signal.SIGUSR1])  # as a long call of torch, it does not return to Python when another signal arrives

with signals_handled(say), told("outside", instead=OUTSIDE), told(keep), held_back():
    say("ready")
    BODY
"""


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("number", NUMBERS)
def test_what_does_not_come_to_a_safe_place_is_given_up_and_says_what_is_kept(number: signal.Signals, outside: bool) -> None:
    process = start(GIVEN_UP.replace("OUTSIDE", str(outside)).replace("BODY", "long_call()"))
    process.send_signal(number)
    name = "Ctrl-C" if number is signal.SIGINT else number.name
    where = "outside" if outside else "at a place that is kept"
    assert ended(process) == (128 + number, f"interrupted by {name} {where}\n")


def test_what_is_being_kept_is_not_given_up_halfway() -> None:
    body = """
    with unbroken():
        while interruption() is None:
            time.sleep(0.01)
        time.sleep(0.6)
        say("whole")
    long_call()
"""
    process = start(GIVEN_UP.replace("OUTSIDE", "False").replace("    BODY\n", body))
    process.terminate()
    assert ended(process) == (143, "whole\ninterrupted by SIGTERM at a place that is kept\n")


def test_children_of_work_that_is_given_up_end_with_it() -> None:
    body = """
    import subprocess
    say(subprocess.Popen(["sleep", "120"]).pid)
    long_call()
"""
    process = start(GIVEN_UP.replace("OUTSIDE", "False").replace("    BODY\n", body))
    child = int(process.stdout.readline())
    process.terminate()
    assert ended(process)[0] == 143
    assert ends(child)


@pytest.mark.parametrize("given_up", [False, True])
def test_a_temporary_directory_goes_with_the_work_however_that_ends(tmp_path: Path, given_up: bool) -> None:
    body = f"""
    from pathlib import Path
    from pipeline.interrupts import temporary
    made = Path({str(tmp_path)!r}) / "made"
    with temporary(made):
        (made / "inner").mkdir(parents=True)
        (made / "inner" / "file").write_text("")
        say(made.exists())
        {"long_call()" if given_up else "sys.stdin.readline()"}
"""
    process = start(GIVEN_UP.replace("OUTSIDE", "False").replace("    BODY\n", body))
    assert process.stdout.readline() == "True\n"
    if given_up:
        process.terminate()
    assert ended(process, "\n") == ((143, "interrupted by SIGTERM at a place that is kept\n") if given_up else (0, ""))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_uses_the_library_is_not_given_up() -> None:
    process = start("from pipeline import interrupts; interrupts.GIVEN_S = 0.1\n" + DEAF)
    process.terminate()
    assert process.stdout.readline() == "heard\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.kill()
    process.communicate(timeout=MOST_WAITED)
