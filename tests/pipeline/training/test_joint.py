"""Both stages in one training: gradients through both, losses against closed forms, and what the run is afterwards."""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from pipeline import load_system
from pipeline.attacks.config import PgdConfig
from pipeline.cli.composition import load_config
from pipeline.config import to_plain
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import Batch
from pipeline.errors import CheckpointError, RunError
from pipeline.evaluation.loading import load_from_runs
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.runs.checkpoints import load_classifier, load_segmenter, save_checkpoint
from pipeline.system import TwoStage
from pipeline.training.commands import train_joint
from pipeline.training.config import TrainClassifierConfig, TrainerConfig, TrainJointConfig
from pipeline.training.joint import JointStages, SeparatelyAttacked, bind_joint
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, RobustValidationConfig, TradesConfig

ROOT = Path(__file__).parents[3]
SIDE, CLASSES = 4, 3
QUICK = PgdConfig(epsilon=4 / 255, step_size=2 / 255, num_steps=2)
ROBUST = AdversarialConfig(attack=QUICK, validation=RobustValidationConfig(max_images=8))
TRADES = TradesConfig(attack=QUICK, beta=3.0, validation=RobustValidationConfig(max_images=8))
TRAINER = TrainerConfig(
    epochs=2, batch_size=32, eval_batch_size=32, ema_decay=0.9, checkpoint_every=2, accelerator="cpu", trackers=()
)


def smooth_stages(seed=0):
    """Two stages without a kink, in float64, so that finite differences are exact enough."""
    torch.manual_seed(seed)
    segmenter = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1))
    classifier = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, CLASSES))
    masks = MaskConfig(source=MaskSource.JOINT, fill="grey")
    return JointStages(segmenter, classifier, masks=masks, mean_color=(0.5, 0.5, 0.5)).double().train()


def make_batch(size=3):
    generator = torch.Generator().manual_seed(3)
    return Batch(
        images=torch.rand(size, 3, SIDE, SIDE, generator=generator, dtype=torch.float64),
        masks=torch.rand(size, 1, SIDE, SIDE, generator=generator, dtype=torch.float64),
        labels=torch.randint(CLASSES, (size,), generator=generator),
        indices=torch.arange(size),
        seeds=torch.arange(size),
    )


def bound(stages, **changes):
    return bind_joint(stages, **{"num_classes": CLASSES, "mask_weight": 0.7} | changes)


def by_hand(stages, images, batch, *, mask_weight=0.7, smoothing=0.0):
    """Cross-entropy of the masked image + weight * (BCE + Dice), from the definitions."""
    logits = stages.segmenter(images)
    mask = 1 / (1 + torch.exp(-logits))
    classes = stages.classifier(mask * images + (1 - mask) * 0.5)
    target = (1 - smoothing) * functional.one_hot(batch.labels, CLASSES) + smoothing / CLASSES
    of_classes = -(target * (classes - classes.exp().sum(1, keepdim=True).log())).sum(1)
    bce = -(batch.masks * mask.log() + (1 - batch.masks) * (1 - mask).log()).mean((1, 2, 3))
    overlap, total = torch.minimum(mask, batch.masks).sum((1, 2, 3)), (mask + batch.masks).sum((1, 2, 3))
    return of_classes, mask_weight * (bce + 1 - (2 * overlap + 1) / (total + 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_natural_loss_is_that_of_the_definition(smoothing):
    stages, batch = smooth_stages(), make_batch()
    found = NaturalConfig().losses(bound(stages, label_smoothing=smoothing), batch, batch.seeds)
    torch.testing.assert_close(found, sum(by_hand(stages, batch.images, batch, smoothing=smoothing)))


@pytest.mark.parametrize("objective", [NaturalConfig(), replace(TRADES, attack=replace(QUICK, epsilon=0.0))])
def test_gradients_of_both_stages_are_those_of_finite_differences(objective):
    stages, batch = smooth_stages(), make_batch()
    parameters = [*stages.segmenter.parameters(), *stages.classifier.parameters()]
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in stages.parameters()}

    def loss():
        return objective.losses(bound(stages), batch, batch.seeds).sum()

    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert gradient.abs().max() > 1e-6
        for place in (0, parameter.numel() // 2, parameter.numel() - 1):
            value, step = parameter.data.view(-1)[place].item(), 1e-5
            ends = []
            for moved in (value + step, value - step):
                parameter.data.view(-1)[place] = moved
                ends.append(loss().item())
            parameter.data.view(-1)[place] = value
            assert gradient.view(-1)[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_the_images_gradient_goes_through_the_mask_and_the_pixels():
    stages, batch = smooth_stages(), make_batch()
    stage = bound(stages)
    assert torch.autograd.gradcheck(
        lambda images: stage.loss(stage.outputs(images, None), stage.targets(batch)), batch.images.requires_grad_()
    )


def points_seen(stages):
    """The images that the segmenter sees in train mode: those that are trained on."""
    seen = []
    stages.segmenter.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()) if module.training else None)
    return seen


def test_adversarial_training_is_the_whole_loss_at_one_attacked_image():
    stages, batch = smooth_stages(), make_batch()
    seen = points_seen(stages)
    found = ROBUST.losses(bound(stages), batch, batch.seeds)
    (points,) = seen
    assert 0 < (points - batch.images).abs().max() <= QUICK.epsilon
    torch.testing.assert_close(found, sum(by_hand(stages, points, batch)))
    assert (found > NaturalConfig().losses(bound(stages), batch, batch.seeds)).all()


def test_each_loss_can_have_an_attack_of_its_own():
    stages, batch = smooth_stages(), make_batch()
    seen = points_seen(stages)
    separate = SeparatelyAttacked(ROBUST, num_classes=CLASSES, mask_weight=0.7)
    found = separate.losses(bound(stages), batch, batch.seeds)
    for_classes, for_masks = seen
    assert not torch.equal(for_classes, for_masks)
    of_classes, own_of_masks = by_hand(stages, for_classes, batch)
    other_of_classes, of_masks = by_hand(stages, for_masks, batch)
    torch.testing.assert_close(found, of_classes + of_masks)
    assert (of_classes > other_of_classes).all()  # each point is worse for the loss that it was made for
    assert (of_masks > own_of_masks).all()
    assert separate.validation_attack() == ROBUST.validation_attack()


def test_trades_holds_classes_and_masks_close():
    stages, batch = smooth_stages(), make_batch()
    seen = points_seen(stages)
    found = TRADES.losses(bound(stages), batch, batch.seeds)
    clean, points = seen
    assert torch.equal(clean, batch.images)

    def outputs(images):
        logits = stages.segmenter(images)
        mask = logits.sigmoid()
        return stages.classifier(mask * images + (1 - mask) * 0.5).softmax(1), mask

    (p, m), (q, n) = outputs(batch.images), outputs(points)
    of_classes = (p * (p / q).log()).sum(1)
    of_masks = (m * (m / n).log() + (1 - m) * ((1 - m) / (1 - n)).log()).mean((1, 2, 3))
    torch.testing.assert_close(found, sum(by_hand(stages, batch.images, batch)) + 3 * (of_classes + 0.7 * of_masks))


def test_the_system_in_training_is_the_system_that_is_attacked():
    stages, batch = smooth_stages(), make_batch()
    outputs = stages.eval()(batch.images)
    system = TwoStage(stages.classifier, segmenter=stages.segmenter, masks="learned", fill="grey")
    assert torch.equal(outputs[:, :CLASSES], system(batch.images))
    assert torch.equal(outputs[:, CLASSES:], system.mask_logits(batch.images).flatten(1))


def test_masks_that_do_not_follow_the_image_are_refused():
    stages = smooth_stages()
    with pytest.raises(ValueError, match="'oracle' do not follow the image: there is nothing to train"):
        JointStages(stages.segmenter, stages.classifier, masks=MaskConfig(source="oracle"), mean_color=(0, 0, 0))


def test_joint_masks_are_made_by_joint_training_alone():
    with pytest.raises(
        ValueError, match=r"masks\.source=joint means a segmenter that is trained too: that is foreguard train-joint"
    ):
        TrainClassifierConfig(prepared=Path("x"), run=Path("y"), masks=MaskConfig(source="joint"), segmenter_run=Path("z"))


@pytest.fixture
def config(runs, synthetic_set, tmp_path):
    return TrainJointConfig(
        prepared=synthetic_set,
        run=tmp_path / "joint",
        segmenter_run=runs / "segmenter",
        classifier_run=runs / "classifier",
        objective=ROBUST,
        trainer=TRAINER,
    )


def weights(run, stage, name="last"):
    folder = run / stage / "checkpoints"
    return load_file(folder / json.loads((folder / f"{name}.json").read_text())["weights"])


def assert_same_outcome(one, other):
    for stage in ("segmenter", "classifier"):
        for name in ("best", "last"):
            first, second = weights(one, stage, name), weights(other, stage, name)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first)
    first, second = (pl.read_csv(run / "metrics.csv").drop("seconds") for run in (one, other))
    assert first.equals(second)


@pytest.mark.slow
def test_a_joint_run_stands_for_both_of_its_stages(config, runs, capsys):
    train_joint(replace(config, trainer=replace(TRAINER, epochs=1)))
    assert str(config.run / "classifier" / "checkpoints" / "best.json") in capsys.readouterr().out
    result = json.loads((config.run / "result.json").read_text())
    assert result["checkpoint"] == "classifier/checkpoints/best.json"
    assert result["selected_by"] == "val_robust_accuracy"
    assert result["test"].keys() == {"loss", "accuracy", "iou"}
    dataset = open_prepared(config.prepared)
    images = torch.from_numpy(dataset.images[dataset.indices("test")]).permute(0, 3, 1, 2).float() / 255
    trained = {}
    for name, given in {
        "both": (config.run, config.run),
        "one": (config.run, None),
        "folders": tuple(config.run / kind for kind in ("classifier", "segmenter")),
    }.items():
        loaded = load_from_runs(
            classifier_run=given[0],
            segmenter_run=given[1],
            masks={},
            dataset=dataset,
            allow_other_data=False,
            device=torch.device("cpu"),
        )
        assert loaded.masks == MaskConfig(source=MaskSource.JOINT, fill="black")  # the fill of the classifier that it began with
        trained[name] = loaded.system(images)
    assert torch.equal(trained["both"], trained["one"])
    assert torch.equal(trained["both"], trained["folders"])
    torch.testing.assert_close(load_system(config.run)(images), trained["both"])
    right = (trained["both"].argmax(1) == torch.from_numpy(dataset.labels[dataset.indices("test")])).float().mean().item()
    assert result["test"]["accuracy"] == pytest.approx(right)
    for load, stage in ((load_segmenter, "segmenter"), (load_classifier, "classifier")):
        before, after = load(runs / stage)[0].state_dict(), load(config.run)[0].state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"updates": "alternating"}, marks=pytest.mark.slow),
        pytest.param({"attack_on": "each", "objective": TRADES}, marks=pytest.mark.slow),
        pytest.param({"trainer": replace(TRAINER, attack_precision="bfloat16")}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(config, tmp_path, monkeypatch, changes):
    config = replace(config, **changes)
    train_joint(config)
    again = replace(config, run=tmp_path / "again", resume=True)
    original = type(config.objective).losses
    for steps in (1, 3):  # in the middle of the first epoch, and of the second
        left = [steps]

        def losses(self, stage, batch, seeds, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return original(self, stage, batch, seeds)

        with monkeypatch.context() as patch:
            patch.setattr(type(config.objective), "losses", losses)
            with pytest.raises(KeyboardInterrupt):
                train_joint(again)
    train_joint(again)
    assert_same_outcome(config.run, again.run)


class Killed(BaseException):
    """The process ends here: unlike an interruption, nothing saves the state on its way out."""


@pytest.mark.slow
def test_a_kill_between_the_writings_of_an_epochs_end_changes_nothing(config, monkeypatch, tmp_path):
    """Two checkpoints are written where a training of one stage writes one."""
    config = replace(config, objective=NaturalConfig(), trainer=replace(TRAINER, epochs=1))
    train_joint(config)
    again = replace(config, run=tmp_path / "again", resume=True)
    original, places = os.replace, []
    for number in range(14):
        calls = []

        def dying(source, target, calls=calls, number=number):
            original(source, target)
            calls.append(target)
            if len(calls) == number + 1:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            with suppress(Killed):
                train_joint(again)
        places += [Path(target).name for target in calls[number : number + 1]]
        if (again.run / "result.json").exists():
            break
    assert {"best.json", "last.json", "state.pt"} <= set(places)
    assert_same_outcome(config.run, again.run)


def test_alternating_steps_update_one_stage_each(config, runs):
    config = replace(
        config, updates="alternating", objective=NaturalConfig(), trainer=replace(TRAINER, epochs=1, ema_decay=None, batch_size=96)
    )
    train_joint(config)  # one step: the segmenter's
    moved = {}
    for load, stage in ((load_segmenter, "segmenter"), (load_classifier, "classifier")):
        before, after = dict(load(runs / stage)[0].named_parameters()), dict(load(config.run)[0].named_parameters())
        moved[stage] = any(not torch.equal(before[name], after[name]) for name in before)
    assert moved == {"segmenter": True, "classifier": False}


def test_other_kinds_and_other_data_are_refused(config, runs, tmp_path):
    with pytest.raises(CheckpointError, match="this is a checkpoint of a segmenter, expected one of a classifier"):
        train_joint(replace(config, classifier_run=runs / "segmenter"))
    foreign = tmp_path / "foreign"
    module, checkpoint = load_segmenter(runs / "segmenter")
    save_checkpoint(foreign / "checkpoints", "best", replace(checkpoint, data_fingerprint="another"), module.state_dict())
    with pytest.raises(CheckpointError, match="was trained on other data than"):
        train_joint(replace(config, segmenter_run=foreign))


@pytest.mark.slow
def test_a_run_is_continued_as_what_it_was_begun_as(config):
    train_joint(replace(config, trainer=replace(TRAINER, epochs=1), objective=NaturalConfig()))
    with pytest.raises(RunError, match='was begun with updates="together", not "alternating"'):
        train_joint(
            replace(config, resume=True, trainer=replace(TRAINER, epochs=1), objective=NaturalConfig(), updates="alternating")
        )


def test_the_shipped_configuration_is_valid():
    words = [
        "prepared=data",
        "run=runs/joint",
        "segmenter_run=a",
        "classifier_run=b",
        "objective=trades",
        "trainer=gpu",
        "masks.fill=mean",
    ]
    config = load_config("train-joint", TrainJointConfig, words)
    assert config.masks == {"fill": "mean"}
    assert config.objective.name == "trades"
    assert json.loads(json.dumps(to_plain(config)))["attack_on"] == "sum"
