"""The loop: what it leaves behind, what it refuses, and that an interruption changes nothing."""

import json
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from classifier.config import ClassifierConfig
from pipeline.attacks.config import PgdConfig
from pipeline.config import to_plain
from pipeline.data.config import AugmentConfig
from pipeline.data.dataset import open_prepared
from pipeline.errors import CheckpointError, ConfigError, RunError
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.runs.checkpoints import load_classifier, load_segmenter, read_checkpoint
from pipeline.training.awp import AwpConfig
from pipeline.training.commands import train_classifier, train_segmenter
from pipeline.training.config import TrainClassifierConfig, TrainerConfig, TrainSegmenterConfig
from pipeline.training.logging import write_metrics
from pipeline.training.objectives import AdversarialConfig, FastConfig, NaturalConfig, RobustValidationConfig, TradesConfig
from segmenter.config import SegmenterConfig

ROOT = Path(__file__).parents[3]
# 96 training images: 6 steps an epoch. Every part that has a state is switched on.
TRAINER = TrainerConfig(
    epochs=2, batch_size=16, eval_batch_size=32, ema_decay=0.9, checkpoint_every=4, clip_norm=0.5, accelerator="cpu", trackers=()
)
QUICK = PgdConfig(epsilon=2 / 255, num_steps=1)
ROBUST = AdversarialConfig(attack=QUICK, validation=RobustValidationConfig(max_images=8))
AUGMENT = AugmentConfig(shift=0.1, brightness=0.2)


@pytest.fixture
def config(synthetic_set, tmp_path):
    return TrainClassifierConfig(
        prepared=synthetic_set, run=tmp_path / "run", classifier=ClassifierConfig(width=2), augment=AUGMENT, trainer=TRAINER
    )


def weights(run: Path, name: str = "last"):
    stored = json.loads((run / "checkpoints" / f"{name}.json").read_text())
    return load_file(run / "checkpoints" / stored["weights"])


def assert_same_weights(one: Path, other: Path):
    for name in ("best", "last"):
        first, second = weights(one, name), weights(other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def without_seconds(run: Path):
    return pl.read_csv(run / "metrics.csv").drop("seconds").to_dict(as_series=False)


def test_a_run_leaves_everything_that_says_how_it_went(config, capsys):
    train_classifier(replace(config, trainer=replace(TRAINER, trackers=("tensorboard",))))
    shown = capsys.readouterr()
    names = {entry.name for entry in config.run.iterdir()}
    expected = {"run.json", "result.json", "metrics.csv", "curve.png", "state.pt", "checkpoints", "tensorboard", ".lock", ".begin"}
    assert names == expected
    metrics = pl.read_csv(config.run / "metrics.csv").to_dict(as_series=False)
    result = json.loads((config.run / "result.json").read_text())
    assert metrics["epoch"] == [1, 2]
    assert metrics["step"] == [6, 12]
    best = max(metrics["val_accuracy"])
    assert result["selected_value"] == best == result["val"]["accuracy"]
    assert result["epoch"] == metrics["val_accuracy"].index(best) + 1
    assert result["checkpoint"] == "checkpoints/best.json"
    assert result["ended_by"] == "epochs"
    assert str(config.run / "checkpoints" / "best.json") in shown.out
    assert "val accuracy" in shown.out
    assert "epoch 2/2: train_loss" in shown.err


def test_the_best_checkpoint_is_what_was_measured_and_says_where_it_comes_from(config):
    train_classifier(config)
    dataset = open_prepared(config.prepared)
    module, checkpoint = load_classifier(config.run, classes=dataset.classes)
    assert checkpoint.data_fingerprint == dataset.fingerprint
    assert checkpoint.mean_color == dataset.mean
    assert checkpoint.config == to_plain(config)
    assert checkpoint.step == 6 * checkpoint.epoch
    rows = dataset.indices("test")
    images = torch.from_numpy(dataset.images[rows]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        correct = (module(images).argmax(1) == torch.from_numpy(dataset.labels[rows])).float().mean().item()
    assert json.loads((config.run / "result.json").read_text())["test"]["accuracy"] == pytest.approx(correct)


@pytest.mark.slow
def test_a_segmenter_is_trained_and_a_classifier_through_it(synthetic_set, tmp_path):
    small = SegmenterConfig(decoder_channels=(8, 8, 8))
    one_epoch = replace(TRAINER, epochs=1, ema_decay=None)
    robust = TradesConfig(attack=QUICK, validation=RobustValidationConfig(max_images=4, attack=QUICK))
    train_segmenter(
        TrainSegmenterConfig(prepared=synthetic_set, run=tmp_path / "seg", segmenter=small, objective=robust, trainer=one_epoch)
    )
    columns = pl.read_csv(tmp_path / "seg" / "metrics.csv").columns
    assert {"val_iou", "val_robust_iou", "val_dice", "val_boundary_f"} <= set(columns)
    before = load_segmenter(tmp_path / "seg")[0].state_dict()
    classifier = TrainClassifierConfig(
        prepared=synthetic_set,
        run=tmp_path / "cls",
        classifier=ClassifierConfig(width=2),
        masks=MaskConfig(source=MaskSource.LEARNED_HARD),
        segmenter_run=tmp_path / "seg",
        objective=ROBUST,
        trainer=one_epoch,
    )
    train_classifier(classifier)
    result = json.loads((tmp_path / "cls" / "result.json").read_text())
    assert result["selected_by"] == "val_robust_accuracy"
    assert all(torch.equal(value, before[name]) for name, value in load_segmenter(tmp_path / "seg")[0].state_dict().items())
    shutil.copytree(tmp_path / "cls" / "checkpoints", tmp_path / "seg" / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match="this is a checkpoint of a classifier, expected one of a segmenter"):
        train_classifier(replace(classifier, run=tmp_path / "other"))


def test_mask_sources_and_segmenter_runs_have_to_fit(config):
    with pytest.raises(ValueError, match=r"masks\.source=frozen needs a segmenter: set segmenter_run"):
        replace(config, masks=MaskConfig(source=MaskSource.FROZEN))
    with pytest.raises(ValueError, match=r"masks\.source=none uses no segmenter: leave segmenter_run out"):
        replace(config, segmenter_run=Path("seg"))


def test_the_averaged_weights_are_what_is_saved(config):
    train_classifier(replace(config, trainer=replace(TRAINER, epochs=1)))
    state = torch.load(config.run / "state.pt", weights_only=True)
    saved = weights(config.run)
    assert all(torch.equal(value, state["average"][f"module.{name}"]) for name, value in saved.items())
    assert not all(torch.equal(value, state["module"][name]) for name, value in saved.items())


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        (NaturalConfig(), {"optimizer": "adamw"}),
        (ROBUST, {"optimizer": "sgd"}),
        pytest.param(ROBUST, {"attack_precision": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param(AwpConfig(of=ROBUST), {}, marks=pytest.mark.slow),
        pytest.param(TradesConfig(attack=QUICK, validation=ROBUST.validation), {}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(config, tmp_path, objective, changes, stopping):
    config = replace(config, objective=objective, trainer=replace(TRAINER, **changes))
    train_classifier(config)
    again = replace(config, run=tmp_path / "again")
    for steps in (3, 7, 5):  # before anything is saved, after an epoch, in the middle of one
        with pytest.raises(stopping.Stop):
            train_classifier(stopping.stopped_after(replace(again, resume=True), steps))
    train_classifier(replace(again, resume=True))
    assert_same_weights(config.run, again.run)
    assert without_seconds(config.run) == without_seconds(again.run)


@pytest.mark.slow
def test_a_collapse_ends_training_and_the_best_epoch_is_kept(config, capsys):
    class Ending(FastConfig):
        def collapsed(self, scores):
            return len(scores) == 1

    quick = Ending(epsilon=2 / 255, validation=RobustValidationConfig(max_images=8, attack=QUICK))
    train_classifier(replace(config, objective=quick))
    assert "the robust accuracy has collapsed: training ends, and the best epoch is kept" in capsys.readouterr().err
    assert pl.read_csv(config.run / "metrics.csv")["epoch"].to_list() == [1]
    result = json.loads((config.run / "result.json").read_text())
    assert (result["epoch"], result["epochs"], result["ended_by"]) == (1, 1, "guard")
    (config.run / "result.json").unlink()  # as if killed before it was written
    train_classifier(replace(config, objective=quick, resume=True))
    again = json.loads((config.run / "result.json").read_text())
    assert (again["epochs"], again["ended_by"], again["val"]) == (1, "guard", result["val"])


@pytest.mark.slow
def test_a_kill_between_the_writings_of_an_epochs_end_changes_nothing(config, monkeypatch, tmp_path, stopping):
    train_classifier(config)
    again = replace(config, run=tmp_path / "again", resume=True)
    for number in range(8):
        original, calls = os.replace, []

        def dying(source, target, calls=calls, number=number, original=original):
            original(source, target)
            calls.append(target)
            if len(calls) == number + 1:
                raise stopping.Stop

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            with suppress(stopping.Stop):
                train_classifier(again)
    assert len(calls) <= number, "every one of the last run's writings was a place to die"
    train_classifier(again)
    assert_same_weights(config.run, again.run)
    assert without_seconds(config.run) == without_seconds(again.run)


SCRIPT = """
import json, os, signal, sys
from dataclasses import replace
from pipeline.config import validate
from pipeline.training.commands import train_classifier
from pipeline.training.config import TrainClassifierConfig

config, left = validate(TrainClassifierConfig, json.loads(sys.argv[1])), [int(sys.argv[2])]
kind = type(config.objective)

class Killing(kind):
    def losses(self, stage, batch, seeds):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return kind.losses(self, stage, batch, seeds)

train_classifier(replace(config, objective=Killing(**vars(config.objective))))
"""


def run_and_kill(warm, config, *, step):
    process = warm.start([json.dumps(to_plain(config)), str(step)], script=SCRIPT)
    said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said


@pytest.mark.parametrize(
    ("objective", "step"),
    [
        (NaturalConfig(), 10),
        pytest.param(NaturalConfig(), 2, marks=pytest.mark.slow),
        pytest.param(NaturalConfig(), 6, marks=pytest.mark.slow),
        pytest.param(ROBUST, 5, marks=pytest.mark.slow),
        pytest.param(ROBUST, 11, marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_is_resumed_to_the_same_bits(config, warm, tmp_path, objective, step):
    config = replace(config, objective=objective)
    train_classifier(config)
    killed = replace(config, run=tmp_path / "killed")
    run_and_kill(warm, killed, step=step)
    assert not (killed.run / "result.json").exists()
    train_classifier(replace(killed, resume=True))
    assert_same_weights(config.run, killed.run)
    assert without_seconds(config.run) == without_seconds(killed.run)


def test_a_finished_run_says_so_and_changes_nothing(config, capsys):
    train_classifier(config)
    before = {path: path.read_bytes() for path in config.run.rglob("*") if path.is_file()}
    train_classifier(replace(config, resume=True))
    assert "the run is finished, so there is nothing to resume" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in config.run.rglob("*") if path.is_file()} == before


def test_resume_says_whether_it_found_a_run(config, capsys, stopping):
    with pytest.raises(stopping.Stop):
        train_classifier(stopping.stopped_after(replace(config, resume=True), 9))
    assert "holds no run, so a new one begins" in capsys.readouterr().err
    train_classifier(replace(config, resume=True))
    assert "resumed at step 8, 1 of 2 epochs done" in capsys.readouterr().err


def test_more_epochs_are_not_a_resume(config):
    train_classifier(config)
    with pytest.raises(RunError, match=r"was begun with trainer\.epochs=2, not 3"):
        train_classifier(replace(config, resume=True, trainer=replace(TRAINER, epochs=3)))


def test_a_full_disk_is_one_clear_line_and_costs_nothing_that_was_saved(config, monkeypatch):
    flush, flushed = os.fsync, []

    def full(descriptor):
        flushed.append(descriptor)
        if len(flushed) > 17:  # in the second epoch
            raise OSError(28, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            RunError, match=r"cannot be written: No space left on device; the last good checkpoint is .*last\.json$"
        ):
            train_classifier(config)
    assert read_checkpoint(config.run / "checkpoints" / "last.json", "classifier").epoch == 1
    load_classifier(config.run)
    train_classifier(replace(config, resume=True))
    assert read_checkpoint(config.run / "checkpoints" / "last.json", "classifier").epoch == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_directory_is_one_clear_line(config, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(RunError, match="cannot be made: Permission denied"):
        train_classifier(config)
    tmp_path.chmod(0o755)


def test_a_tracker_that_cannot_write_is_one_line_and_a_resume_goes_on(config, monkeypatch, capfd):
    """Tensorboard writes in a thread of its own, which printed a traceback of what it hands over."""
    lost = []

    def write_and_lose(path: Path, history: object) -> None:
        write_metrics(path, history)
        if not lost:
            lost.append(shutil.rmtree(path.parent / "tensorboard"))

    monkeypatch.setattr("pipeline.training.logging.write_metrics", write_and_lose)
    tracked = replace(config, trainer=replace(TRAINER, trackers=("tensorboard",)))
    with pytest.raises(RunError, match=r"run: cannot be written: No such file or directory"):
        train_classifier(tracked)
    assert "Traceback" not in capfd.readouterr().err
    train_classifier(replace(tracked, resume=True))
    train_classifier(replace(config, run=config.run.with_name("whole")))
    assert_same_weights(config.run, config.run.with_name("whole"))


class Spoiling(NaturalConfig):
    """Two losses of the ninth step are NaN."""

    steps = 0
    rows = ()

    def losses(self, stage, batch, seeds):
        losses = super().losses(stage, batch, seeds)
        if Spoiling.steps == 8:
            losses[[1, 3]] = float("nan")
            Spoiling.rows = batch.indices[[1, 3]].tolist()
        Spoiling.steps += 1
        return losses


def test_a_loss_that_is_not_finite_stops_before_it_spoils_a_weight(config):
    with pytest.raises(RunError) as raised:
        train_classifier(replace(config, objective=Spoiling()))
    ids = open_prepared(config.prepared).samples["sample_id"]
    line = str(raised.value)
    assert "step 8: the loss of 2 of 16 images is not finite" in line
    assert f"(samples {ids[Spoiling.rows[0]]}, {ids[Spoiling.rows[1]]})" in line
    assert line.endswith(f"the last good checkpoint is {config.run / 'checkpoints' / 'last.json'}")
    state = torch.load(config.run / "state.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["module"].values())


def scaled(factor):
    """Natural training on losses times a factor, which makes the steps as much larger."""

    class Scaled(NaturalConfig):
        def losses(self, stage, batch, seeds):
            return factor * super().losses(stage, batch, seeds)

    return Scaled()


WILD = replace(TRAINER, optimizer="sgd", lr=1000, clip_norm=None, schedule="constant", ema_decay=None)


@pytest.mark.parametrize("factor", [1e15, 1e30])
def test_a_diverging_run_stops_with_a_line_and_no_weights(config, factor):
    with pytest.raises(
        RunError, match=r"step \d+: the (loss of \d+ of 16 images|gradient) is not finite \(samples .*no checkpoint was written"
    ):
        train_classifier(replace(config, objective=scaled(factor), trainer=WILD))
    assert not (config.run / "checkpoints").exists()


def test_patience_ends_a_run_that_no_longer_gains(config):
    still = replace(TRAINER, epochs=9, patience=2, lr=1e-12, ema_decay=None)
    train_classifier(replace(config, trainer=still, augment=AugmentConfig()))
    metrics, result = pl.read_csv(config.run / "metrics.csv"), json.loads((config.run / "result.json").read_text())
    assert len(metrics["epoch"]) == result["epoch"] + 2 < 9
    assert result["ended_by"] == "patience"


def test_a_damaged_state_is_refused_by_name(config, stopping):
    with pytest.raises(stopping.Stop):
        train_classifier(stopping.stopped_after(config, 9))
    (config.run / "state.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"state\.pt: damaged"):
        train_classifier(replace(config, resume=True))


def test_training_leaves_the_global_generator_alone(config):
    torch.manual_seed(3)
    expected = torch.random.get_rng_state()
    train_classifier(replace(config, trainer=replace(TRAINER, epochs=1)))
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_mixed_precision_trains_float32_weights(config):
    train_classifier(replace(config, objective=ROBUST, trainer=replace(TRAINER, epochs=1, precision="bf16-mixed")))
    assert {value.dtype for value in weights(config.run).values() if value.is_floating_point()} == {torch.float32}


def test_what_cannot_be_is_refused_before_a_directory_is_made(config):
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"trainer\.accelerator=cuda, trainer\.devices=1: "):
            train_classifier(replace(config, trainer=replace(TRAINER, accelerator="cuda")))
    with pytest.raises(ConfigError, match=r"trainer\.batch_size: 16 images cannot be shared equally by 3 processes"):
        train_classifier(replace(config, trainer=replace(TRAINER, devices=3)))
    assert not config.run.exists()


def test_a_validation_loss_that_is_not_finite_stops_the_run_at_its_step(config):
    one_step = replace(WILD, epochs=3, batch_size=96)
    with pytest.raises(RunError, match=r"validation after step 1: the loss is (nan|inf); try a lower trainer\.lr"):
        train_classifier(replace(config, objective=scaled(1e15), trainer=one_step))
    assert not (config.run / "checkpoints").exists()
    assert not (config.run / "state.pt").exists()


def test_a_batch_that_batch_normalization_cannot_take_is_refused_before_there_is_a_directory(synthetic_set, tmp_path):
    deep = SegmenterConfig(encoder_depth=5, decoder_channels=(8, 8, 8, 8, 8))  # 32 px: one pixel at the bottom
    trainer = replace(TRAINER, epochs=1, batch_size=1)
    config = TrainSegmenterConfig(prepared=synthetic_set, run=tmp_path / "run", segmenter=deep, trainer=trainer)
    with pytest.raises(ConfigError, match=r"trainer\.batch_size: batch normalization cannot train on 1 image of 32 px at a time"):
        train_segmenter(config)
    assert not config.run.exists()
    train_segmenter(replace(config, trainer=replace(trainer, batch_size=96)))  # the same network takes more at a time
