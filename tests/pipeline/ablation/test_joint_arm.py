"""A tiny ablation with an arm whose stages were trained together: trained after what it continues from, compared, found again."""

import json
import re
from pathlib import Path
from runpy import run_path

import pytest
import torch

from pipeline import load_system, predict
from pipeline.cli.main import main
from pipeline.reporting.comparisons import answered, compared
from pipeline.reporting.reading import read_study
from pipeline.runs import zoo
from pipeline.runs.checkpoints import weights_digest
from pipeline.sharing.zoo import enter

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
def test_a_joint_arm_is_trained_compared_reused_and_handed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folds: str
) -> None:
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
    _check_exports(tmp_path, [arm["name"], next(one for one in study.arms if one.condition.test_masks == "none").name], joint)
    card = (tmp_path / "exports" / "0" / "README.md").read_text()
    assert ("pooled over the folds" in card) == (folds != "null")
    assert f"{study.arms[0].summary.clean_accuracy.n} test images" in card
    if folds == "null":
        _check_zoo(tmp_path, arm["name"], monkeypatch, capsys)
    capsys.readouterr()
    assert main([*words, "dry_run=true"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out


def _check_exports(tmp_path: Path, arms: list[str], joint: Path) -> None:
    """Arms of the ablation, and the run that trained both stages: each export says what its system says, to the bit."""
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = [(tmp_path / "run", name) for name in arms] + [(joint, None)]
    for number, (run, name) in enumerate(wanted):
        out = tmp_path / "exports" / str(number)
        assert main(["export", f"run={run}", f"out={out}", "files=[]", *([f"arm='{name}'"] if name else [])]) == 0
        exported, original = load_system(out), load_system(run, arm=name)
        assert exported.mask_config == original.mask_config
        for one, other in zip(predict(exported, images), predict(original, images), strict=True):
            assert torch.equal(one, other)


def _check_zoo(tmp_path: Path, arm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The arm in a zoo of its own: its published figures come out again, and other attacks are not compared with them."""
    monkeypatch.setenv("FOREGUARD_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setattr(zoo, "INDEX", tmp_path / "zoo.json")
    zoo.ZooIndex(systems={}).write(zoo.INDEX)
    entry = enter(tmp_path / "run", "tiny", prepared=tmp_path / "prepared", arm=arm, scratch=tmp_path / "scratch")
    assert [one.images for one in entry.figures] == [12, 12]
    capsys.readouterr()
    attack = ["attack.threat.epsilons=[4/255]", "attack.attacks={pgd: {kind: class, num_steps: 1}}", "gallery_images=0"]
    words = ["evaluate", "system=zoo:tiny", f"prepared={tmp_path / 'prepared'}", "max_images=12", "accelerator=cpu", *attack]
    assert main([*words, f"run={tmp_path / 'again'}"]) == 0
    assert capsys.readouterr().out.count("right; the same") == 2
    assert load_system(tmp_path / "again").mask_config.source == "joint"
    assert main([*words, f"run={tmp_path / 'other'}", "seed=1"]) == 0
    assert "published figures of zoo:tiny are of other data, images, attacks or another seed" in capsys.readouterr().out
