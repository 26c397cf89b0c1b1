"""Recipes of robust training against their papers' formulas, computed here from the definitions."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.attacks.config import PgdConfig
from pipeline.cli.composition import load_config
from pipeline.data.loader import Batch
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.training.awp import AwpConfig
from pipeline.training.config import TrainClassifierConfig, TrainJointConfig, TrainSegmenterConfig
from pipeline.training.joint import JointStages, bind_joint
from pipeline.training.objectives import AdversarialConfig, FastConfig, MartConfig, NoiseConfig, TradesConfig
from pipeline.training.tasks import bind_classifier, bind_segmenter

SIDE, CLASSES, EPSILON = 6, 3, 8 / 255
ATTACK = PgdConfig(epsilon=EPSILON, step_size=4 / 255, num_steps=3)


def make_batch(size=5):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.rand(size, 3, SIDE, SIDE, generator=generator),
        masks=(torch.rand(size, 1, SIDE, SIDE, generator=generator) > 0.5).float(),
        labels=torch.randint(CLASSES, (size,), generator=generator),
        indices=torch.arange(size),
        seeds=torch.arange(size),
    )


def network(outputs=CLASSES):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, outputs))


def classifier_stage():
    return bind_classifier(network(), masks=MaskConfig(source=MaskSource.NONE), segmenter=None, mean_color=(0.5, 0.5, 0.5))


def segmenter():
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 1))


def joint_stage():
    stages = JointStages(segmenter(), network(), masks=MaskConfig(source=MaskSource.JOINT), mean_color=(0.5, 0.5, 0.5))
    return bind_joint(stages.train(), num_classes=CLASSES, mask_weight=0.5)


def sign_of_gradient(stage, batch, points):
    """Of the stage's loss in the images, in eval mode, by autograd."""
    points = points.clone().requires_grad_()
    stage.network.eval()
    loss = stage.loss(stage.outputs(points, stage.context(batch)), stage.targets(batch)).sum()
    stage.network.train()
    return torch.autograd.grad(loss, points)[0].sign()


@pytest.mark.parametrize("make_stage", [classifier_stage, lambda: bind_segmenter(segmenter()), joint_stage])
def test_fast_training_takes_one_step_of_five_quarters_epsilon_from_a_random_start(make_stage):
    stage, batch = make_stage(), make_batch()
    starts = {}
    for config in (FastConfig(), FastConfig(noise=2, step=1, clip=False)):
        still = replace(config, step=0, clip=False)
        start = still.points(stage, batch, batch.seeds)
        reach = (start - batch.images).abs()
        assert reach.max() <= config.noise * EPSILON * (1 + 1e-5)
        assert reach.max() > 0.9 * config.noise * EPSILON
        expected = start + config.step * EPSILON * sign_of_gradient(stage, batch, start)
        if config.clip:
            expected = batch.images + (expected - batch.images).clamp(-EPSILON, EPSILON)
        starts[config.clip] = config.points(stage, batch, batch.seeds)
        torch.testing.assert_close(starts[config.clip], expected.clamp(0, 1))
    assert (starts[True] - batch.images).abs().max() <= EPSILON
    assert (starts[False] - batch.images).abs().max() > 2 * EPSILON  # N-FGSM leaves the ball


def test_fast_training_ends_when_robustness_collapses():
    guarded = FastConfig(guard=0.5)
    assert not guarded.collapsed([])
    assert not guarded.collapsed([0.08, 0.03])  # one bad epoch is no collapse
    assert not guarded.collapsed([0.2, 0.5, 0.24, 0.25])
    assert guarded.collapsed([0.2, 0.5, 0.24, 0.2])
    assert guarded.collapsed([0.5, 0.0, 0.0])
    assert not FastConfig(guard=0).collapsed([0.5, 0.0, 0.0])
    attack, _ = guarded.validation_attack()
    assert (attack.epsilon, attack.num_steps) == (EPSILON, 10)  # a single step would see nothing


def test_mart_is_the_formula_of_the_paper():
    stage, batch = classifier_stage(), make_batch()
    config = MartConfig(attack=ATTACK, weight=4)
    points = config.points(stage, batch, batch.seeds)
    assert torch.equal(points, AdversarialConfig(attack=ATTACK).points(stage, batch, batch.seeds))
    p = stage.training_outputs(batch.images, stage.context(batch)).softmax(1)
    q = stage.training_outputs(points, stage.context(batch)).softmax(1)
    expected = []
    for image, label in enumerate(batch.labels.tolist()):
        wrong = max(q[image, k].item() for k in range(CLASSES) if k != label)
        bce = -q[image, label].log() - torch.log(torch.tensor(1 - wrong))
        kl = (p[image] * (p[image] / q[image]).log()).sum()
        expected.append(bce + 4 * kl * (1 - p[image, label]))
    torch.testing.assert_close(config.losses_at(stage, batch, points), torch.stack(expected))


def test_the_boosted_loss_stays_finite_where_the_classifier_is_sure_and_wrong():
    stage = classifier_stage()
    logits, labels = torch.tensor([[0.0, 60.0, 0.0], [60.0, 0.0, 0.0]]), torch.tensor([0, 0])
    losses = stage.boosted_loss(logits, labels)
    torch.testing.assert_close(losses[0], torch.tensor(60.0 + 60.0 - math.log(2)), rtol=1e-5, atol=1e-4)
    assert losses[1] == pytest.approx(0, abs=1e-6)


def test_mart_of_both_stages_boosts_the_classes_and_keeps_the_mask_loss():
    stage, batch = joint_stage(), make_batch()
    points = batch.images
    outputs = stage.training_outputs(points, stage.context(batch))
    classes, masks = outputs[:, :CLASSES], outputs[:, CLASSES:].view(-1, 1, SIDE, SIDE)
    alone, segmenting = classifier_stage(), bind_segmenter(segmenter())
    expected = alone.boosted_loss(classes, batch.labels) + 0.5 * segmenting.loss(masks, batch.masks)
    torch.testing.assert_close(MartConfig(attack=ATTACK).losses_at(stage, batch, points), expected)  # no divergence without attack


@pytest.mark.parametrize("make_stage", [classifier_stage, lambda: bind_segmenter(segmenter()), joint_stage])
@pytest.mark.parametrize("of", [AdversarialConfig(attack=ATTACK), TradesConfig(attack=ATTACK, beta=2)])
def test_awp_takes_the_gradient_at_weights_that_are_moved_layer_by_layer(make_stage, of):
    stage, batch, gamma = make_stage(), make_batch(), 0.05
    config = AwpConfig(gamma=gamma, of=of)
    stage.network.train()
    before = {name: value.clone() for name, value in stage.network.state_dict().items()}
    with config.losses_in_step(stage, batch, batch.seeds) as losses:
        losses.mean().backward()
    found = {name: parameter.grad.clone() for name, parameter in stage.network.named_parameters()}
    for name, parameter in stage.network.named_parameters():
        assert torch.equal(parameter, before[name])  # put back to the bit

    twin = make_stage()  # the same from the definition: points at the weights, then w + gamma |w| / |g| g
    twin.network.train()
    points = of.points(twin, batch, batch.seeds)
    weights = dict(twin.network.named_parameters())
    gradients = dict(
        zip(weights, torch.autograd.grad(of.losses_at(twin, batch, points).mean(), list(weights.values())), strict=True)
    )
    with torch.no_grad():
        for name, weight in weights.items():
            if weight.ndim > 1:
                moved = gamma * weight.norm() / gradients[name].norm() * gradients[name]
                assert moved.norm() == pytest.approx(gamma * weight.norm().item(), rel=1e-4)
                weight.add_(moved)
    at_the_points = of.losses_at(twin, batch, points)
    assert at_the_points.mean() > of.losses_at(make_stage(), batch, points).mean()
    at_the_points.mean().backward()
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_awp_forgets_the_batch_statistics_of_its_search():
    stage, batch = classifier_stage(), make_batch()
    stage.network.train()
    with AwpConfig(of=AdversarialConfig(attack=ATTACK)).losses_in_step(stage, batch, batch.seeds):
        pass
    assert int(stage.module[1].num_batches_tracked) == 1


def test_noise_training_is_the_loss_on_unclipped_gaussian_noise():
    stage, batch = classifier_stage(), make_batch(64)
    config = NoiseConfig(deviation=0.5)
    points = config.points(stage, batch, batch.seeds)
    noise = (points - batch.images) / 0.5
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert points.min() < 0
    assert torch.equal(config.points(stage, batch[3:4], batch.seeds[3:4]), points[3:4])  # the image's, not the batch's
    expected = functional.cross_entropy(stage.network(points, stage.context(batch)), batch.labels, reduction="none")
    torch.testing.assert_close(config.losses(stage, batch, batch.seeds), expected)


@pytest.mark.parametrize("objective", ["fast", "n_fgsm", "mart", "awp", "noise"])
def test_every_recipe_has_its_yaml(objective):
    words = ["prepared=data", "run=runs/one", f"objective={objective}"]
    config = load_config("train-classifier", TrainClassifierConfig, words).objective
    expected = {"fast": FastConfig(), "n_fgsm": FastConfig(noise=2, step=1, clip=False), "noise": NoiseConfig()}
    expected |= {"mart": MartConfig(attack=PgdConfig(step_size=2 / 255, num_steps=10))}
    expected |= {"awp": AwpConfig(of=AdversarialConfig(attack=PgdConfig(step_size=2 / 255, num_steps=7)))}
    assert config == expected[objective]


def test_labels_are_not_smoothed_for_mart():
    for objective in (MartConfig(), AwpConfig(of=MartConfig())):
        line = rf"label_smoothing: the loss of objective={objective.name} knows none"
        with pytest.raises(ValueError, match=line):
            TrainClassifierConfig(prepared="data", run="run", objective=objective, label_smoothing=0.1)
        both = {"prepared": "data", "run": "run", "segmenter_run": "a", "classifier_run": "b"}
        with pytest.raises(ValueError, match=line):
            TrainJointConfig(**both, objective=objective, label_smoothing=0.1)
        assert TrainJointConfig(**both, objective=objective).label_smoothing == 0


def test_what_is_of_classes_is_refused_for_a_segmenter():
    for objective in (MartConfig(), AwpConfig(of=MartConfig())):
        with pytest.raises(ValueError, match=rf"objective={objective.name}: its losses are of classes"):
            TrainSegmenterConfig(prepared="data", run="run", objective=objective)
    with pytest.raises(ValueError, match="attack_on=each: objective=awp has one loss for both stages"):
        TrainJointConfig(prepared="data", run="run", segmenter_run="a", classifier_run="b", attack_on="each", objective=AwpConfig())
