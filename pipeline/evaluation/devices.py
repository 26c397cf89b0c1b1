"""The device of an evaluation, or several: processes that take parts of it, which begin and end with the command."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess

import torch

from pipeline.errors import ConfigError, UserError, printable
from pipeline.evaluation.config import EvaluateConfig
from pipeline.workers import Workers, leave_to_parent


def choose_device(accelerator: str, *, shared: bool = False, variables: Mapping[str, str] = os.environ) -> torch.device:
    """The device that attacks run on. Of processes that share a run on one machine each takes another GPU, by the number that
    torchrun or srun gave it; where there are fewer GPUs, these are taken in turn. Raises ConfigError where this machine has
    none of the kind."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        accelerator = "cuda" if available["cuda"] else "cpu"
    if not available[accelerator]:
        raise ConfigError(f"accelerator={accelerator}: there is none on this machine; foreguard doctor says what there is")
    number = variables.get("LOCAL_RANK") or variables.get("SLURM_LOCALID") or "0"
    if shared and accelerator == "cuda":
        return torch.device("cuda", int(number) % torch.cuda.device_count())
    return torch.device(accelerator)


@contextmanager
def part_takers(
    config: EvaluateConfig, device: torch.device, take_parts: Callable[[EvaluateConfig], None]
) -> Iterator[Callable[[], None]]:
    """While in here, ``config.devices`` - 1 processes run ``take_parts`` beside this one, after the function that is yielded was
    called. However this process ends, they end as well. Raises ConfigError where torchrun or srun has started several of this
    process on the machine.

    What one of them leaves, because it was killed or has failed, this process takes over.
    """
    check_devices(config.devices)
    if device.type == "cuda":
        note_shared_gpus(config.devices)
    before = torch.get_num_threads()
    threads = max(1, before // config.devices)
    workers = Workers()
    alike = replace(config, devices=1, shared=True)
    context = multiprocessing.get_context("spawn")  # forking a process that runs threads can deadlock
    others: list[BaseProcess] = [
        context.Process(target=_take_parts, args=(take_parts, alike, number, threads)) for number in range(1, config.devices)
    ]

    def start() -> None:
        torch.set_num_threads(threads if others else before)
        with workers.starting():
            for other in others:
                other.start()

    try:
        yield start
        for number, other in enumerate(others, start=1):
            other.join()
            if other.exitcode:
                left = f"process {number + 1} of {config.devices} ended with exit code {other.exitcode}; the others did its parts"
                print(left, file=sys.stderr, flush=True)
    finally:
        torch.set_num_threads(before)
        workers.kill()


def check_devices(devices: int) -> None:
    """Raises ConfigError where torchrun or srun has started several of this process."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if devices > 1 and os.environ.get(name, "0").strip() not in ("", "0"):
            raise ConfigError(
                f"devices={devices}: {name}={os.environ[name]} says that torchrun or srun has started several processes on"
                " this machine, of which each would start as many: say shared=true without devices"
            )


def note_shared_gpus(processes: int) -> None:
    """Say where several processes have to share a GPU: small systems gain by it, large ones may not fit twice."""
    available = torch.cuda.device_count()
    if processes > available:
        gpus = "1 GPU" if available == 1 else f"{available} GPUs"
        print(f"devices={processes}: there {'is' if available == 1 else 'are'} {gpus}, which the processes share", file=sys.stderr)


def _take_parts(take_parts: Callable[[EvaluateConfig], None], config: EvaluateConfig, number: int, threads: int) -> None:
    leave_to_parent()
    os.environ["LOCAL_RANK"] = str(number)
    torch.set_num_threads(threads)
    try:
        take_parts(config)
    except UserError as error:
        print(f"foreguard: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
