"""The optimiser of a configuration."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from pipeline.training.config import TrainerConfig


def build_optimiser(module: nn.Module, config: TrainerConfig) -> Optimizer:
    """SGD with Nesterov momentum or AdamW over a module's parameters; weight decay on matrices and kernels only.

    The decay of biases and normalisation scales buys nothing and costs accuracy (He et al. 2019, https://arxiv.org/abs/1812.01187).
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimiser == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def set_learning_rate(optimiser: Optimizer, value: float) -> None:
    """The same learning rate for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = value
