"""What is measured between epochs, against closed forms on a linear stage."""

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import nn

from pipeline.attacks.config import PgdConfig
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import Loader
from pipeline.training.tasks import BoundStage
from pipeline.training.validation import measure

ATTACK = PgdConfig(epsilon=2 / 255, num_steps=4)


class Linear(nn.Module):
    """The difference between the means of two channels, which an attack moves by twice its epsilon."""

    def forward(self, images):
        return (images[:, 0] - images[:, 1]).mean(dim=(1, 2))


@pytest.fixture(scope="module")
def stage():
    network = Linear()
    return BoundStage(
        module=network,
        network=network,
        targets=lambda batch: (batch.labels % 2 * 2 - 1).float(),
        context=lambda _: None,
        loss=lambda outputs, sides: -sides * outputs,
        divergence=lambda outputs, reference: (outputs - reference).square(),
        scores={"accuracy": lambda outputs, sides: (sides * outputs > 0).float()},
    )


def loader(path, *, batch_size=32, rank=0, world_size=1):
    return Loader(
        open_prepared(path, verify=False),
        "val",
        batch_size=batch_size,
        seed=3,
        augment=None,
        shuffle=True,
        drop_last=False,
        num_workers=0,
        rank=rank,
        world_size=world_size,
    )


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])  # whatever is on the PATH


def margins(stage, path, epsilon=0.0):
    """The least margins in the ball: each channel moved against the label by epsilon, but not beyond black and white."""
    (batch,) = loader(path).epoch(0)
    sides = stage.targets(batch)
    shift = epsilon * sides.view(-1, 1, 1)
    moved = batch.images.clone()
    moved[:, 0] = (moved[:, 0] - shift).clamp(0, 1)
    moved[:, 1] = (moved[:, 1] + shift).clamp(0, 1)
    return sides * stage.network(moved)


def test_means_are_over_images_whatever_the_batches(stage, fabric, synthetic_set):
    expected = margins(stage, synthetic_set)
    for batch_size in (1, 5, 32, 100):  # 32 images: 5 leaves a last batch of 2
        found = measure(stage, loader(synthetic_set, batch_size=batch_size), fabric, batch_size=batch_size)
        assert found == pytest.approx({"loss": -expected.mean().item(), "accuracy": (expected > 0).float().mean().item()})


@pytest.mark.parametrize("max_attacked", [1, 7, 32, 500])
@pytest.mark.parametrize("batch_size", [5, 32])
def test_robust_accuracy_counts_images_that_no_point_of_the_ball_turns(stage, fabric, synthetic_set, max_attacked, batch_size):
    found = measure(
        stage, loader(synthetic_set, batch_size=batch_size), fabric, batch_size=batch_size, attack=(ATTACK, max_attacked)
    )
    left = margins(stage, synthetic_set, epsilon=ATTACK.epsilon)[:max_attacked]
    assert found["robust_accuracy"] == pytest.approx((left > 0).float().mean().item())
    assert 0 < (margins(stage, synthetic_set) > 0).float().mean() < 1


def test_measuring_leaves_modes_and_random_numbers_alone(stage, fabric, synthetic_set):
    stage.network.train()
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    measure(stage, loader(synthetic_set), fabric, batch_size=32, attack=(ATTACK, 4))
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert stage.network.training
