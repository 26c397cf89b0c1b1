"""Depthwise convolutions whose input gradient is quick in bfloat16 on a CPU.

oneDNN computes that gradient of a depthwise convolution in bfloat16 many times slower than in float32, and a whole
EfficientNet-Lite0 then takes longer in bfloat16 than in float32 (benchmarks/README.md). With stride 1 the gradient is itself a
convolution, by the kernel turned around, and those are quick; with other strides it is computed in float32.
"""

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional


def quicken_depthwise(stage: nn.Module) -> None:
    """Replace the depthwise convolutions of a stage, in place, by equal ones; only their inputs get a gradient any more."""
    for name, module in list(stage.named_modules()):
        if isinstance(module, nn.Conv2d) and _is_depthwise(module):
            stage.set_submodule(name, _Depthwise(module))


def _is_depthwise(convolution: nn.Conv2d) -> bool:
    return (
        type(convolution) in (nn.Conv2d, Conv2dSame)
        and convolution.groups == convolution.in_channels == convolution.out_channels > 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
        and all(pad < size for pad, size in zip(convolution.padding, convolution.kernel_size, strict=True))
    )


class _Depthwise(nn.Module):
    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, images: Tensor) -> Tensor:
        convolution = self.convolution
        padding = convolution.padding
        if isinstance(convolution, Conv2dSame):  # pads by itself, so that every pixel is met
            images, padding = pad_same(images, list(convolution.kernel_size), list(convolution.stride)), (0, 0)
        if torch.is_autocast_enabled("cpu"):
            images = images.to(torch.get_autocast_dtype("cpu"))
        outputs: Tensor = _DepthwiseFunction.apply(images, convolution.weight, convolution.bias, convolution.stride, padding)
        return outputs


class _DepthwiseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        weight = weight.to(images.dtype)
        ctx.save_for_backward(weight)
        ctx.stride, ctx.padding, ctx.shape = stride, padding, images.shape
        bias = None if bias is None else bias.to(images.dtype)
        return functional.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        kernel = weight.shape[2:]
        if tuple(ctx.stride) == (1, 1):
            around = [size - 1 - pad for size, pad in zip(kernel, ctx.padding, strict=True)]
            found = functional.conv2d(gradient, weight.flip(2, 3), None, 1, around, groups=len(weight))
        else:
            wide = torch.float32 if gradient.dtype == torch.bfloat16 else gradient.dtype
            rest = [  # rows and columns that no step of the kernel reaches
                length - ((steps - 1) * stride - 2 * pad + size)
                for length, steps, stride, pad, size in zip(
                    ctx.shape[2:], gradient.shape[2:], ctx.stride, ctx.padding, kernel, strict=True
                )
            ]
            found = functional.conv_transpose2d(
                gradient.to(wide), weight.to(wide), None, ctx.stride, ctx.padding, rest, groups=len(weight)
            ).to(gradient.dtype)
        return found, None, None, None, None
