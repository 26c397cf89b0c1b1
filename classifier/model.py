"""The classifier: a ResNet or a network of timm with its normalisation inside."""

import difflib
from collections.abc import Callable, Sequence, Set
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import resnet

from classifier.config import DOWNLOADED, ClassifierConfig

DEFAULT_WIDTH = 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESNETS: dict[str, tuple[Callable[..., nn.Module], resnet.WeightsEnum]] = {
    "resnet18": (resnet.resnet18, resnet.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": (resnet.resnet34, resnet.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": (resnet.resnet50, resnet.ResNet50_Weights.IMAGENET1K_V2),
}


class Classifier(nn.Module):
    """Images to class logits. Built by ``build_classifier``.

    Any height and width: the last layer averages over positions. Transformers of timm mostly take one size alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Wrap a module from normalised images (B,3,H,W) to logits (B, ``num_classes``)."""
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Class logits: the softmax is each class's probability.

        Images are in [0,1]. The range is not checked: this is called in the inner loop of attacks, and a finite-difference test
        steps outside it.
        """
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def build_classifier(
    config: ClassifierConfig,
    *,
    num_classes: int,
    seed: int,
    initialise: Callable[[nn.Module, Set[str]], None] | None = None,
) -> Classifier:
    """A new classifier in train mode, on the CPU, float32. The same arguments give the same weights, to the bit.

    With ``weights`` all layers but the last are the published ones; the last is drawn from the seed. Where they are in a file,
    ``initialise(network, last)`` fills them, ``last`` being the names of the last layer's tensors: the stage reads none itself.
    The global random state is left as it was. Raises ValueError for fewer than 2 classes, for a network that does not exist and for
    weights that cannot be had; and what ``initialise`` raises.

    >>> from classifier.config import ClassifierConfig
    >>> classifier = build_classifier(ClassifierConfig(), num_classes=10, seed=0).eval()
    >>> classifier(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if num_classes < 2:
        raise ValueError(f"a classifier needs 2 classes or more, not {num_classes}")
    if (config.weights_file is None) != (initialise is None):
        raise ValueError(f"weights={config.weights_file}: a file goes with the function that fills the network from it")
    published: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "classifier": "fc"}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the GPUs as well
        if config.architecture == "small_resnet":
            network: nn.Module = _small_resnet(config.width or DEFAULT_WIDTH, num_classes)
        elif config.architecture == "timm":
            network = _timm_network(config, num_classes)
            published |= _published(network)
            if config.weights is not None:
                _draw_again(network, published["classifier"])
        else:
            network = _torchvision_resnet(config, num_classes)
    if initialise is not None:
        last = published["classifier"]
        prefixes = tuple(f"{module}." for module in ((last,) if isinstance(last, str) else last))
        initialise(network, {name for name in network.state_dict() if name.startswith(prefixes)})
    mean, std = config.mean or published["mean"], config.std or published["std"]
    return Classifier(network, num_classes=num_classes, mean=mean, std=std).train()


def _small_resnet(width: int, num_classes: int) -> nn.Module:
    """Small stem and four basic blocks; the last three halve the image and double the channels."""
    network = nn.Sequential(
        _small_stem(width),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        resnet.BasicBlock(width, width),
        *(_halving_block(width * factor) for factor in (1, 2, 4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            _initialise(module)
    return network


def _halving_block(channels: int) -> nn.Module:
    shortcut = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False), nn.BatchNorm2d(2 * channels))
    block: nn.Module = resnet.BasicBlock(channels, 2 * channels, stride=2, downsample=shortcut)
    return block


def _small_stem(channels: int) -> nn.Conv2d:
    return nn.Conv2d(3, channels, kernel_size=3, padding=1, bias=False)


def _initialise(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does


def _torchvision_resnet(config: ClassifierConfig, num_classes: int) -> nn.Module:
    build, imagenet = _RESNETS[config.architecture]
    if config.weights != DOWNLOADED:
        network = build(num_classes=num_classes)
    else:
        network = _with_weights(build, imagenet, config.architecture)
        network.fc = nn.Linear(network.fc.in_features, num_classes)  # type: ignore[union-attr, arg-type]
    if config.stem != "imagenet":
        network.conv1, network.maxpool = _small_stem(64), nn.Identity()
        _initialise(network.conv1)
    return network


def _with_weights(build: Callable[..., nn.Module], imagenet: resnet.WeightsEnum, architecture: str) -> nn.Module:
    try:
        return build(weights=imagenet)
    except (OSError, RuntimeError) as error:  # no network, no writable cache, or a download whose hash is wrong
        raise ValueError(
            f"the imagenet weights of {architecture} are neither in torch's cache nor can they be downloaded: put {imagenet.url}"
            f" into {torch.hub.get_dir()}/checkpoints, or set weights to null ({error})"
        ) from error


def _timm_network(config: ClassifierConfig, num_classes: int) -> nn.Module:
    assert config.name is not None
    names = timm.list_models()
    if config.name.split(".")[0] not in names:  # the rest is the tag of its weights
        nearest = difflib.get_close_matches(config.name, names, n=3)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"it may be one of {', '.join(names[:4])} ..."
        raise ValueError(f"timm has no network {config.name!r}: {hint}")
    try:
        network: nn.Module = timm.create_model(config.name, pretrained=config.weights == DOWNLOADED, num_classes=num_classes)
        return network
    except OSError as error:  # the hub's errors for no network, no cache, no such file
        raise ValueError(
            f"the imagenet weights of {config.name} are neither in the Hugging Face cache nor can they be downloaded: build it once"
            " with network access (or copy such a cache and set HF_HOME), or set weights to null"
        ) from error
    except Exception as error:  # somebody else's code on a name of the user's choice: every network fails in its own way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"timm does not make {config.name} with weights {config.weights or 'null'}: {reason}") from error


def _draw_again(network: nn.Module, last: str | Sequence[str]) -> None:
    """Draw the last layer on published features as torch does, within 1/sqrt(features) of zero.

    timm draws that of its EfficientNets within 1/sqrt(classes), which is meant for a thousand: with nine, the logits begin at
    plus and minus seven, and the first epochs undo that at the price of the features.
    """
    for name in (last,) if isinstance(last, str) else last:
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def _published(network: nn.Module) -> dict[str, Any]:
    """What timm states of a network's published weights: normalisation, if it is of colors, and the last layer or layers."""
    stated: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    colors = len(stated.get("mean", ())) == 3
    return {key: stated[key] for key in ("mean", "std", "classifier") if stated.get(key) and (colors or key == "classifier")}
