"""Files of a run, damaged in every way: resuming ends in one line with the remedy, or in what it would have been."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from classifier.config import ClassifierConfig
from pipeline.errors import UserError
from pipeline.training.commands import train_classifier
from pipeline.training.config import TrainClassifierConfig, TrainerConfig
from pipeline.training.objectives import NaturalConfig

TRAINER = TrainerConfig(epochs=2, batch_size=48, eval_batch_size=32, checkpoint_every=1, accelerator="cpu", trackers=())


class Stop(BaseException):
    """Ends a run from inside, as a kill would."""


class Stopping(NaturalConfig):
    """Ends the run at its fourth step, the last one."""

    steps = 0

    def losses(self, stage, batch, seeds):
        Stopping.steps += 1
        if Stopping.steps == 4:
            raise Stop
        return super().losses(stage, batch, seeds)


@pytest.fixture(scope="module")
def config(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainClassifierConfig:
    """A training that was stopped in its second epoch, to be copied."""
    Stopping.steps = 0  # a worker that comes back to this module makes it once more
    run = tmp_path_factory.mktemp("stopped") / "run"
    begun = TrainClassifierConfig(prepared=synthetic_set, run=run, classifier=ClassifierConfig(width=2), trainer=TRAINER)
    with pytest.raises(Stop):
        train_classifier(replace(begun, objective=Stopping()))
    return begun


def best_weights(run: Path) -> Path:
    return run / "checkpoints" / json.loads((run / "checkpoints" / "best.json").read_text())["weights"]


def flip(content: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGES = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) * 2 // 3],
    "flipped": flip,
    "nested": lambda _: b"[" * 200_000,
    "of another type": lambda _: b'["a", "list"]',
    "in another encoding": lambda _: '{"id": "\u00fc"}'.encode("utf-16"),
    "binary": lambda _: bytes(range(256)) * 20,
}


MOST_OF_THEM_SLOW = [damage if damage in ("cut", "flipped") else pytest.param(damage, marks=pytest.mark.slow) for damage in DAMAGES]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "state.pt"])
def test_what_a_resume_cannot_do_without_is_refused_in_one_line(config, tmp_path, name, damage):
    shutil.copytree(config.run, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError) as raised:
        train_classifier(replace(config, run=tmp_path / "run", resume=True))
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(("; begin another run", "; delete it, and resume=true begins the run anew"))
    assert "\n" not in message


@pytest.mark.parametrize("damage", MOST_OF_THEM_SLOW)
@pytest.mark.parametrize("name", ["metrics.csv", pytest.param("checkpoints/last.json", marks=pytest.mark.slow)])
def test_what_is_made_from_the_state_is_mended(config, tmp_path, name, damage):
    runs = {which: tmp_path / which for which in ("damaged", "whole")}
    for run in runs.values():
        shutil.copytree(config.run, run)
    path = runs["damaged"] / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    for run in runs.values():
        train_classifier(replace(config, run=run, resume=True))
    assert without_seconds(runs["damaged"] / "metrics.csv") == without_seconds(runs["whole"] / "metrics.csv")
    weights = [json.loads((run / "checkpoints" / "last.json").read_text())["sha256"] for run in runs.values()]
    assert weights[0] == weights[1]


def without_seconds(table: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in table.read_text().splitlines()]


@pytest.mark.parametrize("name", ["state.pt", "metrics.csv", "checkpoints/last.json"])
def test_a_disk_that_fills_up_is_one_line_and_resuming_works_afterwards(config, tmp_path, monkeypatch, name):
    run = tmp_path / "run"
    shutil.copytree(config.run, run)
    replacing = os.replace

    def full(source, target):
        if Path(target) == run / name:
            raise OSError(28, os.strerror(28))
        replacing(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=rf"{name}: cannot be written: No space left on device") as raised:
            train_classifier(replace(config, run=run, resume=True))
    assert "\n" not in str(raised.value)
    assert not list(run.rglob("*.tmp"))
    train_classifier(replace(config, run=run, resume=True))
    assert (run / "result.json").exists()


@pytest.mark.parametrize("damage", MOST_OF_THEM_SLOW)
def test_damaged_weights_of_the_best_epoch_are_refused_when_they_are_measured(config, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(config.run, run)
    train_classifier(replace(config, run=run, resume=True))
    (run / "result.json").unlink()
    path = best_weights(run)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError, match=rf"{path.name}: damaged, its SHA-256 is not the one in best\.json") as raised:
        train_classifier(replace(config, run=run, resume=True))
    assert "\n" not in str(raised.value)
