"""What it takes to add a training objective: one file and its YAML, and its name where they are listed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline.runs.directory import read_run

ROOT = Path(__file__).parents[3]

FLOODING = '''
"""Flooding (Ishida et al. 2020, https://arxiv.org/abs/2002.08709): the loss of an image does not fall below a level."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import configuration
from pipeline.training.objectives import Objective


@configuration
class FloodingConfig(Objective):
    """Training on images as they are, with losses that are reflected at a level."""

    name: Literal["flooding"] = "flooding"
    """|loss - level| + level"""
    level: Annotated[float, Field(ge=0)] = 0.1
    """The level, 0 or more."""

    def losses(self, stage, batch, seeds):
        losses = stage.loss(stage.training_outputs(batch.images, stage.context(batch)), stage.targets(batch))
        return (losses - self.level).abs() + self.level
'''


@pytest.mark.slow
def test_an_objective_is_one_file_with_its_yaml_and_its_name_where_they_are_listed(synthetic_set: Path, tmp_path: Path) -> None:
    for package in ("pipeline", "segmenter", "classifier", "configs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pipeline" / "training" / "flooding.py").write_text(FLOODING)
    (tmp_path / "configs" / "objective" / "flooding.yaml").write_text("name: flooding\nlevel: 5\n")
    listed = tmp_path / "pipeline" / "training" / "config.py"
    before = listed.read_text()
    after = before.replace("AwpConfig | NoiseConfig,", "AwpConfig | NoiseConfig | FloodingConfig,")
    after = after.replace(
        "from pipeline.training.objectives import",
        "from pipeline.training.flooding import FloodingConfig\nfrom pipeline.training.objectives import",
    )
    assert sum(line not in before.splitlines() for line in after.splitlines()) == 2  # its import, and its name
    listed.write_text(after)
    words = [
        f"prepared={synthetic_set}",
        f"run={tmp_path / 'run'}",
        "trainer.epochs=1",
        "trainer.trackers=[]",
        "trainer.accelerator=cpu",
    ]
    command = [sys.executable, "-m", "pipeline", "train-classifier", *words, "objective=flooding"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "run").config["objective"] == {"name": "flooding", "level": 5.0}
    assert pl.read_csv(tmp_path / "run" / "metrics.csv")["train_loss"][0] >= 5  # no loss of ten classes starts near 5
