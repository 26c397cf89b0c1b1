"""A tiny ablation with an arm whose stages were trained together: trained after what it continues from, compared, found again."""

import json
import re
from pathlib import Path
from runpy import run_path

import pytest

from pipeline import load_system
from pipeline.cli.main import main
from pipeline.reporting.comparisons import answered, compared
from pipeline.reporting.reading import read_study
from pipeline.runs.checkpoints import weights_digest

TINY = [
    *run_path(str(Path(__file__).parents[1] / "tiny.py"))["WORDS"],
    "masks=[{train: none, test: none}, {train: oracle, test: oracle}, {train: joint, test: joint}]",
    "classifier_objectives=[adversarial]",
    "adversarial.validation.max_images=12",
    "segmenter_trainer.epochs=1",
    "classifier_trainer.epochs=1",
    "joint_trainer.epochs=1",
    "joint={updates: alternating, attack_on: each, classifier: oracle}",
    "attack.threat.epsilons=[4/255]",
    "primary_epsilon=null",
    "attack.attacks={pgd: {kind: class, num_steps: 1}}",
    "evaluation.sanity=null",
    "degradation=null",
    "decomposition.num_steps=1",
    "silhouette=false",
]


@pytest.mark.slow
@pytest.mark.parametrize("folds", ["null", "2"])
def test_a_joint_arm_is_trained_compared_and_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str], folds: str) -> None:
    words = ["ablate", f"run={tmp_path / 'run'}", f"prepared={tmp_path / 'prepared'}", f"folds={folds}", *TINY]
    assert main([*words, "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"train +new +both stages, adversarial \(from natural segmenter and classifier with masks oracle\)", said)
    assert main(words) == 0
    study = read_study(tmp_path / "run")
    comparisons = compared(study)
    assert [one.name for one in comparisons] == ["oracle - none", "joint - none", "oracle - joint"]
    answer = answered("adversarial", comparisons)
    assert answer.learned_none.name == "joint - none"
    assert answer.oracle_learned.name == "oracle - joint"
    arm = next(arm for arm in json.loads((tmp_path / "run" / "ablation.json").read_text())["arms"] if arm["test_masks"] == "joint")
    assert arm["segmenter"] == arm["classifier"]
    joint = tmp_path / "run" / arm["classifier"]
    assert json.loads((joint / "run.json").read_text())["command"] == "train-joint"
    assert load_system(tmp_path / "run", arm=arm["name"]).mask_config.source == "joint"
    digests = {kind: weights_digest(joint, kind) for kind in ("segmenter", "classifier")}
    assert (
        folds != "null"
        or json.loads((tmp_path / "run" / arm["evaluation"] / "run.json").read_text())["inputs"].items() >= digests.items()
    )
    capsys.readouterr()
    assert main([*words, "dry_run=true"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
