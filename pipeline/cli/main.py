"""The command line: ``foreguard COMMAND key=value ...``, one grammar for all commands."""

import atexit
import errno
import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from typing import Any

from pipeline.cli.commands import COMMANDS, CONFIG_DIR, JSON, Command
from pipeline.errors import ConfigError, UserError, printable, shortened
from pipeline.interrupts import Interrupted, signals_handled, told
from pipeline.terminal import colored

_ANSWERING = tuple(name for name, command in COMMANDS.items() if command.answers)
_NOT_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)
"""A full disk, missing rights, a directory in the place of a file, wherever they are met: what the machine refuses is no bug."""
HELP = ("-h", "--help", "help")
MULTIRUN = ("-m", "--multirun")


def command_line() -> None:
    """``foreguard`` as a process: ``main``, and then the end at once.

    With torch loaded the interpreter's last garbage collection takes seconds, and frees what ends with the process anyway. All
    else of an end takes place: threads are joined, exit handlers run, what was printed is flushed.
    """
    # Read when torch is imported. Threads that spin while they wait for each other take the cores from those that they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # As pipeline.arithmetic has it, without importing torch: an evaluation may come before a training that is to repeat to the bit.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before and after the work Ctrl-C ends the process, without a traceback
    gc.disable()  # until the work begins nothing is left behind, and looking for it is a sixth of what an answer takes
    exit_codes: list[int] = []
    atexit.register(_end_at_once, exit_codes)  # handlers run last in, first out: this one after all that are registered later
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only
    exit_codes.append(main())
    sys.exit(exit_codes[0])


def _end_at_once(exit_codes: list[int]) -> None:
    if not exit_codes:  # a bug, whose traceback is printed: the interpreter ends as it does
        return
    logging.shutdown()  # its own handler was registered before
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(exit_codes[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 a mistake of the user's (one line on stderr), 128 + the number
    of the signal that interrupted it (Ctrl-C 130)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with signals_handled(_say_interrupted), told("before its end; say the same command again"):
            _dispatch(words)
            sys.stdout.flush()
    except UserError as error:
        _refuse(str(error))
        if JSON in words:
            _print_json({"error": str(error), **error.answer})
        return 2
    except Interrupted as error:
        _say_interrupted(error)
        return error.exit_code
    except SystemExit as error:  # the other processes of a training end in silence
        if not isinstance(error.code, int | None):  # what Python does with it: code of the user's own has ended the process
            print(error.code, file=sys.stderr)
            return 1
        return int(error.code or 0)
    except BrokenPipeError:  # the reader of our output has gone (| head)
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        where = "the output of the command" if error.filename is None else error.filename
        _refuse(f"{where}: {error.strerror}")
        return 2
    return 0


def _refuse(message: str) -> None:
    """The one line of a mistake."""
    print(colored("foreguard:", "bad", sys.stderr), printable(message), file=sys.stderr)


def _print_json(answer: Any) -> None:
    """One line; what is no number is null."""
    from pydantic_core import to_json

    print(to_json(answer, inf_nan_mode="null").decode(), flush=True)


def _say_interrupted(error: Interrupted) -> None:
    with suppress(OSError):  # after a SIGHUP there may be no terminal any more
        print(f"foreguard: {printable(str(error))}", file=sys.stderr, flush=True)


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in HELP:
        print(_overview())
        return
    if words[0] == "--version":
        from pipeline.versions import own_version

        print(f"foreguard {own_version()}")
        return
    name, *rest = words
    if name == "completion":
        from pipeline.cli.completion import USAGE, completion

        print(USAGE if any(word in HELP for word in rest[:1]) else completion(rest, COMMANDS))
        return
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, [*COMMANDS, "completion"], n=1)
        hint = f"did you mean {near[0]}?" if near else "foreguard --help lists the commands"
        raise ConfigError(f"{shortened(repr(name))} is no command; {hint}")
    command = COMMANDS[name]
    if any(word in HELP for word in rest):
        from pipeline.cli.help import command_help

        print(command_help(name, command.summary, command.example, command.config_class()))
        return
    from pipeline.cli.groups import added_directory, config_directory

    rest, directory = config_directory(rest)
    with added_directory(directory):
        _run(name, command, rest)


def _run(name: str, command: Command, words: list[str]) -> None:
    if JSON in words and not command.answers:
        raise ConfigError(f"{JSON}: is for {', '.join(_ANSWERING)}")
    answer_wanted, words = JSON in words, command.words([word for word in words if word != JSON])
    if any(word in MULTIRUN for word in words):
        from pipeline.cli.multirun import run_many

        if answer_wanted:
            raise ConfigError(f"{JSON}: is for one job, not for {MULTIRUN[1]}")
        run_many(name, command, [word for word in words if word not in MULTIRUN])
        return
    from pipeline.cli.composition import load_config

    config = load_config(name, command.config_class(), words)
    if not answer_wanted:
        command.call(config)
        return
    with redirect_stdout(sys.stderr):  # what is for people
        answer = command.call(config)
    _print_json(answer)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "foreguard: does removing the background make an image classifier harder to fool,",
        "and does that survive when the attacker attacks the mask too?",
        "",
        "usage: foreguard COMMAND key=value ...",
        "",
    ]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<{width}}  {command.summary}", f"  {'':<{width}}  {command.example}"]
    lines += [
        "",
        "foreguard COMMAND --help    every key with its meaning, unit and default",
        f"foreguard COMMAND {JSON}    for scripts: one line of JSON on stdout, all else on stderr ({', '.join(_ANSWERING)})",
        f"foreguard COMMAND {CONFIG_DIR} DIR    choices of your own beside the shipped ones: DIR/experiment/NAME.yaml",
        "foreguard COMMAND --multirun key=a,b,c    one job for every combination (Hydra sweeps and launchers)",
        "foreguard completion bash|zsh|fish    what a shell loads to complete all of this",
        "foreguard --version",
        "",
        "Exit codes: 0 done, 2 a mistake in the call or its input (one line says which); Ctrl-C 130, SIGTERM 143, SIGHUP 129.",
    ]
    return "\n".join(lines)
