"""A copy of a system on which attacks run faster: the same function of the image, arranged for input gradients.

The copy finds candidates. Whether a candidate fools the system is asked of the system itself (``tracker.verdict``), always: so
nothing that is done here can turn into a claim of success.
"""

import copy
import itertools
from collections import Counter
from typing import Literal

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.attacks.cuda_graphs import Graphed
from pipeline.attacks.depthwise import quicken_depthwise
from pipeline.attacks.packing import pack_convolutions
from pipeline.masks.context import MaskContext
from pipeline.shapes import Images
from pipeline.system import MadeOfStages, System, attacked, deep_copy

Precision = Literal["float32", "bf16"]

# Convolutions that are linear: timm's pads with zeros on its own. Other subclasses may activate on top.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_BATCH_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
# Folding is an identity: in float64 what it changes is rounding (about 1e-14 of the largest output), what a mistake changes is not.
_FOLDING_TOLERANCE = 1e-9
_SAME = {"float32": 1e-3, "bf16": 0.5}
"""By how much of the largest logit a copy of somebody's own system may differ before it is called another function."""


def attacked_copy(system: System, images: Images, *, precision: Precision = "float32") -> System:
    """A copy of the system as attacks want it: eval mode, channels last, batch norm folded, weights packed and without a gradient;
    on a GPU passes that come again are CUDA graphs (``cuda_graphs``).

    The copy has the system's methods, mask source and fill, so every objective takes it in place of the system, in the state of
    ``system.attacked``. It does not follow later changes of the system's weights. The system itself is left as it is; one whose
    stages are not known (not ``MadeOfStages``) is returned, for nobody can say which of its parts may compute in another way.

    Args:
        system: weights in float32 or wider.
        images: (B,3,H,W) in [0,1], as they will be attacked; the first is used to check the folding, see ``fold_batch_norms``.
        precision: ``float32`` changes logits by rounding only (in our ResNets and U-Nets by less than 1e-5 of the largest).
            ``bf16`` runs each stage in bfloat16, forwards and backwards, by autocast; gate, mask, fill and the returned
            gradients stay in float32. A logit then carries 8 binary digits: enough to climb, not enough for a verdict. It pays on
            CPUs with bfloat16 instructions (AVX-512 BF16, AMX) and on GPUs.
    """
    if not isinstance(system, MadeOfStages):
        return system
    fast = deep_copy(system)
    fast.map_stages(lambda stage: _Stage(fold_batch_norms(stage, images), precision))
    assert isinstance(fast, nn.Module)
    if images.device.type == "cpu":
        pack_convolutions(fast)
    fast.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if images.device.type == "cuda":
        fast.map_stages(Graphed)
    return fast


def copy_to_search(
    system: System, images: Images, context: MaskContext | None = None, *, precision: Precision = "float32"
) -> System:
    """``attacked_copy``, where that is the same function of the first image and has a gradient; else the system itself.

    A module of somebody's own may forbid copies, lay out its memory by hand, or hold constants of one type. That costs speed and
    nothing else.
    """
    first = images[:1].detach().requires_grad_()
    known = None if context is None else context.select(torch.zeros(1, dtype=torch.int64, device=images.device))
    try:
        fast = attacked_copy(system, images, precision=precision)
        if fast is system:
            return system
        with attacked(system), torch.no_grad():
            expected = system(first, known)
        with attacked(fast), torch.enable_grad():
            found = fast(first, known)
            torch.autograd.grad(found.sum(), first)
    except Exception:  # of somebody else's code: what the system itself cannot do will be told by the attack
        return system
    tolerance = _SAME[precision] * float(expected.abs().max())
    return fast if bool(((found - expected).abs() <= tolerance).all()) else system


class _Stage(nn.Module):
    """A stage that takes its images channels last and answers in their type."""

    def __init__(self, stage: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.stage = stage
        self.precision = precision

    def forward(self, images: Tensor) -> Tensor:
        # Attacks switch autocast off around a system; for its own stages the copy switches it on again.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs: Tensor = self.stage(images.contiguous(memory_format=torch.channels_last))
        return outputs.to(images.dtype)


def fold_batch_norms(stage: nn.Module, images: Images) -> nn.Module:
    """A copy in eval mode whose batch norms are part of the convolutions before them, if it is the same function.

    In eval mode both are linear, so one convolution does the work of the two and keeps one activation less. A batch norm is
    folded where its input is what a convolution returned, as seen in a forward pass of the first image. The folded stage is
    then compared with the stage in float64 on that image; should they differ by more than 1e-9 of the largest output (a convolution
    with two readers, an activation in between, a stage that draws random numbers), nothing is folded.
    """
    plain = copy.deepcopy(stage).eval()
    pairs, exact = _foldable(plain, images)
    for convolution, batch_norm in pairs:
        like = plain.get_parameter(f"{convolution}.weight")
        plain.set_submodule(convolution, exact.get_submodule(convolution).to(like.device, like.dtype))
        plain.set_submodule(batch_norm, _rest(plain.get_submodule(batch_norm)))
    return plain


Pairs = list[tuple[str, str]]
"""Names of convolutions and of the batch norms that belong to them."""


def _foldable(stage: nn.Module, images: Tensor) -> tuple[Pairs, nn.Module]:
    """What can be folded in a stage in eval mode, and a float64 copy of it on the CPU where that is done."""
    exact = copy.deepcopy(stage).cpu().double()
    image = images[:1].detach().cpu().double()
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.random.fork_rng(devices=[]):
        pairs, expected = _convolutions_with_batch_norm(exact, image)
        for convolution, batch_norm in pairs:
            _fold(exact, convolution, batch_norm)
        same = bool(((exact(image) - expected).abs() <= _FOLDING_TOLERANCE * expected.abs().max()).all())
    return pairs if same else [], exact


class FollowingCopies:
    """Copies of a network in training on which its attacks climb in bfloat16, each made of the weights of its moment.

    They are those of ``attacked_copy``, and depthwise convolutions have a quicker gradient. What can be folded is looked for once,
    in the first of them: that is a matter of the architecture.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._pairs: list[Pairs] = []
        """Of each stage, in the order of ``map_stages``."""

    def latest(self, images: Images) -> nn.Module:
        """A copy of the network as it is now, in the state of ``system.attacked``; the network itself is left as it is."""
        fast = copy.deepcopy(self._network).eval().requires_grad_(False)  # only in eval mode is folding exact
        known, number = list(self._pairs), itertools.count()

        def quicken(stage: nn.Module) -> nn.Module:
            if not known:
                self._pairs.append(_foldable(stage, images)[0])
            for convolution, batch_norm in self._pairs[next(number)]:
                _fold(stage, convolution, batch_norm)
            if images.device.type == "cpu":
                quicken_depthwise(stage)
            return _Stage(stage, "bf16")

        if isinstance(fast, MadeOfStages):
            fast.map_stages(quicken)
        else:
            fast = quicken(fast)
        # Modules that took another's place come in training mode.
        return fast.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _fold(stage: nn.Module, convolution: str, batch_norm: str) -> None:
    first, second = stage.get_submodule(convolution), stage.get_submodule(batch_norm)
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.BatchNorm2d)
    stage.set_submodule(convolution, fuse_conv_bn_eval(first, second))
    stage.set_submodule(batch_norm, _rest(second))


def _rest(batch_norm: nn.Module) -> nn.Module:
    """What a batch norm does besides: timm's activates."""
    return batch_norm.act if isinstance(batch_norm, BatchNormAct2d) else nn.Identity()


def _convolutions_with_batch_norm(stage: nn.Module, image: Tensor) -> tuple[Pairs, Tensor]:
    """The names of convolutions and of the batch norms given their outputs, pairs without a third; and the output of the stage."""
    returned: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no other gets their id
    pairs: dict[tuple[str, str], None] = {}
    names = {module: name for name, module in stage.named_modules()}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if type(module) in _CONVOLUTIONS:
            returned[id(output)] = (names[module], output)
        elif type(module) in _BATCH_NORMS and getattr(module, "running_mean", None) is not None and id(inputs[0]) in returned:
            pairs[returned[id(inputs[0])][0], names[module]] = None

    handles = [module.register_forward_hook(note) for module in names if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    try:
        output: Tensor = stage(image)
    finally:
        for handle in handles:
            handle.remove()
    partners = Counter(name for pair in pairs for name in pair)
    return [pair for pair in pairs if partners[pair[0]] == partners[pair[1]] == 1], output
