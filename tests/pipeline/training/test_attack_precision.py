"""Attacks of training in bfloat16: nearly the same points, weights and update in float32."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.attacks.acceleration import FollowingCopies
from pipeline.attacks.config import PgdConfig
from pipeline.data.loader import Batch
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.system import attacked
from pipeline.training.joint import JointStages, bind_joint
from pipeline.training.objectives import AdversarialConfig
from pipeline.training.tasks import bind_classifier, bind_segmenter
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

ATTACK = PgdConfig(epsilon=8 / 255, step_size=4 / 255, num_steps=4)
SMALL = ClassifierConfig(width=4)
DEPTHWISE = ClassifierConfig(architecture="timm", name="tf_efficientnet_lite0")


def make_batch(size=4, side=32):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.rand(size, 3, side, side, generator=generator),
        masks=(torch.rand(size, 1, side, side, generator=generator) > 0.5).float(),
        labels=torch.randint(3, (size,), generator=generator),
        indices=torch.arange(size),
        seeds=torch.arange(size),
    )


def with_statistics(module: nn.Module) -> nn.Module:
    """After some batches, so that folding batch normalization changes something."""
    with torch.no_grad():
        for seed in range(3):
            module.train()(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    return module


def classifier_stage(config=SMALL, source=MaskSource.NONE):
    module = with_statistics(build_classifier(config, num_classes=3, seed=1))
    segmenter = with_statistics(build_segmenter(SegmenterConfig(decoder_channels=(8, 8, 8)), seed=1))
    return bind_classifier(module, masks=MaskConfig(source=source), segmenter=segmenter, mean_color=(0.5, 0.5, 0.5))


def segmenter_stage():
    return bind_segmenter(with_statistics(build_segmenter(SegmenterConfig(decoder_channels=(8, 8, 8)), seed=1)))


def in_bfloat16(stage):
    return replace(stage, copies=FollowingCopies(stage.network))


def joint_stage():
    segmenter = with_statistics(build_segmenter(SegmenterConfig(decoder_channels=(8, 8, 8)), seed=1))
    classifier = with_statistics(build_classifier(SMALL, num_classes=3, seed=1))
    stages = JointStages(segmenter, classifier, masks=MaskConfig(source=MaskSource.JOINT), mean_color=(0.5, 0.5, 0.5))
    return bind_joint(stages, num_classes=3, mask_weight=1.0)


STAGES = [
    joint_stage,
    classifier_stage,
    pytest.param(lambda: classifier_stage(DEPTHWISE), marks=pytest.mark.slow),
    lambda: classifier_stage(source=MaskSource.LEARNED),
    segmenter_stage,
]


@pytest.mark.parametrize("make_stage", STAGES)
def test_the_copy_says_what_the_network_says_and_follows_its_weights(make_stage):
    stage, batch = make_stage(), make_batch()
    copies, network = FollowingCopies(stage.network), stage.network
    for change in (1.0, -0.5):
        with torch.no_grad():
            for parameter in stage.module.parameters():
                parameter.mul_(change)
        context = stage.context(batch)
        with attacked(network), torch.no_grad():
            expected = stage.outputs(batch.images, context)
        fast = copies.latest(batch.images)
        with attacked(fast), torch.no_grad():
            found = fast(batch.images) if context is None else fast(batch.images, context)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
        assert not torch.equal(found, expected)


@pytest.mark.parametrize("make_stage", STAGES)
def test_points_are_nearly_as_bad_and_the_update_is_in_float32(make_stage):
    batch = make_batch()
    stage = make_stage()
    with attacked(stage.network), torch.no_grad():
        clean = stage.loss(stage.outputs(batch.images, stage.context(batch)), stage.targets(batch))
    losses = [AdversarialConfig(attack=ATTACK).losses(one, batch, batch.seeds) for one in (eval_mode(stage), in_bfloat16(stage))]
    exact, rounded = (one.detach() - clean for one in losses)
    assert (exact > 0).all()
    assert rounded.sum() >= 0.9 * exact.sum()
    losses[1].sum().backward()
    gradients = [parameter.grad for parameter in stage.module.parameters() if parameter.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert len(gradients) == sum(parameter.requires_grad for parameter in stage.module.parameters())


def eval_mode(stage):
    stage.network.eval()
    return stage


def test_the_network_is_left_as_it_was():
    stage, batch = classifier_stage(source=MaskSource.LEARNED), make_batch()
    stage.network.train()
    before = {name: value.clone() for name, value in stage.network.state_dict().items()}
    modes = [module.training for module in stage.network.modules()]
    fast = FollowingCopies(stage.network).latest(batch.images)
    assert all(torch.equal(value, before[name]) for name, value in stage.network.state_dict().items())
    assert [module.training for module in stage.network.modules()] == modes
    assert not any(module.training for module in fast.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
