"""The segmenter: an encoder and a decoder with normalisation and padding inside."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from jaxtyping import Float
from segmentation_models_pytorch.encoders import get_encoder_names, get_preprocessing_params
from torch import Tensor, nn
from torch.nn import functional

from segmenter.config import DOWNLOADED, ONE_WIDTH_A_LEVEL, SegmenterConfig

TIMM_PREFIX = "tu-"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROBE_SIDES = (64, 224, 384)  # of the image that tells which modules work; some take one size only, or none as small as 64 px
Color = tuple[float, ...]
# What smp calls the one width of a decoder.
_WIDTH = {
    "fpn": "decoder_pyramid_channels",
    "pspnet": "psp_out_channels",
    "deeplabv3": "decoder_channels",
    "deeplabv3plus": "decoder_channels",
    "pan": "decoder_channels",
    "upernet": "decoder_channels",
    "segformer": "decoder_segmentation_channels",
    "dpt": "decoder_fusion_channels",
}


class Segmenter(nn.Module):
    """Images to mask logits. Built by ``build_segmenter``.

    Any height and width: the image is extended at its right and bottom by repeating its border, up to a multiple of ``stride``, and
    the logits are cut back. No pixel moves, and a size that already is a multiple is not touched. An encoder or decoder that
    takes one size only, or none below some size, still does.

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


def build_segmenter(config: SegmenterConfig, *, seed: int, initialise: Callable[[nn.Module], None] | None = None) -> Segmenter:
    """A new segmenter in train mode, on the CPU, float32. The same arguments give the same weights, to the bit.

    ``initialise`` fills the encoder, all of it, where its weights are in a file: the stage reads none itself. The global random
    state is left as it was. Raises ValueError for an encoder that does not exist, an encoder that cannot be cut to
    ``encoder_depth`` levels or does not go with the architecture, and weights that cannot be had; and what ``initialise`` raises.

    >>> from segmenter.config import SegmenterConfig
    >>> segmenter = build_segmenter(SegmenterConfig(), seed=0).eval()
    >>> segmenter(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 1, 32, 32])
    """
    if (config.weights_file is None) != (initialise is None):
        raise ValueError(f"encoder_weights={config.weights_file}: a file goes with the function that fills the encoder from it")
    _check_encoder_exists(config.encoder)
    # With gradients even if the caller is in inference mode: the probe that finds idle modules needs them.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the GPUs as well
        network, (mean, std) = _build(config, initialise)
    return Segmenter(network, stride=2**config.encoder_depth, mean=config.mean or mean, std=config.std or std).train()


def _check_encoder_exists(encoder: str) -> None:
    names = list(get_encoder_names()) + [TIMM_PREFIX + name for name in timm.list_models()]
    if encoder.split(".")[0] in names:  # a timm name may carry the tag of its weights: tu-resnet18.a1_in1k
        return
    # The likeliest mistake is a timm name without its prefix.
    nearest = difflib.get_close_matches(encoder, names, n=3) + difflib.get_close_matches(TIMM_PREFIX + encoder, names, n=3)
    hint = f"did you mean {' or '.join(dict.fromkeys(nearest))}?" if nearest else f"it may be one of {', '.join(names[:4])} ..."
    raise ValueError(f"segmenter encoder {encoder!r} does not exist: {hint}")


def _build(config: SegmenterConfig, initialise: Callable[[nn.Module], None] | None) -> tuple[nn.Module, tuple[Color, Color]]:
    with _explained(config):
        network: nn.Module = smp.create_model(
            config.architecture,
            config.encoder,
            encoder_weights=_weights_for_smp(config),
            encoder_depth=config.encoder_depth,
            **_decoder_settings(config),
        ).eval()
        normalisation = _published_normalisation(config)
    if initialise is not None:
        initialise(network.encoder)  # type: ignore[arg-type]
    with _explained(config):
        _drop_idle_modules(network)
    return network, normalisation


@contextmanager
def _explained(config: SegmenterConfig) -> Iterator[None]:
    """Turns whatever somebody else's code raises about names of the user's choice into one line."""
    try:
        yield
    except OSError as error:  # the hub's errors for no network, no cache, no such file
        raise ValueError(
            f"the imagenet weights of segmenter encoder {config.encoder!r} are neither in the Hugging Face cache nor can they"
            " be downloaded: build it once with network access (or copy such a cache and set HF_HOME), or set encoder_weights"
            " to null"
        ) from error
    except Exception as error:  # every encoder fails in its own way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"segmenter encoder {config.encoder!r} with encoder_depth {config.encoder_depth} and encoder_weights"
            f" {config.encoder_weights or 'null'} does not make a {config.architecture}: {reason}"
        ) from error


def _weights_for_smp(config: SegmenterConfig) -> str | bool | None:
    # smp wants True instead of a name for timm's weights, and warns otherwise.
    if config.encoder_weights != DOWNLOADED:
        return None
    return True if config.encoder.startswith(TIMM_PREFIX) else DOWNLOADED


def _decoder_settings(config: SegmenterConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if config.architecture in ONE_WIDTH_A_LEVEL:
        settings["decoder_channels"] = config.decoder_channels
    elif config.decoder_channels:
        settings[_WIDTH[config.architecture]] = config.decoder_channels[0]
    # smp's defaults fit one depth each: 5 for the FPN, whose finest level is 3 below the deepest, and 3 for the PSPNet.
    if config.architecture == "fpn":
        settings["upsampling"] = 2 ** (config.encoder_depth - 3)
    if config.architecture == "pspnet":
        settings["upsampling"] = 2**config.encoder_depth
    return settings


def _published_normalisation(config: SegmenterConfig) -> tuple[Color, Color]:
    """Mean and standard deviation that the published weights of an encoder expect, as far as they are known without a download."""
    if config.mean is not None and config.std is not None:
        return config.mean, config.std
    if config.encoder.startswith(TIMM_PREFIX):
        published = timm.get_pretrained_cfg(config.encoder.removeprefix(TIMM_PREFIX), allow_unregistered=True)
        if published is not None and len(published.mean) == 3:
            return tuple(published.mean), tuple(published.std)
    elif config.encoder_weights == DOWNLOADED:
        stated = get_preprocessing_params(config.encoder, DOWNLOADED)
        if stated["input_space"] != "RGB" or stated["input_range"] != [0, 1]:
            raise ValueError(f"its weights expect {stated['input_space']} in {stated['input_range']}, not RGB in [0, 1]")
        return tuple(stated["mean"]), tuple(stated["std"])
    return IMAGENET_MEAN, IMAGENET_STD


def _drop_idle_modules(network: nn.Module) -> None:
    """Remove the modules that are never called: smp keeps the stages of an encoder that lie beyond its depth.

    They would make a small checkpoint ten times larger, and distributed training stops at parameters that get no gradient. A few
    encoders (efficientnet-b0, mobilenet_v2) do call those stages and discard the result; these parameters stay, frozen.
    """
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, _, __: called.add(module)) for module in network.modules()]
    logits = _probe(network)
    for hook in hooks:
        hook.remove()
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    for module in list(network.modules()):
        for name, child in module.named_children():
            owned = list(child.parameters())
            if owned and not any(parameter.requires_grad for parameter in owned) and called.isdisjoint(child.modules()):
                setattr(module, name, nn.Identity())


def _probe(network: nn.Module) -> Tensor:
    """Logits of a black image, of the first side that the network takes. Raises what it raised at the last."""
    for side in PROBE_SIDES:
        try:
            logits: Tensor = network(torch.zeros(1, 3, side, side))
            return logits
        except Exception as error:  # of somebody else's code
            reason = error
    raise reason
