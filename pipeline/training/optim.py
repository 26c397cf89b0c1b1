"""The optimizer of a configuration, its learning rate as a function of the step alone, and the moving average of the weights.

The schedule has no state, so there is nothing of it to save for a resume.
"""

import math

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.training.config import TrainerConfig

ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4 / 25

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(module: nn.Module, config: TrainerConfig) -> Optimizer:
    """SGD with Nesterov momentum or AdamW over a module's parameters; weight decay on matrices and kernels only.

    The decay of biases and normalisation scales buys nothing and costs accuracy (He et al. 2019, https://arxiv.org/abs/1812.01187).
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """The same learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value


def learning_rate(config: TrainerConfig, step: int, *, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0), in (0, lr].

    ``one-cycle`` is Smith's 1cycle policy (https://arxiv.org/abs/1708.07120) as torch's ``OneCycleLR`` has it, but with a fixed
    momentum; ``cosine`` is the half cosine of https://arxiv.org/abs/1608.03983 after a linear warm-up from 0.
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        share = ONE_CYCLE_RISE if config.warmup_epochs is None else config.warmup_epochs / config.epochs
        return config.lr * _one_cycle(step, total, rise=min(share, 1.0) * total)
    warmup = round((config.warmup_epochs or 0.0) * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * _between(1.0, 0.0, (step - warmup) / max(total - warmup, 1))


def _one_cycle(step: int, total: int, *, rise: float) -> float:
    top = rise - 1
    if step <= top:
        return _between(ONE_CYCLE_START, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, ONE_CYCLE_END, (step - top) / max(total - 1 - top, 1))


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` (share 0) to ``end`` (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


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


def clipped_norm(module: nn.Module, limit: float | None) -> Tensor:
    """Clip the gradient to a norm of at most ``limit``, if there is one, and return the norm that it had."""
    if limit is not None:
        return nn.utils.clip_grad_norm_(module.parameters(), limit)
    return nn.utils.get_total_norm([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
