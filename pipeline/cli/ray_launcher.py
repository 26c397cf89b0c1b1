"""``hydra/launcher=ray``: the jobs of a sweep are tasks of Ray, on a running cluster or on one that begins and ends with the sweep.

hydra-ray-launcher fails on a running cluster, runs jobs in a directory of Ray's, and waits for ever for a GPU that no machine has.
"""

import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import OmegaConf, open_dict

from pipeline.cli.composition import one_line
from pipeline.errors import ConfigError, UserError
from pipeline.interrupts import SIGNALS
from pipeline.runs.directory import JOB_VARIABLE

RETRIES = 20
"""How often a job begins again whose machine or process was taken away; ``max_retries`` of Ray says otherwise."""
_QUIET = {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
"""Every job shows its lines, although others say the same; nobody is told that we use Ray; without num_gpus a job sees no GPU."""
_LOGS_S = 2.0
"""What jobs print reaches us a moment later, and not at all once we have left."""


class RayLauncher(Launcher):
    """Hands the jobs of a sweep to Ray and waits for all of them."""

    def __init__(self, ray: Mapping[str, Any]) -> None:
        options: Any = OmegaConf.to_container(ray, resolve=True)
        self._init, self._remote = options["init"], {"num_cpus": 1, "max_retries": RETRIES} | options["remote"]

    def setup(self, *, hydra_context: HydraContext, task_function: Callable[[Any], Any], config: Any) -> None:
        """What Hydra knows of the sweep."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, which end with this process. Raises ConfigError where no such cluster is, or no machine of it has room."""
        configs = {number: self._compose(list(words), number) for number, words in enumerate(job_overrides, initial_job_idx)}
        with _connected(self._init) as ray:
            _check_room(ray, self._remote)
            with _refusals("hydra.launcher.ray.remote"):
                remote = ray.remote(**self._remote)(_job)
            sweep, where = secrets.token_hex(8), str(Path.cwd())
            code = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH"))))
            jobs = [
                remote.options(name=f"job {number}", runtime_env={"env_vars": {"PYTHONPATH": code}}).remote(
                    self._task, config, where, f"{sweep}-{number}"
                )
                for number, config in configs.items()
            ]
            return [_outcome(ray, job, words) for job, words in zip(jobs, job_overrides, strict=True)]

    def _compose(self, words: list[str], number: int) -> Any:
        """The configuration of a job, with all references followed here: paths and environment are those of the caller."""
        config = self._context.config_loader.load_sweep_config(self._config, words)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{number}", number
            HydraConfig.instance().set_config(config)
            del config["hydra"]
        resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        return OmegaConf.create(resolved)


RayLauncher.__module__ = "hydra_plugins.foreguard"  # Hydra takes launchers from no other package


def register() -> None:
    """Make ``hydra/launcher=ray`` known to Hydra, in place of that of hydra-ray-launcher."""
    Plugins.instance().register(RayLauncher)
    plugins = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    plugins.foreguard = sys.modules[RayLauncher.__module__] = sys.modules[__name__]  # type: ignore[attr-defined]
    node = {"_target_": f"{RayLauncher.__module__}.RayLauncher", "ray": {"init": {"address": None}, "remote": {}}}
    ConfigStore.instance().store(group="hydra/launcher", name="ray", node=node, provider="foreguard")


@contextmanager
def _connected(init: Mapping[str, Any]) -> Iterator[Any]:
    """Ray, connected to the cluster of ``address``; where that is null to the one that runs, or else to one of this machine."""
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("hydra/launcher=ray: the package ray is not installed: pip install 'foreguard[ray]'") from error
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    options = {"logging_level": logging.ERROR} | {key: value for key, value in init.items() if key != "address"}
    address = init.get("address")
    try:
        with _refusals("hydra.launcher.ray.init"):
            try:
                ray.init(address=address or "auto", **options)
            except ConnectionError as error:
                if address is not None:
                    raise ConnectionError(f"no cluster answers at address={address}: {one_line(error)}") from error
                ray.init(address="local", include_dashboard=False, **options)
        for number, handler in handlers.items():  # Ray has put its own in their place
            signal.signal(number, handler)
        yield ray
        time.sleep(_LOGS_S)
    finally:
        ray.shutdown()


@contextmanager
def _refusals(key: str) -> Iterator[None]:
    """What Ray does not take as an option is one line with its key."""
    try:
        yield
    except Exception as error:  # Ray's own word for a cluster that does not come up
        raise ConfigError(f"{key}: {one_line(error)}") from error


def _check_room(ray: Any, remote: Mapping[str, Any]) -> None:
    """Raises ConfigError where no machine of the cluster has what a job asks for: Ray would wait until one comes."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    asked = {names[key]: value for key, value in remote.items() if key in names and value} | (remote.get("resources") or {})
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= amount for name, amount in asked.items()) for machine in machines):
        most = {name: max((machine.get(name, 0) for machine in machines), default=0) for name in asked}
        wanted = ", ".join(f"{name} {amount} (the most on one is {most[name]:g})" for name, amount in asked.items())
        raise ConfigError(f"hydra.launcher.ray.remote: no machine of the cluster has what a job asks for: {wanted}")


def _job(task: Callable[[Any], Any], config: Any, where: str, job: str) -> None:
    """In a worker of Ray."""
    os.chdir(where)
    os.environ[JOB_VARIABLE] = job  # so that a job that Ray begins again continues its run
    task(config)


def _outcome(ray: Any, job: Any, words: Sequence[str]) -> JobReturn:
    failed = JobReturn(status=JobStatus.FAILED, overrides=words)
    try:
        ray.get(job)
        return JobReturn(status=JobStatus.COMPLETED)
    except ray.exceptions.RayTaskError as error:
        failed.return_value = error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        failed.return_value = UserError(f"Ray: {one_line(error)}")
    return failed
