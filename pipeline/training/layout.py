"""In which memory order a network is trained."""

import torch
from torch import nn

_BLOCK = 8  # values in a register of AVX2


def memory_layout(network: nn.Module, *, channels_last: bool, device: torch.device) -> torch.memory_format:
    """Channels last where that is wanted and safe, else contiguous.

    On processors with AVX2 and no AVX-512 oneDNN's weight gradient of a strided 1 x 1 convolution of fewer than eight channels
    writes beyond its memory in this order, as torch 2.15 has it: the process dies, or goes on with broken values. ResNets of a
    width below eight have such shortcuts.
    """
    endangered = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    if channels_last and not (endangered and any(map(_writes_beyond, network.modules()))):
        return torch.channels_last
    return torch.contiguous_format


def _writes_beyond(part: nn.Module) -> bool:
    if not isinstance(part, nn.Conv2d):
        return False
    return part.kernel_size == (1, 1) and part.stride != (1, 1) and part.in_channels // part.groups < _BLOCK
