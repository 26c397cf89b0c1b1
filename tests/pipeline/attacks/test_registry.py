"""An attack is added by a class and one line; what only chooses attacks does not import torch."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from pipeline.evaluation.records import RecordStore, Status

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def run(*command: str) -> str:
    environment = {"PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_attack_of_another_file_goes_through_suite_evaluation_and_configuration(small: ModuleType, tmp_path: Path) -> None:
    assert run(str(HERE / "one_step.py"), small.__file__, str(tmp_path)) == "True\n"
    evaluation = small.evaluation_run(epsilons=(0.0, 0.02))
    store, attacked = RecordStore(tmp_path), 0
    for unit in sorted(store.units()):
        part = store.read(unit, attack="toy").filter(pl.col("status") == Status.ATTACKED)
        if unit.epsilon_index == 1:
            assert (part["linf"] <= 0.01 + 1e-7).all(), "half of epsilon"
            images = store.read_images(unit)
            rows = [int(sample_id[1:]) for sample_id in part["sample_id"]]
            clean = evaluation.dataset.images[rows].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            moved = np.abs(np.abs(images - clean) - 0.01) < 1e-6
            assert (moved | (images == 0) | (images == 1)).mean() > 0.99, "one step along the sign, to the border of [0,1] at most"
            attacked += len(part)
    assert attacked == small.IMAGES - small.WRONG


def test_choosing_an_attack_does_not_import_torch() -> None:
    code = """
import sys
from pipeline.attacks.suite import AttackSuite
from pipeline.config import dotted_keys
assert "attacks.*" in set(dotted_keys(AttackSuite))
suite = AttackSuite(attacks={"a": {"kind": "class"}, "b": {"kind": "autoattack"}, "c": {"kind": "guided", "goal": "steal"}})
assert all(spec.passes(10).forward > 0 for spec in suite.attacks.values())
print("torch" in sys.modules)
"""
    assert run("-c", code) == "False\n"
