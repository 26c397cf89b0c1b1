"""A stage of an attacked copy as CUDA graphs: all kernels of a pass in one launch.

Attacks ask small networks about small batches, hundreds of times. A GPU then waits for the launches of kernels and not for their
work (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/). A graph wants the same shapes in the same memory at every
launch, so batches are filled up to a few sizes; in eval mode no image's output depends on the rest of its batch.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MAX_PIXELS = 2**21
"""Of a batch that is recorded: above it the kernels take longer than their launches."""
_PATIENCE = 2
"""How often a size runs before it is recorded: what is asked for once or twice is done sooner without."""
_ROUNDING = 1e-3
"""By how much of the largest value a recording may differ from its stage."""
_FREE = 0.5
"""Share of the GPU's memory that has to be free for another recording, each of which keeps its activations."""


@runtime_checkable
class Passes(Protocol):
    """The passes of a stage over a batch of one size, as often as one likes and always in the same memory."""

    inputs: Tensor
    outputs: Tensor

    def forward(self) -> None:
        """From ``inputs`` to ``outputs``."""
        ...

    def backward(self, output_gradients: Tensor) -> Tensor:
        """The gradients in the inputs, of the latest forward pass; the next backward pass overwrites them."""
        ...


Record = Callable[[nn.Module, Tensor, bool], Passes]
"""A stage, a batch, and whether there will be backward passes. Raises RuntimeError where that cannot be recorded."""


class Recorded:
    """The passes of a stage as CUDA graphs."""

    def __init__(self, stage: nn.Module, images: Tensor, with_gradient: bool) -> None:
        """Raises RuntimeError where the stage cannot be recorded, or has no gradient in the images."""
        with torch.cuda.device(images.device):  # streams and graphs are of the current device, whatever the images'
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):  # libraries set themselves up before they are recorded
                leaf = images.detach().clone().requires_grad_(with_gradient)  # of this stream, and not of the recording's
                outputs = stage(leaf)
                if with_gradient:
                    torch.autograd.grad(outputs, leaf, torch.ones_like(outputs))
            current.wait_stream(side)
            self.inputs = images.detach().clone().requires_grad_(with_gradient)
            self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._forward):
                outputs = stage(self.inputs)
            self.outputs, self._output_gradients = outputs.detach(), torch.zeros_like(outputs)
            if with_gradient:
                with torch.cuda.graph(self._backward, pool=self._forward.pool()):
                    (self._input_gradients,) = torch.autograd.grad(outputs, self.inputs, self._output_gradients)

    def forward(self) -> None:
        """Launch the forward pass."""
        self._forward.replay()

    def backward(self, output_gradients: Tensor) -> Tensor:
        """Launch the backward pass."""
        self._output_gradients.copy_(output_gradients)
        self._backward.replay()
        return self._input_gradients


class Graphed(nn.Module):
    """A stage (B,3,H,W) -> (B,...) that is recorded for the sizes of batches that come again, and answers as before.

    Only for a stage in eval mode with fixed weights. What cannot be recorded, or answers otherwise then, runs as it is.
    """

    def __init__(self, stage: nn.Module, record: Record = Recorded) -> None:
        """``record`` makes the passes of the stage from a filled-up batch."""
        super().__init__()
        self.stage = stage
        self._record = record
        self._recorded: dict[tuple[object, ...], _Recording] = {}
        self._asked: Counter[tuple[object, ...]] = Counter()

    def forward(self, images: Tensor) -> Tensor:
        """The stage's outputs, differentiable once in the images."""
        number = len(images)
        if filled_size(number) * math.prod(images.shape[2:]) > _MAX_PIXELS:
            outputs: Tensor = self.stage(images)
            return outputs
        filled = _filled(images)
        with_gradient = torch.is_grad_enabled() and images.requires_grad
        # Passes without a gradient have a recording of their own: they may come between the two of another.
        recording = self._recording((filled.shape, filled.dtype, with_gradient), filled, with_gradient)
        return (self.stage(filled) if recording is None else recording(filled))[:number]

    def _recording(self, key: tuple[object, ...], filled: Tensor, with_gradient: bool) -> "_Recording | None":
        if key not in self._recorded:
            self._asked[key] += 1
            if self._asked[key] == _PATIENCE + 1 and _has_room(filled.device):
                try:
                    recording = _Recording(self._record(self.stage, filled, with_gradient))
                except RuntimeError:  # it looks at values on the way, say: slower, and right
                    return None
                if _same(recording, self.stage, 1 - filled, with_gradient):  # not what it was recorded with
                    self._recorded[key] = recording
        return self._recorded.get(key)


class _Recording:
    """Passes as a function of the images, which may be called again before the backward pass of an earlier call."""

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self.turn = 0
        """Another one whenever the activations are no longer what they were."""

    def __call__(self, images: Tensor) -> Tensor:
        replayed: Tensor = _Replay.apply(images, self)
        return replayed

    def forward(self, images: Tensor) -> None:
        self.passes.inputs.data.copy_(images)
        self.passes.forward()
        self.turn += 1

    def backward(self, output_gradients: Tensor) -> Tensor:
        gradients = self.passes.backward(output_gradients).clone()
        self.turn += 1  # the pass may have written over what it no longer needed
        return gradients


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, recording: _Recording) -> Tensor:
        recording.forward(images)
        ctx.recording, ctx.turn = recording, recording.turn
        ctx.save_for_backward(images)
        return recording.passes.outputs.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.recording.turn != ctx.turn:  # another pass has taken the place of this one's activations
            ctx.recording.forward(*ctx.saved_tensors)
        return ctx.recording.backward(output_gradients), None


def _same(recording: _Recording, stage: nn.Module, images: Tensor, with_gradient: bool) -> bool:
    """Whether it answers as the stage does: one that remembers its calls or draws random numbers may not."""
    answers: list[tuple[Tensor, ...]] = []
    for function in (recording, stage):
        leaf = images.detach().requires_grad_(with_gradient)
        outputs = function(leaf)
        answers.append((outputs, *(torch.autograd.grad(outputs.sum(), leaf) if with_gradient else ())))
    return all(bool(((one - other).abs() <= _ROUNDING * other.abs().max()).all()) for one, other in zip(*answers, strict=True))


def _filled(images: Tensor) -> Tensor:
    """The images, and as many copies of the first as make a size that is recorded; channels last."""
    missing = filled_size(len(images)) - len(images)
    filled = torch.cat([images, images[:1].detach().expand(missing, -1, -1, -1)]) if missing else images
    return filled.contiguous(memory_format=torch.channels_last)


def filled_size(number: int) -> int:
    """The smallest of 8, 12, 16, 24, 32, 48 ... images that holds so many."""
    size = 8
    while size < number:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _has_room(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    return free > _FREE * total
