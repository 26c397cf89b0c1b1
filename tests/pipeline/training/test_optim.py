"""Schedules against torch's own, and the moving average against its definition."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from pipeline.training.config import TrainerConfig
from pipeline.training.optim import learning_rate, moving_average

STEPS = 10


def rates(**changes):
    config = TrainerConfig(**({"epochs": 10, "lr": 0.5} | changes))
    return [learning_rate(config, step, steps_per_epoch=STEPS) for step in range(config.epochs * STEPS)]


def rates_of(make_scheduler, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5, momentum=0.9)
    scheduler, found = make_scheduler(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_is_that_of_torch():
    def scheduler(optimizer):
        return OneCycleLR(optimizer, max_lr=0.5, total_steps=100, cycle_momentum=False)

    # torch refuses to step once more after the rate of the last step, so that one is left out
    expected = rates_of(scheduler, 99)
    assert rates(schedule="one-cycle")[:99] == pytest.approx(expected, rel=1e-9)


def test_cosine_is_that_of_torch():
    assert rates(schedule="cosine") == pytest.approx(
        rates_of(lambda optimizer: CosineAnnealingLR(optimizer, T_max=100), 100), abs=1e-12
    )


def test_a_warm_up_rises_in_equal_steps_to_the_full_rate():
    for schedule in ("cosine", "constant"):
        found = rates(schedule=schedule, warmup_epochs=2)
        assert found[:20] == pytest.approx([0.5 * step / 20 for step in range(1, 21)])
        assert found[20] == 0.5


def test_the_rise_of_one_cycle_can_be_set():
    found = rates(schedule="one-cycle", warmup_epochs=5)
    assert found.index(max(found)) == 49
    assert max(found) == 0.5


def test_constant_is_constant():
    assert set(rates(schedule="constant")) == {0.5}


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "constant"])
@pytest.mark.parametrize("warmup_epochs", [None, 0, 0.05, 1, 10, 30])
@pytest.mark.parametrize("epochs", [1, 10])
def test_the_rate_is_above_zero_and_never_above_the_highest(schedule, warmup_epochs, epochs):
    found = rates(schedule=schedule, warmup_epochs=warmup_epochs, epochs=epochs)
    assert all(0 < rate <= 0.5 for rate in found)


def test_the_average_follows_its_recursion_for_weights_and_statistics():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = moving_average(module, decay=0.5)
    generator = torch.Generator().manual_seed(0)
    expected = None
    for count in range(12):
        for value in (*module.parameters(), module[1].running_mean):
            value.data.copy_(torch.randn(value.shape, generator=generator))
        average.update_parameters(module)
        values = [value.detach().clone() for value in (*module.parameters(), module[1].running_mean)]
        decay = min(0.5, (1 + count) / (10 + count))
        pairs = zip(expected or values, values, strict=True)
        expected = values if count == 0 else [decay * old + (1 - decay) * new for old, new in pairs]
    found = [*average.module.parameters(), average.module[1].running_mean]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), other)


def test_the_average_needs_no_gradient_and_leaves_the_module_alone():
    module = nn.Linear(3, 2)
    average = moving_average(module, decay=0.9)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())
