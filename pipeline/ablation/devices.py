"""One ablation on several devices of this machine: processes that share its jobs, which begin and end with the command."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import torch

from pipeline.errors import UserError, printable
from pipeline.evaluation.devices import check_devices, note_shared_gpus
from pipeline.interrupts import SIGNALS, Interrupted, signals_handled
from pipeline.workers import Workers, interrupt_with_parent


@contextmanager
def job_takers(devices: int, take_jobs: Callable[[], None]) -> Iterator[None]:
    """While in here, ``devices`` - 1 processes run ``take_jobs`` beside this one, each on a GPU of its own (where there are fewer,
    these are taken in turn), or with its share of the threads. Afterwards they have come to their end. Where this process is
    interrupted or fails they are interrupted too, and keep the state of their step; where it is killed, they notice in a second.

    What one of them leaves, because it was killed or has failed, this process takes over. Raises ConfigError where torchrun or srun
    has started several of this process on the machine.
    """
    check_devices(devices)
    if torch.cuda.is_available():
        note_shared_gpus(devices)
    before = torch.get_num_threads()
    threads = max(1, before // devices)
    context = multiprocessing.get_context("spawn")  # forking a process that runs threads can deadlock
    others: list[BaseProcess] = [context.Process(target=_take_jobs, args=(take_jobs, gpu, threads)) for gpu in gpus(devices)[1:]]
    torch.set_num_threads(threads)
    try:
        with Workers().starting():
            for other in others:
                other.start()
        yield
    except BaseException:
        for other in others:
            if other.pid is not None:
                other.terminate()
        raise
    finally:
        for number, other in enumerate(others, start=2):
            if other.pid is not None:
                other.join()
                if other.exitcode not in (0, 128 + signal.SIGTERM):
                    left = f"process {number} of {devices} ended with exit code {other.exitcode}; the others did its jobs"
                    print(left, file=sys.stderr, flush=True)
        torch.set_num_threads(before)


def gpus(devices: int) -> list[str | None]:
    """For each process the GPU that it is to see; None where there is none."""
    if not torch.cuda.is_available():
        return [None] * devices
    visible, available = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    names = visible.split(",")[:available] if visible else [str(number) for number in range(available)]
    return [names[number % len(names)] for number in range(devices)]


def _take_jobs(take_jobs: Callable[[], None], gpu: str | None, threads: int) -> None:
    os.setsid()  # what a terminal sends to all is for the parent, which says here what it means
    if gpu is not None:  # read when CUDA is first asked, which is later
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    try:
        with signals_handled(given_up=lambda _: None):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            interrupt_with_parent()
            take_jobs()
    except Interrupted as error:  # the parent says it
        sys.exit(error.exit_code)
    except UserError as error:
        print(f"foreguard: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
