"""The learning rate as a function of the step alone, so that there is nothing to save for a resume."""

import math

from pipeline.training.config import TrainerConfig

ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4 / 25


def learning_rate(config: TrainerConfig, step: int, *, steps_per_epoch: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0), in (0, lr].

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
