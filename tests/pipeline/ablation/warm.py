"""Runs commands of foreguard one after the other, each in a process of its own that has the imports behind it:  python warm.py

A line on stdin is a command, a JSON list of words. On stdout: ``pid NUMBER``, all that the command prints, ``exit CODE``. A command
that is stopped by a signal has the code -SIGNAL. Killing an ablation a dozen times would otherwise be mostly importing torch.
"""

import json
import os
import signal
import sys

import pipeline.ablation.run
import pipeline.cli.ablate
import pipeline.reporting.commands
import pipeline.reporting.document  # noqa: F401
from pipeline.cli.main import main


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(f"pid {os.getpid()}", flush=True)
            os.dup2(1, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts this in the background has it ignored
            sys.exit(main(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(f"exit {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    serve()
