"""Two processes (gloo, CPU) train as one does.

The module has no batch normalisation: on CPUs its statistics are per process, so there the two would differ for a good reason.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from pipeline.errors import ConfigError
from pipeline.training.config import TrainerConfig
from pipeline.training.distributed import cluster_environment, launch
from pipeline.training.state import read_state

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from pipeline.attacks.config import PgdConfig
from pipeline.data.dataset import open_prepared
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.training.config import TrainerConfig
from pipeline.training.joint import JointStages, SeparatelyAttacked, bind_joint
from pipeline.training.tasks import SavedStage, Training, bind_classifier
from pipeline.training.trainer import train
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, RobustValidationConfig, TradesConfig

prepared, runs, devices = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
attack = PgdConfig(epsilon=4 / 255, num_steps=2)
validation = RobustValidationConfig(max_images=13)
robust = {"adversarial": AdversarialConfig, "trades": TradesConfig}
mean = (0.5, 0.5, 0.5)
trainer = TrainerConfig(
    epochs=2, batch_size=16, eval_batch_size=15, accelerator="cpu", devices=devices, trackers=(), ema_decay=0.9, checkpoint_every=4
)
for name in sys.argv[4:]:
    run, joint, name = runs / name, name.startswith("joint "), name.removeprefix("joint ")
    objective = NaturalConfig() if name == "natural" else robust[name](attack=attack, validation=validation)
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    stages = (SavedStage(kind="classifier", architecture={}),)
    bind = lambda module: bind_classifier(module, masks=MaskConfig(source=MaskSource.RANDOM), segmenter=None, mean_color=mean)
    if joint:
        segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
        module = JointStages(segmenter, module, masks=MaskConfig(source=MaskSource.JOINT), mean_color=mean)
        stages = tuple(SavedStage(kind=kind, architecture={}, part=kind) for kind in ("segmenter", "classifier"))
        bind = lambda module: bind_joint(module, num_classes=10, mask_weight=1.0)
        objective = SeparatelyAttacked(objective, num_classes=10, mask_weight=1.0)
    train(
        Training(
            command="test", config={"objective": name}, inputs={}, run=run, resume=True,
            stages=stages, turns=("segmenter", "classifier") if joint else (), bind=bind,
            module=module, objective=objective, trainer=trainer, dataset=open_prepared(prepared), augment=None,
        )
    )
"""
OBJECTIVES = ["natural", "adversarial", "trades", "joint adversarial"]


def run_script(path, *words, program):
    script, root = path / "script.py", Path(__file__).parents[3]
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *program, str(script), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(synthetic_set, tmp_path_factory, warm):
    """The runs of every objective, by one process and by two of torchrun, which train one after the other."""
    path = tmp_path_factory.mktemp("trained")
    alone = warm.start([str(synthetic_set), str(path / "1"), "1", *OBJECTIVES], script=SCRIPT)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    run_script(path, synthetic_set, path / "2", 2, *OBJECTIVES, program=torchrun)
    said = alone.communicate()
    assert alone.returncode == 0, said
    return path


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_the_same_batch_to_the_same_losses(trained, objective):
    runs = [trained / devices / objective for devices in ("1", "2")]
    one, two = (pl.read_csv(run / "metrics.csv").to_dict(as_series=False) for run in runs)
    assert one.keys() == two.keys()
    for name in one:
        if name != "seconds":
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    first, second = (read_state(run / "state.pt")["module"] for run in runs)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_refusal_is_one_line_in_two_processes_as_well(synthetic_set, tmp_path):
    (tmp_path / "natural").write_text("")
    with pytest.raises(AssertionError, match=r"RunError: .*natural: is a file; expected the directory of a run"):
        run_script(tmp_path, synthetic_set, tmp_path, 2, "natural", program=())


SBATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = SBATCH | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
MANUAL = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000", "NODE_RANK": "1"}


@pytest.mark.parametrize(
    ("devices", "num_nodes", "variables", "environment"),
    [
        (1, 1, {}, LightningEnvironment),
        (2, 1, {}, LightningEnvironment),
        (1, 1, SBATCH, LightningEnvironment),
        (2, 1, SBATCH | {"SLURM_JOB_NAME": "bash"}, LightningEnvironment),
        (2, 1, SRUN, SLURMEnvironment),
        (1, 1, SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, LightningEnvironment),
        (2, 1, TORCHRUN, TorchElasticEnvironment),
        (1, 2, TORCHRUN, TorchElasticEnvironment),
        (2, 1, SRUN | TORCHRUN, TorchElasticEnvironment),
        (1, 2, MANUAL, LightningEnvironment),
    ],
)
def test_processes_that_fit_the_configuration_are_found_out(monkeypatch, devices, num_nodes, variables, environment):
    surroundings(monkeypatch, variables)
    assert type(cluster_environment(TrainerConfig(devices=devices, num_nodes=num_nodes), variables)) is environment


def surroundings(monkeypatch, variables):
    for name in {**SRUN, **TORCHRUN, **MANUAL}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("devices", "num_nodes", "variables", "line"),
    [
        (2, 1, SBATCH, "that makes 2 processes, but sbatch starts one: say srun foreguard"),
        (2, 1, {"SLURM_JOB_ID": "7"}, "that makes 2 processes, but sbatch starts one"),
        (1, 1, SRUN, "that makes 1 process, but srun has started 2"),
        (4, 1, SRUN, "that makes 4 processes, but srun has started 2"),
        (1, 1, TORCHRUN, "that makes 1 process, but torchrun has started 2"),
        (2, 2, TORCHRUN, "that makes 4 processes, but torchrun has started 2"),
        (1, 1, TORCHRUN | {"WORLD_SIZE": "two"}, "that makes 1 process, but torchrun has started two"),
        (1, 2, {}, "nobody starts the processes of the other machines; use torchrun or srun"),
        (1, 2, {"NODE_RANK": "0"}, "nobody starts the processes of the other machines"),
        (1, 2, SBATCH, "but sbatch starts one"),
        (2, 1, {name: value for name, value in SRUN.items() if name != "SLURM_NTASKS_PER_NODE"}, "--ntasks-per-node=2"),
    ],
)
def test_processes_that_do_not_fit_are_refused_in_one_line(monkeypatch, devices, num_nodes, variables, line):
    surroundings(monkeypatch, variables)
    config = TrainerConfig(devices=devices, num_nodes=num_nodes, batch_size=64, accelerator="cpu")
    with pytest.raises(ConfigError, match=rf"^trainer\.devices={devices}, trainer\.num_nodes={num_nodes}: .*{line}") as raised:
        launch(config)
    assert "\n" not in str(raised.value)


def test_an_srun_on_the_path_is_nothing_to_us(monkeypatch, tmp_path):
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    surroundings(monkeypatch, {})
    assert launch(TrainerConfig(accelerator="cpu")).world_size == 1  # Lightning's hint would be a warning, which fails a test


def test_lightning_greets_nobody_in_the_logs():
    assert not logging.getLogger("lightning.fabric.utilities.distributed").isEnabledFor(logging.INFO)


def test_a_training_leaves_nothing_in_the_environment_of_what_its_process_starts_later(monkeypatch):
    surroundings(monkeypatch, {})
    before = dict(os.environ)
    launch(TrainerConfig(accelerator="cpu"))
    assert dict(os.environ) == before
