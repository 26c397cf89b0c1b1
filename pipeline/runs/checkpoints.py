"""Checkpoints: weights in safetensors beside a JSON that says what they are.

A checkpoint ``best`` is ``best.json`` and the weights file that it names, ``best-<start of their sha256>.safetensors``. The JSON
is the commit point: weights are written under a new name and flushed to the disk before the JSON replaces its predecessor, and
weights that the JSON does not name are deleted after that. A full disk or a killed process leaves the previous checkpoint whole.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import safetensors.torch
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from classifier.config import ClassifierConfig
from classifier.model import Classifier, build_classifier
from pipeline.config import adapter_of
from pipeline.errors import CheckpointError, UserError, said
from pipeline.runs.files import JsonFile, read_bytes, write_atomically
from pipeline.runs.provenance import Provenance
from segmenter.config import SegmenterConfig
from segmenter.model import Segmenter, build_segmenter

Config = TypeVar("Config", bound=SegmenterConfig | ClassifierConfig)
Stage = TypeVar("Stage", bound=nn.Module)
StageKind = Literal["segmenter", "classifier"]


@dataclass(frozen=True, kw_only=True)
class SegmenterReference:
    """Which segmenter a classifier was trained with, and where it lay."""

    path: str
    """Its run or checkpoint, absolute."""
    relative: str
    """The same, from the directory of the classifier's run: where both are moved together, it is found by this."""
    sha256: str
    """Of its weights."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(JsonFile):
    """What the JSON of a checkpoint says about its weights."""

    REMEDY: ClassVar[str] = "train again, into another directory"
    ERROR: ClassVar[type[UserError]] = CheckpointError

    kind: StageKind
    """Which stage the weights belong to."""
    architecture: dict[str, Any]
    """The stage's configuration: what the module is built from."""
    config: dict[str, Any]
    """The whole configuration of the run that trained it."""
    classes: tuple[str, ...]
    """Class names of the data set, in the order of the logits."""
    image_size: int
    """Height and width of the training images, in pixels."""
    data_fingerprint: str
    """Fingerprint of the prepared data set."""
    mean_color: tuple[float, float, float]
    """Mean of the training images, red, green and blue in [0,1]: what the fill ``mean`` fills with, on other data as well."""
    provenance: Provenance
    """Versions and the commit of the code."""
    step: int
    """Optimizer steps taken."""
    epoch: int
    """Epochs finished."""
    metrics: dict[str, float]
    """What was measured on the validation split."""
    segmenter: SegmenterReference | None = None
    """Of a classifier that was trained behind one."""
    weights: Annotated[str, Field(pattern=r"^[^/]+\.safetensors$")] = ""
    """File with the weights, beside the JSON; it is named when the checkpoint is saved."""
    sha256: str = ""
    """SHA-256 of that file, likewise."""
    precision: Literal["float32", "float16"] = "float32"
    """Of the weights in the file; they are loaded in single precision."""


def save_checkpoint(directory: Path, name: str, checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> Path:
    """Write ``directory/name.json`` and its weights; returns the path of the JSON.

    Interrupted at any moment, the previous checkpoint of that name stays usable. Raises ``RunError`` where the directory cannot be
    written.
    """
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in weights.items()})
    digest = hashlib.sha256(content).hexdigest()
    weights_path = directory / f"{name}-{digest[:16]}.safetensors"
    write_atomically(weights_path, content)
    path = directory / f"{name}.json"
    replace(checkpoint, weights=weights_path.name, sha256=digest).write(path)
    for left_over in directory.glob(f"{name}-*.safetensors*"):
        if left_over != weights_path:
            left_over.unlink(missing_ok=True)
    return path


def checkpoint_path(path: Path, kind: StageKind) -> Path:
    """The JSON that a path means for a stage: itself, or the best checkpoint of a run directory.

    A run that trained both stages keeps them in two folders of the names of the kinds, each as a run of that stage alone has it: it
    stands for either stage.
    """
    if not path.is_dir():
        return path
    return (path / kind if (path / kind).is_dir() else path) / "checkpoints" / "best.json"


def read_checkpoint(path: Path, kind: StageKind) -> Checkpoint:
    """What a checkpoint says about itself, without loading its weights.

    ``path`` is the JSON of a checkpoint or a run directory, whose best checkpoint of that stage is meant. Raises
    ``CheckpointError``, also for the other stage.
    """
    place = checkpoint_path(path, kind)
    if path.is_dir() and not place.exists():
        raise CheckpointError(f"{path}: holds no trained {kind}; name the directory of a run that has one, or a JSON of it")
    checkpoint = Checkpoint.read(place)
    if checkpoint.kind != kind:
        raise CheckpointError(f"{place}: this is a checkpoint of a {checkpoint.kind}, expected one of a {kind}")
    return checkpoint


def weights_digest(path: Path, kind: StageKind) -> str:
    """SHA-256 of a checkpoint's weights, as its JSON states it. Raises ``CheckpointError``."""
    return read_checkpoint(path, kind).sha256


def refer_to_segmenter(segmenter: Path, *, sha256: str, run: Path) -> SegmenterReference:
    """How the checkpoints in ``run`` name the segmenter that they are trained with."""
    absolute = segmenter.resolve()
    return SegmenterReference(path=str(absolute), relative=os.path.relpath(absolute, run.resolve()), sha256=sha256)


def find_segmenter(classifier: Path, reference: SegmenterReference) -> Path:
    """Where the segmenter of a classifier lies now: where it lay, or in the same place beside the classifier if both were moved.

    ``classifier`` is the run or a checkpoint. Raises ``CheckpointError`` where it is in neither place, or only another one is.
    """
    run = checkpoint_path(classifier, "classifier").resolve().parent.parent
    others = []
    for place in (run / reference.relative, Path(reference.path)):
        if place.exists():
            if weights_digest(place, "segmenter") == reference.sha256:
                return place
            others.append(place)
    if not others:
        raise CheckpointError(f"{reference.path}: the segmenter that {run} was trained with is not there: say segmenter_run=...")
    raise CheckpointError(
        f"{others[0]}: holds another segmenter than the one that {run} was trained with;"
        f" if that is meant, say segmenter_run={others[0]}"
    )


def state_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of a module's state: equal where two modules of one code are the same."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            digest.update(f"{name}:{value!r};".encode())
            continue
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def load_segmenter(path: Path) -> tuple[Segmenter, Checkpoint]:
    """Build the segmenter that a checkpoint describes and load its weights. Raises ``CheckpointError``."""
    checkpoint, path = read_checkpoint(path, "segmenter"), checkpoint_path(path, "segmenter")
    config = _architecture(path, checkpoint, SegmenterConfig).without_weights()
    return _built(path, checkpoint, lambda: build_segmenter(config, seed=0)), checkpoint


def load_classifier(path: Path, *, classes: tuple[str, ...] | None = None) -> tuple[Classifier, Checkpoint]:
    """Build the classifier that a checkpoint describes and load its weights.

    ``classes`` are those of the data it is meant for; other ones in the checkpoint raise ``CheckpointError``, like any damage.
    """
    checkpoint, path = read_checkpoint(path, "classifier"), checkpoint_path(path, "classifier")
    _check_classes(path, checkpoint, classes)
    config = _architecture(path, checkpoint, ClassifierConfig).without_weights()
    num_classes = len(checkpoint.classes)
    return _built(path, checkpoint, lambda: build_classifier(config, num_classes=num_classes, seed=0)), checkpoint


def load_weights(path: Path, module: nn.Module, *, kind: StageKind, classes: tuple[str, ...] | None = None) -> None:
    """Load a checkpoint's weights into a module, strictly: every key, every shape, and the content as it was written.

    Raises ``CheckpointError`` for a missing or damaged file, the other stage, other classes, another architecture.
    """
    checkpoint, path = read_checkpoint(path, kind), checkpoint_path(path, kind)
    _check_classes(path, checkpoint, classes)
    weights = _read_weights(path, checkpoint)
    _check_fit(path, module, weights)
    module.load_state_dict(weights, strict=True)


def _built(path: Path, checkpoint: Checkpoint, build: Callable[[], Stage]) -> Stage:
    """The stage with its weights. A checkpoint may claim any width: what it claims is laid out without memory first, and has to be
    what the weights are."""
    weights = _read_weights(path, checkpoint)
    try:
        with torch.device("meta"):
            _check_fit(path, build(), weights)
    except (ValueError, RuntimeError) as error:
        if "meta tensors" not in str(error):  # some encoders look at numbers while they are built
            raise CheckpointError(f"{path}: cannot be built: {said(error, 200)}; {Checkpoint.REMEDY}") from error
    module = build()
    _check_fit(path, module, weights)
    module.load_state_dict(weights, strict=True)
    return module.eval()


def _read_weights(path: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    weights_path = path.parent / checkpoint.weights
    content = read_bytes(weights_path, error=CheckpointError)
    if hashlib.sha256(content).hexdigest() != checkpoint.sha256:
        raise CheckpointError(f"{weights_path}: damaged, its SHA-256 is not the one in {path.name}; {Checkpoint.REMEDY}")
    try:
        weights = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:  # KeyError: a type that torch does not have
        raise CheckpointError(f"{weights_path}: no safetensors file: {said(error, 200)}") from error
    if checkpoint.precision == "float32":
        return weights
    return {key: value.float() if value.dtype == torch.float16 else value for key, value in weights.items()}


def _check_classes(path: Path, checkpoint: Checkpoint, classes: tuple[str, ...] | None) -> None:
    if classes is not None and len(classes) != len(checkpoint.classes):
        raise CheckpointError(f"{path}: trained for {len(checkpoint.classes)} classes, but the data set has {len(classes)}")
    if classes is not None and classes != checkpoint.classes:
        pairs = enumerate(zip(checkpoint.classes, classes, strict=True))
        index, (old, new) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
        first = f"class {index} is {old!r} in the checkpoint, {new!r} in the data set"
        raise CheckpointError(f"{path}: trained for other classes ({first})")


def _architecture(path: Path, checkpoint: Checkpoint, config_class: type[Config]) -> Config:
    try:
        architecture: Config = adapter_of(config_class).validate_python(checkpoint.architecture)
        return architecture
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(("architecture", *(str(part) for part in first["loc"])))
        raise CheckpointError(f"{path}: {where}: {first['msg']}") from error


def _check_fit(path: Path, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    expected = module.state_dict()
    for key, value in expected.items():
        found = weights.get(key)
        if found is None:
            raise CheckpointError(f"{path}: of another architecture: {key} is missing")
        if (found.shape, found.dtype) != (value.shape, value.dtype):
            shapes = f"{_described(found)}, expected {_described(value)}"
            raise CheckpointError(f"{path}: of another architecture: {key} is {shapes}")
    surplus = sorted(set(weights) - set(expected))
    if surplus:
        raise CheckpointError(f"{path}: of another architecture: {surplus[0]} is unexpected")


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
