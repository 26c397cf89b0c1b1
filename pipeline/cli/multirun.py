"""``foreguard COMMAND --multirun``: a sweep, handed to Hydra with whatever launcher the words name."""

import os
import sys
from typing import Any

import hydra
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.cli.commands import Command
from pipeline.cli.composition import check_overrides, one_line, search_path
from pipeline.config import CONFIG_DIR, validate
from pipeline.errors import ConfigError, printable
from pipeline.interrupts import Interrupted, told
from pipeline.workers import end_with_parent


def run_many(name: str, command: Command, overrides: list[str]) -> None:
    """Run a command once for every combination of the swept values. Raises UserError."""
    parent, config_class = os.getpid(), command.config_class()
    if any(word.startswith("hydra/launcher=ray") for word in overrides):
        from pipeline.cli.ray_launcher import register

        register()

    def task(composed: Any) -> None:
        if os.getpid() != parent:  # a worker of a launcher
            end_with_parent()
        values: Any = OmegaConf.to_container(composed, resolve=True)
        try:
            command.call(validate(config_class, values))
        except Interrupted as interrupt:
            if "SUBMITIT_EXECUTOR" not in os.environ:
                raise
            print(f"foreguard: {printable(str(interrupt))}", file=sys.stderr, flush=True)  # taken away: no fault, and no traceback
            sys.exit(interrupt.exit_code)

    checked: TaskFunction = task
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own traceback and exits with 1
    program = sys.argv
    sys.argv = [f"foreguard {name}", "--multirun", *search_path(), *check_overrides(config_class, overrides, sweep=True)]
    try:
        with told("in a sweep; the jobs that have ended are kept"):
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=name)(checked)()
    except (HydraException, OmegaConfBaseException) as error:  # such as a launcher that is not installed
        raise ConfigError(one_line(error)) from error
    finally:
        sys.argv = program
