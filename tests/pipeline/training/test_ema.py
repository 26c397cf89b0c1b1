"""The moving average against its definition."""

import torch
from torch import nn

from pipeline.training.ema import moving_average


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
