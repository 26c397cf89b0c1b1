"""The quick gradient of depthwise convolutions against autograd's."""

import copy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from pipeline.attacks.depthwise import quicken_depthwise


def pair(make, size):
    """A convolution and its quick twin in float64, and their outputs and input gradients on one image."""
    torch.manual_seed(0)
    plain = nn.Sequential(make()).double()
    quick = copy.deepcopy(plain)
    quicken_depthwise(quick)
    image, weights = torch.rand(2, 4, *size, dtype=torch.float64), None
    found = []
    for stage in (plain, quick):
        leaf = image.clone().requires_grad_()
        outputs = stage(leaf)
        weights = torch.rand_like(outputs) if weights is None else weights
        found += [outputs, torch.autograd.grad((weights * outputs).sum(), leaf)[0]]
    return quick[0], *found


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("size", [(7, 7), (8, 9), (12, 11)])
@pytest.mark.parametrize("kernel", [3, 5, (3, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_output_and_gradient_are_those_of_the_convolution(kind, size, kernel, stride, padding):
    if kind is Conv2dSame:
        padding = 0  # it pads by itself
    quick, outputs, gradient, same_outputs, same_gradient = pair(
        lambda: kind(4, 4, kernel, stride=stride, padding=padding, groups=4), size
    )
    assert type(quick) is not kind
    torch.testing.assert_close(same_outputs, outputs)
    torch.testing.assert_close(same_gradient, gradient)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 4, 3),
        lambda: nn.Conv2d(1, 1, 3),
        lambda: nn.Conv2d(4, 8, 3, groups=4),
        lambda: nn.Conv2d(4, 4, 3, groups=2),
        lambda: nn.Conv2d(4, 4, 3, groups=4, dilation=2),
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding=3),
    ],
)
def test_other_convolutions_are_left_alone(make):
    stage = nn.Sequential(make())
    quicken_depthwise(stage)
    assert type(stage[0]) is nn.Conv2d


def test_two_channels_are_enough():
    stage = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2, padding=2))
    quicken_depthwise(stage)
    assert type(stage[0]) is not nn.Conv2d
