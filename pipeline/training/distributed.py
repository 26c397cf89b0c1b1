"""Where a training runs: one process or several, on which device, how exact."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from pipeline.errors import ConfigError, UserError
from pipeline.training.config import TrainerConfig

T = TypeVar("T")


def launch(config: TrainerConfig) -> Fabric:
    """A launched Fabric: from here on every process runs the same code. Raises ConfigError where there is no such device."""
    num_processes = config.devices * config.num_nodes
    if config.batch_size % num_processes:
        raise ConfigError(f"trainer.batch_size: {config.batch_size} images cannot be shared equally by {num_processes} processes")
    if config.eval_batch_size < num_processes:
        raise ConfigError(f"trainer.eval_batch_size: {config.eval_batch_size} images cannot be shared by {num_processes} processes")
    # Buffers are not sent with every forward pass: TRADES runs two of them before it goes backwards.
    strategy = DDPStrategy(broadcast_buffers=False) if num_processes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            strategy=strategy,
            devices=config.devices,
            num_nodes=config.num_nodes,
            precision="bf16-mixed" if config.precision == "bf16-mixed" else "32-true",
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        where = f"trainer.accelerator={config.accelerator}, trainer.devices={config.devices}"
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error
    fabric.launch()
    return fabric


def on_rank_zero(fabric: Fabric, action: Callable[[], T]) -> T:
    """Run something in the first process only; all get its result, or its UserError."""
    outcome: T | UserError | None = None
    if fabric.is_global_zero:
        try:
            outcome = action()
        except UserError as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome  # type: ignore[return-value]


def synchronise_statistics(network: nn.Module, fabric: Fabric) -> nn.Module:
    """Let batch normalisation see the whole batch of all processes. PyTorch cannot on CPUs: there each process sees its share."""
    if fabric.world_size == 1 or fabric.device.type == "cpu":
        return network
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def share_buffers(module: nn.Module, fabric: Fabric) -> None:
    """Give every process the running statistics of the first, which are the ones that are saved."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextmanager
def repeatable(*, deterministic: bool, device: torch.device) -> Iterator[None]:
    """Leave torch's global generators and its choice of algorithms as they were, whatever happens inside."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            if deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch refuses cuBLAS
            torch.use_deterministic_algorithms(deterministic or was_deterministic)
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic)
