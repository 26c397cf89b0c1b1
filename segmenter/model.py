"""The segmenter: a U-Net with its normalisation and padding inside."""

import difflib

import segmentation_models_pytorch as smp
import timm
import torch
from jaxtyping import Float
from segmentation_models_pytorch.encoders import get_encoder_names
from torch import Tensor, nn
from torch.nn import functional

from segmenter.config import SegmenterConfig

TIMM_PREFIX = "tu-"
PROBE_SIDE = 64  # of the image that tells which modules work; every family but transformers of one fixed size takes it


class Segmenter(nn.Module):
    """Images to mask logits. Built by ``build_segmenter``.

    Any height and width: the image is extended at its right and bottom by repeating its border, up to a multiple of ``stride``, and
    the logits are cut back. No pixel moves, and a size that already is a multiple is not touched.

    In train mode, batch normalisation needs two values or more per channel, so a batch of one whose image is no larger than
    ``stride`` raises PyTorch's ValueError; a smaller ``encoder_depth`` avoids it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, unet: nn.Module, *, stride: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Wrap a module from normalised images (B,3,H,W), H and W multiples of ``stride`` in pixels, to logits (B,1,H,W)."""
        super().__init__()
        self.unet = unet
        self.stride = stride
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """Mask logits: the sigmoid is each pixel's foreground probability.

        Images are in [0,1]. The range is not checked: this is called in the inner loop of attacks, and a finite-difference test
        steps outside it.
        """
        height, width = images.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        normalised = (images - self.mean) / self.std
        if below or right:
            normalised = functional.pad(normalised, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.unet(normalised)
        return logits[..., :height, :width]


def build_segmenter(config: SegmenterConfig, *, seed: int) -> Segmenter:
    """A new segmenter in train mode, on the CPU, float32. The same config and seed give the same weights, to the bit.

    The global random state is left as it was. Raises ValueError for an encoder that does not exist, an encoder that cannot be cut
    to ``encoder_depth`` levels, and ImageNet weights that cannot be had.
    """
    _check_encoder_exists(config.encoder)
    # With gradients even if the caller is in inference mode: the probe that finds idle modules needs them.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the GPUs as well
        unet = _build_unet(config)
    return Segmenter(unet, stride=2**config.encoder_depth, mean=config.mean, std=config.std).train()


def _check_encoder_exists(encoder: str) -> None:
    names = list(get_encoder_names()) + [TIMM_PREFIX + name for name in timm.list_models()]
    if encoder.split(".")[0] in names:  # a timm name may carry the tag of its weights: tu-resnet18.a1_in1k
        return
    # The likeliest mistake is a timm name without its prefix.
    nearest = difflib.get_close_matches(encoder, names, n=3) + difflib.get_close_matches(TIMM_PREFIX + encoder, names, n=3)
    hint = f"did you mean {' or '.join(dict.fromkeys(nearest))}?" if nearest else f"it may be one of {', '.join(names[:4])} ..."
    raise ValueError(f"segmenter encoder {encoder!r} does not exist: {hint}")


def _build_unet(config: SegmenterConfig) -> nn.Module:
    # smp wants True instead of a name for timm's weights, and warns otherwise.
    weights = True if config.encoder_weights and config.encoder.startswith(TIMM_PREFIX) else config.encoder_weights
    try:
        unet: nn.Module = smp.Unet(
            config.encoder,
            encoder_depth=config.encoder_depth,
            encoder_weights=weights,
            decoder_channels=config.decoder_channels,
        ).eval()
        _drop_idle_modules(unet)
    except OSError as error:  # the hub's errors for no network, no cache, no such file
        raise ValueError(
            f"the imagenet weights of segmenter encoder {config.encoder!r} are neither in the Hugging Face cache nor can they be"
            " downloaded: build it once with network access (or copy such a cache and set HF_HOME), or set encoder_weights to null"
        ) from error
    except Exception as error:  # somebody else's code on a name of the user's choice: every encoder fails in its own way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"segmenter encoder {config.encoder!r} with encoder_depth {config.encoder_depth} and encoder_weights"
            f" {config.encoder_weights or 'null'} does not make a U-Net: {reason}"
        ) from error
    return unet


def _drop_idle_modules(unet: nn.Module) -> None:
    """Remove the modules that are never called: smp keeps the stages of an encoder that lie beyond its depth.

    They would make a small checkpoint ten times larger, and distributed training stops at parameters that get no gradient. A few
    encoders (efficientnet-b0, mobilenet_v2) do call those stages and discard the result; these parameters stay, frozen.
    """
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, _, __: called.add(module)) for module in unet.modules()]
    logits: Tensor = unet(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
    for hook in hooks:
        hook.remove()
    parameters = list(unet.parameters())
    gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    for module in list(unet.modules()):
        for name, child in module.named_children():
            owned = list(child.parameters())
            if owned and not any(parameter.requires_grad for parameter in owned) and called.isdisjoint(child.modules()):
                setattr(module, name, nn.Identity())
