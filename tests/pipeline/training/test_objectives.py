"""Objectives on a linear stage, where the inner maximum is known in closed form, and on both real stages."""

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.attacks.config import PgdConfig
from pipeline.data.loader import Batch
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.training.config import ObjectiveConfig
from pipeline.training.losses import worst_case_images
from pipeline.training.objectives import AdversarialConfig, NaturalConfig, TradesConfig
from pipeline.training.tasks import BoundStage, bind_classifier, bind_segmenter
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

SIZE = 16
ATTACK = PgdConfig(epsilon=8 / 255, step_size=4 / 255, num_steps=6)  # long enough to cross the ball from any start


def make_batch(size=4, seed=0, side=SIZE):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        images=0.25 + 0.5 * torch.rand(size, 3, side, side, generator=generator),  # no pixel within epsilon of 0 or 1
        masks=(torch.rand(size, 1, side, side, generator=generator) > 0.5).float(),
        labels=torch.randint(3, (size,), generator=generator),
        indices=torch.arange(size),
        seeds=torch.randint(2**62, (size,), generator=generator),
    )


def natural(stage, batch):
    return NaturalConfig().losses(stage, batch, batch.seeds)


def adversarial(stage, batch, *, attack, seeds):
    return AdversarialConfig(attack=attack).losses(stage, batch, seeds)


def trades(stage, batch, *, attack, beta, seeds):
    return TradesConfig(attack=attack, beta=beta).losses(stage, batch, seeds)


class Linear(nn.Module):
    """One number per image: <w, x> + b."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * SIZE * SIZE, 1)
        nn.init.normal_(self.layer.weight, std=0.1, generator=torch.Generator().manual_seed(5))

    def forward(self, images):
        return self.layer(images.flatten(1))


def sides(batch):
    """Labels as -1 and +1."""
    return (2 * (batch.labels % 2) - 1).float()


def linear_stage(**changes):
    module = Linear()
    stage = BoundStage(
        module=module,
        network=module,
        targets=sides,
        context=lambda _: None,
        loss=lambda outputs, sides: functional.softplus(-sides * outputs[:, 0]),
        divergence=lambda outputs, reference: (outputs - reference)[:, 0].square(),
        scores={"accuracy": lambda outputs, sides: (sides * outputs[:, 0] > 0).float()},
    )
    return replace(stage, **changes)


def reach(stage):
    """How far an attack in the ball can move the output of the linear stage: epsilon times the dual norm of w."""
    return ATTACK.epsilon * stage.module.layer.weight.abs().sum()


def margins(stage, batch):
    return sides(batch) * stage.module(batch.images)[:, 0]


def test_natural_loss_is_the_loss():
    stage, batch = linear_stage(), make_batch()
    torch.testing.assert_close(natural(stage, batch), functional.softplus(-margins(stage, batch)))


def test_adversarial_loss_of_a_linear_stage_is_that_at_the_corner_of_the_ball():
    stage, batch = linear_stage(), make_batch()
    expected = functional.softplus(-(margins(stage, batch) - reach(stage)))
    torch.testing.assert_close(adversarial(stage, batch, attack=ATTACK, seeds=batch.seeds), expected, rtol=1e-4, atol=1e-5)


def test_trades_loss_of_a_linear_stage_is_clean_loss_plus_the_largest_divergence():
    stage, batch = linear_stage(), make_batch()
    expected = functional.softplus(-margins(stage, batch)) + 3 * reach(stage).square()
    found = trades(stage, batch, attack=ATTACK, beta=3.0, seeds=batch.seeds)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_trades_without_weight_is_natural_training():
    stage, batch = linear_stage(), make_batch()
    torch.testing.assert_close(trades(stage, batch, attack=ATTACK, beta=0.0, seeds=batch.seeds), natural(stage, batch))


def test_epsilon_zero_is_natural_training():
    stage, batch = linear_stage(), make_batch()
    nothing = replace(ATTACK, epsilon=0.0)
    assert torch.equal(adversarial(stage, batch, attack=nothing, seeds=batch.seeds), natural(stage, batch))
    assert torch.equal(trades(stage, batch, attack=nothing, beta=6.0, seeds=batch.seeds), natural(stage, batch))


def test_the_gradient_of_adversarial_training_is_that_at_the_attacked_image():
    """Danskin: the gradient of the inner maximum is the gradient of the loss at the maximiser, which here is known."""
    stage, batch = linear_stage(), make_batch()
    adversarial(stage, batch, attack=ATTACK, seeds=batch.seeds).sum().backward()
    weight = stage.module.layer.weight.detach()
    corners = batch.images - ATTACK.epsilon * sides(batch).view(-1, 1, 1, 1) * weight.sign().view(1, 3, SIZE, SIZE)
    slopes = -sides(batch) * torch.sigmoid(-(margins(stage, batch) - reach(stage)))
    expected = (slopes[:, None] * corners.flatten(1)).sum(0, keepdim=True)
    torch.testing.assert_close(stage.module.layer.weight.grad, expected.detach(), rtol=1e-4, atol=1e-5)


def segmenter_stage():
    return bind_segmenter(build_segmenter(SegmenterConfig(decoder_channels=(8, 8, 8)), seed=1))


def classifier_stage(source=MaskSource.LEARNED):
    segmenter = build_segmenter(SegmenterConfig(decoder_channels=(8, 8, 8)), seed=1)
    module = build_classifier(ClassifierConfig(width=2), num_classes=3, seed=2)
    return bind_classifier(module, masks=MaskConfig(source=source), segmenter=segmenter, mean_color=(0.5, 0.5, 0.5))


STAGES = [segmenter_stage, classifier_stage]
ROBUST = [AdversarialConfig(attack=replace(ATTACK, num_steps=2)), TradesConfig(attack=replace(ATTACK, num_steps=2))]


class Calls:
    """What the trained module saw, call by call."""

    def __init__(self, stage):
        self.inputs, self.modes, self.frozen, self.types = [], [], [], []
        stage.module.register_forward_hook(self.note)

    def note(self, module, arguments, output):
        self.inputs.append(arguments[0].detach())
        self.modes.append(module.training)
        self.frozen.append(not any(parameter.requires_grad for parameter in module.parameters()))
        self.types.append(output.dtype)


@pytest.mark.parametrize("make_stage", STAGES)
@pytest.mark.parametrize("config", ROBUST)
def test_the_attack_leaves_no_trace_in_the_stage(make_stage, config):
    stage, batch = make_stage(), make_batch()
    stage.network.train()
    modes = {name: module.training for name, module in stage.network.named_modules()}
    trained = {name: parameter.requires_grad for name, parameter in stage.network.named_parameters()}
    calls = Calls(stage)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = config.losses(stage, batch, batch.seeds)
    assert losses.shape == (len(batch),)
    num_attacked = 2 if config.name == "adversarial" else 3  # TRADES looks at the clean outputs first
    num_trained = 1 if config.name == "adversarial" else 2
    assert calls.modes == [False] * num_attacked + [True] * num_trained
    assert calls.frozen == [True] * num_attacked + [False] * num_trained
    assert calls.types == [torch.float32] * num_attacked + [torch.bfloat16] * num_trained
    assert {name: module.training for name, module in stage.network.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in stage.network.named_parameters()} == trained
    assert all(parameter.grad is None for parameter in stage.network.parameters())
    counts = {int(value) for name, value in stage.module.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {num_trained}


@pytest.mark.parametrize("make_stage", STAGES)
@pytest.mark.parametrize("config", ROBUST)
def test_only_the_trained_module_gets_a_gradient(make_stage, config):
    stage, batch = make_stage(), make_batch()
    stage.network.train()
    config.losses(stage, batch, batch.seeds).mean().backward()
    own = {id(parameter) for parameter in stage.module.parameters()}
    for parameter in stage.network.parameters():
        assert (parameter.grad is not None) == (id(parameter) in own)


def test_a_segmenter_is_trained_on_points_of_the_ball():
    stage, batch = segmenter_stage(), make_batch()
    calls = Calls(stage)
    adversarial(stage, batch, attack=ATTACK, seeds=batch.seeds)
    distance = (calls.inputs[-1] - batch.images).abs().amax(dim=(1, 2, 3))
    assert (distance <= ATTACK.epsilon).all()
    assert (distance > 0.9 * ATTACK.epsilon).all()


@pytest.mark.parametrize("config", ROBUST)
def test_what_an_image_becomes_does_not_depend_on_its_batch(config):
    stage, batch = linear_stage(), make_batch(6)
    one_step = replace(config, attack=PgdConfig(epsilon=8 / 255, step_size=1 / 255, num_steps=1))  # the start still shows
    whole = one_step.losses(stage, batch, batch.seeds)
    parts = [batch[chosen] for chosen in (slice(0, 1), slice(1, 6))]
    found = torch.cat([one_step.losses(stage, some, some.seeds) for some in parts])
    torch.testing.assert_close(found, whole)
    other = one_step.losses(stage, batch, batch.seeds + 1)
    assert not torch.allclose(other, whole)


@pytest.mark.parametrize(
    ("source", "follows"), [(MaskSource.LEARNED, True), (MaskSource.FROZEN, False), (MaskSource.ORACLE, False)]
)
def test_only_a_learned_mask_follows_the_attack(source, follows):
    """The mask is recovered from what the classifier saw: where it is m, the image is m * x + (1 - m) * 0.5."""
    stage, batch = classifier_stage(source), make_batch()
    calls, points = Calls(stage), []
    stage.network.register_forward_pre_hook(lambda _, arguments: points.append(arguments[0].detach()))
    adversarial(stage, batch, attack=ATTACK, seeds=batch.seeds)
    clean = stage.network.masks(batch.images, stage.context(batch))
    shown = clean * points[-1] + (1 - clean) * 0.5
    assert torch.allclose(calls.inputs[-1], shown, atol=1e-6) != follows


def test_the_frozen_segmenter_keeps_its_statistics():
    stage, batch = classifier_stage(), make_batch()
    stage.network.train()
    before = {name: value.clone() for name, value in stage.network.segmenter.state_dict().items()}
    adversarial(stage, batch, attack=ATTACK, seeds=batch.seeds).mean().backward()
    assert all(torch.equal(value, before[name]) for name, value in stage.network.segmenter.state_dict().items())


def test_the_worst_point_of_a_linear_stage_is_the_corner_of_the_ball():
    stage, batch = linear_stage(), make_batch()
    points = worst_case_images(stage, batch, attack=ATTACK, seeds=batch.seeds)
    found = sides(batch) * stage.module(points)[:, 0]
    torch.testing.assert_close(found, margins(stage, batch) - reach(stage), rtol=1e-4, atol=1e-5)


def test_label_smoothing_is_that_of_the_definition():
    module = build_classifier(ClassifierConfig(width=2), num_classes=3, seed=2)
    stage = bind_classifier(
        module, masks=MaskConfig(source=MaskSource.NONE), segmenter=None, mean_color=(0, 0, 0), label_smoothing=0.3
    )
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    target = 0.7 * functional.one_hot(labels, 3) + 0.1
    torch.testing.assert_close(stage.loss(logits, labels), -(target * logits.log_softmax(1)).sum(1))


def test_an_objective_is_chosen_by_its_name_and_typos_are_errors():
    adapter = TypeAdapter(ObjectiveConfig)
    assert adapter.validate_python({"name": "natural"}) == NaturalConfig()
    assert adapter.validate_python({"name": "trades", "beta": 1, "attack": {"epsilon": "4/255"}}).attack.epsilon == 4 / 255
    with pytest.raises(ValidationError, match="beta"):
        adapter.validate_python({"name": "adversarial", "beta": 1})
    with pytest.raises(ValidationError, match="restarts is 2: training takes the last point of one start"):
        adapter.validate_python({"name": "adversarial", "attack": {"restarts": 2}})
