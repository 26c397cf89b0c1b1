"""Exponential moving average of a module's weights."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(module: nn.Module, *, decay: float) -> AveragedModel:
    """A copy of ``module`` whose ``update_parameters(module)`` follows parameters and buffers at ``decay``, or slower at the start.

    After n updates the decay is ``min(decay, (1 + n) / (10 + n))``, as in TensorFlow's ExponentialMovingAverage: with a fixed
    0.999 the initial weights would still count for a third after a thousand steps. Running statistics of batch normalisation are
    averaged like weights.
    """

    def update(averages: Tensors, values: Tensors, num_averaged: Tensor | int) -> None:
        count = int(num_averaged)
        follow = get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))  # type: ignore[no-untyped-call]
        follow(averages, values, count)

    average = AveragedModel(module, multi_avg_fn=update, use_buffers=True)
    for parameter in average.parameters():
        parameter.requires_grad_(False)
    return average
