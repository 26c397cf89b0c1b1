"""Convolutions that keep their weights in the order of the CPU's kernels, for both directions.

oneDNN brings the weights of a convolution into an order of its own at every call, forwards and backwards. A search calls the same
convolutions thousands of times, so its copy of a system does that once, at the price of holding the weights three times. Where
``nn.Conv2d`` calls oneDNN (it leaves some small batches to kernels of its own), the same kernels are called here, and what they
return is the same to the bit. Weights must not change any more, and only the input gets a gradient, no gradient of that.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def pack_convolutions(stage: nn.Module) -> None:
    """Replace the convolutions below a stage, in place, by equal ones that pack their weights when they are first used.

    Where this build of torch has no such functions, or they do something else, the stage stays as it is.
    """
    for name, module in list(stage.named_modules()) if packing_works() else ():
        plain = type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
        if name and plain and not isinstance(module.padding, str):
            stage.set_submodule(name, _PackedConvolution(module))


@cache
def packing_works() -> bool:
    """Whether the functions of torch that are used here, which are not public, give what its convolution gives, to the bit."""
    values = torch.arange(2 * 16 * 9 * 9).sin()
    images = values.view(2, 9, 9, 16).permute(0, 3, 1, 2).requires_grad_()
    weight = values[: 8 * 16 * 9].view(8, 3, 3, 16).permute(0, 3, 1, 2)
    geometry = _Geometry([1, 1], [2, 2], [1, 1])
    try:
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            plain = functional.conv2d(images, weight, None, *_in_order(geometry))
            packed = _Convolution.apply(images, _packed(images, weight, None, geometry), geometry)
            (expected,), (found,) = (torch.autograd.grad(outputs.square().sum(), images) for outputs in (plain, packed))
        return _calls_onednn(images, weight, geometry) and torch.equal(plain, packed) and torch.equal(expected, found)
    except Exception:  # a private function may be gone, or want other arguments
        return False


class _Geometry(NamedTuple):
    padding: list[int]
    stride: list[int]
    dilation: list[int]


class _Weights(NamedTuple):
    """Of a convolution, in one floating-point type."""

    plain: Tensor
    bias: Tensor | None
    forwards: Tensor
    """Packed."""
    backwards: Tensor
    """Packed."""


class _PackedConvolution(nn.Conv2d):
    def __init__(self, convolution: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(convolution.__dict__)  # whoever asks for its settings, weights or hooks finds them
        assert not isinstance(convolution.padding, str)
        self.geometry = _Geometry(list(convolution.padding), list(convolution.stride), list(convolution.dilation))
        self._weights: dict[torch.dtype, _Weights] = {}

    def forward(self, images: Tensor) -> Tensor:  # as nn.Conv2d
        if torch.is_autocast_enabled("cpu"):
            images = images.to(torch.get_autocast_dtype("cpu"))
        known = self._weights.get(images.dtype)
        plain = self.weight.to(images.dtype) if known is None else known.plain
        if self.weight.requires_grad or not _calls_onednn(images, plain, self.geometry):
            outputs = functional.conv2d(images, self.weight, self.bias, *_in_order(self.geometry))
        else:
            if known is None:
                known = self._weights[images.dtype] = _packed(images, plain, self.bias, self.geometry)
            outputs = _Convolution.apply(images, known, self.geometry)
        return outputs


@torch.no_grad()
def _packed(images: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> _Weights:
    """For images of that size. Others are computed right too, if with weights that were packed for these."""
    outputs = functional.conv2d(images, weight, None, *_in_order(geometry))
    rest = _lost_to_stride(images, outputs, weight, geometry)
    return _Weights(
        plain=weight,
        bias=None if bias is None else bias.to(weight.dtype),
        forwards=torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(memory_format=torch.channels_last), *geometry, 1, list(images.shape)
        ),
        backwards=torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight.contiguous(), geometry.padding, rest, geometry.stride, geometry.dilation, 1, list(outputs.shape)
        ),
    )


def _in_order(geometry: _Geometry) -> tuple[list[int], list[int], list[int]]:
    return geometry.stride, geometry.padding, geometry.dilation


def _calls_onednn(images: Tensor, weight: Tensor, geometry: _Geometry) -> bool:
    """What ``nn.Conv2d`` does with these images."""
    if images.device.type != "cpu" or images.dim() != 4 or images.dtype not in (torch.float32, torch.bfloat16):
        return False
    chosen = torch._C._select_conv_backend(images, weight, None, *_in_order(geometry), False, [0, 0], 1, None)
    return chosen.name == "Mkldnn"


def _lost_to_stride(images: Tensor, outputs: Tensor, weight: Tensor, geometry: _Geometry) -> list[int]:
    """Rows and columns of the input that no output looks at."""
    seen = [
        (outputs.shape[axis + 2] - 1) * geometry.stride[axis] + geometry.dilation[axis] * (weight.shape[axis + 2] - 1) + 1
        for axis in (0, 1)
    ]
    return [images.shape[axis + 2] + 2 * geometry.padding[axis] - seen[axis] for axis in (0, 1)]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: _Weights, geometry: _Geometry) -> Tensor:
        outputs: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images, weights.forwards, weights.bias, *geometry, 1, "none", [], ""
        )
        # Of the images their size is all that the gradient needs.
        ctx.weights, ctx.geometry, ctx.rest = weights, geometry, _lost_to_stride(images, outputs, weights.plain, geometry)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        padding, stride, dilation = ctx.geometry
        found = torch.ops.mkldnn._convolution_transpose_pointwise(
            gradient, ctx.weights.backwards, None, padding, ctx.rest, stride, dilation, 1, "none", [], ""
        )
        return found, None, None
