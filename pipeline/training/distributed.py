"""Where a training runs: one process or several, on which device, how exact."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from signal import Signals
from typing import TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from pipeline.arithmetic import repeat_products, tf32_disabled
from pipeline.errors import ConfigError, UserError, said
from pipeline.interrupts import interruption, signals_unhandled
from pipeline.training.config import TrainerConfig
from pipeline.workers import end_with_parent

# In every process it greets all others.
logging.getLogger("lightning.fabric").setLevel(logging.WARNING)

T = TypeVar("T")
INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs in which a person types: there we start our processes ourselves."""
FIRST_PROCESS = "FOREGUARD_FIRST_PROCESS"
"""The environment variable in which the first process of a machine tells its number to those that it starts."""


def launch(config: TrainerConfig) -> Fabric:
    """A launched Fabric: from here on every process runs the same code.

    Raises ConfigError where there is no such device, and where the processes that were started are not those of the configuration.
    """
    num_processes = config.devices * config.num_nodes
    if config.batch_size % num_processes:
        raise ConfigError(f"trainer.batch_size: {config.batch_size} images cannot be shared equally by {num_processes} processes")
    if config.eval_batch_size < num_processes:
        raise ConfigError(f"trainer.eval_batch_size: {config.eval_batch_size} images cannot be shared by {num_processes} processes")
    environment = cluster_environment(config, os.environ)
    # Buffers are not sent with every forward pass: TRADES runs two of them before it goes backwards.
    strategy = DDPStrategy(broadcast_buffers=False) if num_processes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            strategy=strategy,
            devices=config.devices,
            num_nodes=config.num_nodes,
            precision="bf16-mixed" if config.precision == "bf16-mixed" else "32-true",
            plugins=[environment],
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        where = f"trainer.accelerator={config.accelerator}, trainer.devices={config.devices}"
        raise ConfigError(f"{where}: {said(error)}") from error
    # The processes of a machine end with the first, or with torchrun, also one that comes up when that has ended already.
    if not isinstance(environment, SLURMEnvironment) and environment.local_rank():
        end_with_parent(int(os.environ.get(FIRST_PROCESS, os.getppid())))
    elif not isinstance(environment, SLURMEnvironment):
        os.environ[FIRST_PROCESS] = str(os.getpid())
    try:
        with signals_unhandled():
            fabric.launch()
    finally:
        os.environ.pop(FIRST_PROCESS, None)  # whatever this process starts later is none of these
    return fabric


def cluster_environment(config: TrainerConfig, variables: Mapping[str, str]) -> ClusterEnvironment:
    """Who has started our processes, by the environment variables.

    Raises ConfigError where they are not those of the configuration: Lightning would train on one process of two, let two of them
    fight for one directory, or wait for ever.
    """
    wanted = config.devices * config.num_nodes
    asked = f"trainer.devices={config.devices}, trainer.num_nodes={config.num_nodes}"
    step, job = variables.get("SLURM_STEP_NUM_TASKS"), "SLURM_JOB_ID" in variables
    if variables.get("SLURM_JOB_NAME") in INTERACTIVE:
        step, job = None, False
    name, started = "torchrun", variables.get("WORLD_SIZE")
    if started is None and step is not None:
        name, started = "srun", step
    if started is not None and started != str(wanted):
        raise ConfigError(
            f"{asked}: that makes {_processes(wanted)}, but {name} has started {started}; devices is the number on each machine"
        )
    if "TORCHELASTIC_RUN_ID" in variables:
        return TorchElasticEnvironment()
    if started is None and job and wanted > 1:
        raise ConfigError(
            f"{asked}: that makes {_processes(wanted)}, but sbatch starts one: say srun foreguard ... in the job script"
        )
    if name == "srun" and wanted > 1:
        try:
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:
            raise ConfigError(f"{asked}: {said(error)}") from error
    if LSFEnvironment.detect():
        return LSFEnvironment()
    if config.num_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= variables.keys():
        raise ConfigError(
            f"{asked}: nobody starts the processes of the other machines; use torchrun or srun, or start foreguard on each machine"
            " with MASTER_ADDR, MASTER_PORT and NODE_RANK set"
        )
    return LightningEnvironment()


def _processes(number: int) -> str:
    return f"{number} process{'es' * (number > 1)}"


def on_rank_zero(fabric: Fabric, action: Callable[[], T]) -> T:
    """Run something in the first process only; all get its result. With its UserError all end, the others in silence."""
    outcome: T | UserError | None = None
    if fabric.is_global_zero:
        try:
            outcome = action()
        except UserError as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, UserError):
        raise outcome if fabric.is_global_zero else SystemExit(0)  # one process says it, and has the exit code
    return outcome  # type: ignore[return-value]


def agreed_interruption(fabric: Fabric) -> Signals | None:
    """The signal that has arrived in any process, the same answer in all of them."""
    number = fabric.all_reduce(torch.tensor(float(interruption() or 0), device=fabric.device), reduce_op="max")
    return Signals(int(number)) if number else None  # type: ignore[arg-type]


def synchronize_statistics(network: nn.Module, fabric: Fabric) -> nn.Module:
    """Let batch normalization see the whole batch of all processes. PyTorch cannot on CPUs: there each process sees its share."""
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
def determinism(*, enforced: bool, device: torch.device) -> Iterator[None]:
    """Compute in float32 where that is asked for, repeat where that is ``enforced``, and leave torch's global generators and its
    choice of algorithms as they were, whatever happens inside. Raises ConfigError where nothing can be enforced: there is no
    algorithm that repeats for something that is computed."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            if enforced:
                repeat_products()  # else torch refuses cuBLAS
            torch.use_deterministic_algorithms(enforced or was_deterministic)
            with tf32_disabled(device, repeatable=enforced):
                yield
        except RuntimeError as error:
            if not enforced or "deterministic" not in str(error):
                raise
            remedy = "say trainer.deterministic=false, or choose other settings"
            raise ConfigError(f"trainer.deterministic: {said(error)}; {remedy}") from error
        finally:
            torch.use_deterministic_algorithms(was_deterministic)
