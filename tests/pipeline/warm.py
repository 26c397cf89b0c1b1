"""Processes that begin with the imports behind them: forked from a server that has done nothing but these, and looked through the
configuration of every command.

Starting, stopping and killing commands dozens of times would otherwise be mostly importing torch. All else of such a process is as
``python -m pipeline`` or ``python -c`` have it, but for the fonts in the PDFs of a report: a pid, a group and an output of its own,
exit handlers, what it starts itself.
"""

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORTED = [
    *("pipeline.data.prepare", "pipeline.training.commands", "pipeline.evaluation.evaluate"),
    *("pipeline.cli.composition", "pipeline.cli.ablate", "pipeline.ablation.run"),
    *("pipeline.reporting.commands", "pipeline.reporting.document"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg"),  # what draws,
    "torch.utils.tensorboard",  # and what logs: commands import them late
]


class Process:
    """What a test needs of ``subprocess.Popen``. The output goes to files, so that nobody has to read it before the end."""

    def __init__(self, server: "Server", pid: int, files: list[int]) -> None:
        self.pid, self.returncode = pid, None
        self._server, self._files = server, files

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)

    def poll(self) -> int | None:
        """The exit code, -NUMBER after a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask(self.pid)
        return self.returncode

    def communicate(self, timeout: float = float("inf")) -> tuple[str, str]:
        """What it printed on stdout and stderr, at its end. Raises ``subprocess.TimeoutExpired`` after so many seconds."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Server:
    """Forks one process after the other; its own end is that of whoever has it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()  # on which a question waits for the answer to the one before
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()

    def start(self, words: list[str], *, script: str | None = None, cwd: Path | None = None, output: int | None = None) -> Process:
        """``python -m pipeline WORDS``, or a script with these, as the first of its process group.

        ``output`` is an open file that both stdout and stderr go to.
        """
        files = [_file(), _file()]
        asked = {"words": words, "script": script, "cwd": str(cwd or Path.cwd())}
        socket.send_fds(self._socket, [json.dumps(asked).encode()], [file if output is None else output for file in files])
        return Process(self, self._receive(), files)

    def ask(self, pid: int) -> int | None:
        """The exit code of a process, None while it runs."""
        self._socket.send(json.dumps(pid).encode())
        return self._receive()

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _receive(self) -> Any:
        answer = self._socket.recv(100)
        assert answer, "the server has died"
        return json.loads(answer)


def _file() -> int:
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def serve(connection: socket.socket) -> None:
    """Answer until nobody asks any more."""
    import_module("pipeline.__main__")
    register, handlers = atexit.register, list[Callable[[], object]]()
    atexit.register = lambda function, *args, **kwargs: handlers.append(partial(function, *args, **kwargs)) or function
    for name in IMPORTED:
        import_module(name)
    atexit.register = register
    for command in import_module("pipeline.cli.commands").COMMANDS.values():
        import_module("pipeline.config").json_schema_of(command.config_class())  # which is kept
    import_module("pipeline.reporting.panel").RC["pdf.fonttype"] = 3  # as in conftest.py
    gc.freeze()  # no process need look through these for what can be freed
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not request:
            return
        asked = json.loads(request)
        if isinstance(asked, int):
            pid, status = os.waitpid(asked, os.WNOHANG)
            connection.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
        elif os.fork() == 0:
            os.setsid()
            for number, descriptor in enumerate(descriptors, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            connection.send(json.dumps(os.getpid()).encode())
            connection.close()
            begin(**asked, handlers=handlers)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def register_before(handlers: list[Callable[[], object]]) -> None:
    """Have the next handler registered before these. A command registers its own end before it imports what they belong to."""
    register = atexit.register

    def first(*given: Any) -> None:
        atexit.register = register
        register(*given)
        for handler in handlers:
            register(handler)

    atexit.register = first


def begin(words: list[str], script: str | None, cwd: str, handlers: list[Callable[[], object]]) -> None:
    """Be ``python -m pipeline WORDS`` or ``python -c SCRIPT WORDS`` from here on. ``handlers``: of the imports, for the exit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests in the background has it ignored,
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and this one whoever says nohup
    # Opened anew: where the server's own was a file it is taken for one that can seek, which a pipe cannot.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    os.chdir(cwd)
    sys.path[0] = cwd
    main = import_module("pipeline.__main__") if script is None else ModuleType("__main__")
    sys.modules["__main__"] = main  # what the processes that it starts go by
    sys.argv = ["-c" if script else str(main.__file__), *words]
    if script is None:
        register_before(handlers)
        main.command_line()
    else:
        gc.unfreeze()  # it ends as an interpreter does, which tells what is left
        for handler in handlers:
            atexit.register(handler)
        exec(compile(script, "script", "exec"), main.__dict__)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
