"""Checkpoints: weights in safetensors beside a JSON that says what they are, and the state that a run resumes from.

A checkpoint ``best`` is ``best.json`` and the weights file that it names, ``best-<start of their sha256>.safetensors``. The JSON
is the commit point: weights are written under a new name and flushed to the disk before the JSON replaces its predecessor, and
weights that the JSON does not name are deleted after that. A full disk or a killed process leaves the previous checkpoint whole.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeVar
from zipfile import BadZipFile, ZipFile

import safetensors.torch
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from classifier.config import ClassifierConfig
from classifier.model import Classifier, build_classifier
from pipeline.config import adapter_of
from pipeline.errors import CheckpointError
from pipeline.runs.files import write_atomically
from pipeline.runs.provenance import Provenance
from segmenter.config import SegmenterConfig
from segmenter.model import Segmenter, build_segmenter

Config = TypeVar("Config", bound=SegmenterConfig | ClassifierConfig)
StageKind = Literal["segmenter", "classifier"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the JSON of a checkpoint says about its weights."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

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
    """Optimiser steps taken."""
    epoch: int
    """Epochs finished."""
    metrics: dict[str, float]
    """What was measured on the validation split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored(Checkpoint):
    __pydantic_config__ = ConfigDict(extra="forbid")

    weights: str
    sha256: str


_STORED = TypeAdapter(_Stored)


def save_checkpoint(directory: Path, name: str, checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> Path:
    """Write ``directory/name.json`` and its weights; returns the path of the JSON.

    Interrupted at any moment, the previous checkpoint of that name stays usable. Raises ``RunError`` where the directory cannot be
    written.
    """
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in weights.items()})
    digest = hashlib.sha256(content).hexdigest()
    weights_path = directory / f"{name}-{digest[:16]}.safetensors"
    write_atomically(weights_path, content)
    stored = _Stored(**vars(checkpoint), weights=weights_path.name, sha256=digest)
    path = directory / f"{name}.json"
    write_atomically(path, _STORED.dump_json(stored, indent=2) + b"\n")
    for left_over in directory.glob(f"{name}-*.safetensors*"):
        if left_over != weights_path:
            left_over.unlink(missing_ok=True)
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """What a checkpoint says about itself, without loading its weights.

    ``path`` is the JSON of a checkpoint or a run directory, whose best checkpoint is meant. Raises ``CheckpointError``.
    """
    stored = _read(checkpoint_path(path))
    return Checkpoint(**{field.name: getattr(stored, field.name) for field in dataclasses.fields(Checkpoint)})


def checkpoint_path(path: Path) -> Path:
    """The JSON that a path means: itself, or the best checkpoint of a run directory."""
    return path / "checkpoints" / "best.json" if path.is_dir() else path


def weights_digest(path: Path) -> str:
    """SHA-256 of a checkpoint's weights, as its JSON states it. Raises ``CheckpointError``."""
    return _read(checkpoint_path(path)).sha256


def load_segmenter(path: Path) -> tuple[Segmenter, Checkpoint]:
    """Build the segmenter that a checkpoint describes and load its weights. Raises ``CheckpointError``."""
    checkpoint = read_checkpoint(path)
    config = _architecture(path, checkpoint, "segmenter", SegmenterConfig)
    module = build_segmenter(dataclasses.replace(config, encoder_weights=None), seed=0)
    load_weights(path, module, kind="segmenter")
    return module.eval(), checkpoint


def load_classifier(path: Path, *, classes: tuple[str, ...] | None = None) -> tuple[Classifier, Checkpoint]:
    """Build the classifier that a checkpoint describes and load its weights.

    ``classes`` are those of the data it is meant for; other ones in the checkpoint raise ``CheckpointError``, like any damage.
    """
    checkpoint = read_checkpoint(path)
    config = _architecture(path, checkpoint, "classifier", ClassifierConfig)
    module = build_classifier(dataclasses.replace(config, weights=None), num_classes=len(checkpoint.classes), seed=0)
    load_weights(path, module, kind="classifier", classes=classes)
    return module.eval(), checkpoint


def load_weights(path: Path, module: nn.Module, *, kind: StageKind, classes: tuple[str, ...] | None = None) -> None:
    """Load a checkpoint's weights into a module, strictly: every key, every shape, and the content as it was written.

    Raises ``CheckpointError`` for a missing or damaged file, the other stage, other classes, another architecture.
    """
    path = checkpoint_path(path)
    stored = _read(path)
    if stored.kind != kind:
        raise CheckpointError(f"{path}: this is a checkpoint of a {stored.kind}, expected one of a {kind}")
    if classes is not None and len(classes) != len(stored.classes):
        raise CheckpointError(f"{path}: trained for {len(stored.classes)} classes, but the data set has {len(classes)}")
    if classes is not None and classes != stored.classes:
        raise CheckpointError(f"{path}: trained for other classes ({_first_difference(stored.classes, classes)})")
    weights_path = path.parent / stored.weights
    content = _read_bytes(weights_path)
    if hashlib.sha256(content).hexdigest() != stored.sha256:
        raise CheckpointError(f"{weights_path}: damaged, its SHA-256 is not the one in {path.name}")
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{weights_path}: no safetensors file: {error}") from error
    if (mismatch := _mismatch(module.state_dict(), weights)) is not None:
        raise CheckpointError(f"{path}: of another architecture: {mismatch}")
    module.load_state_dict(weights, strict=True)


def save_training_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what a run resumes from: tensors, numbers, strings and containers of these. Raises ``RunError``."""
    buffer = BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_training_state(path: Path) -> dict[str, Any]:
    """Read a training state, running no code from it (``weights_only=True``). Raises ``CheckpointError``."""
    content = BytesIO(_read_bytes(path))
    try:
        damaged = ZipFile(content).testzip()  # torch does not check the sums that it writes
    except BadZipFile as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged: wrong checksum of {damaged}")
    content.seek(0)
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can fail with any exception
        raise CheckpointError(f"{path}: no training state: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: no training state: holds a {type(state).__name__}")
    return state


def _read(path: Path) -> _Stored:
    try:
        return _STORED.validate_json(_read_bytes(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: no checkpoint: {where + ': ' if where else ''}{first['msg']}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _architecture(path: Path, checkpoint: Checkpoint, kind: StageKind, config_class: type[Config]) -> Config:
    if checkpoint.kind != kind:
        raise CheckpointError(f"{checkpoint_path(path)}: this is a checkpoint of a {checkpoint.kind}, expected one of a {kind}")
    try:
        architecture: Config = adapter_of(config_class).validate_python(checkpoint.architecture)
        return architecture
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(("architecture", *(str(part) for part in first["loc"])))
        raise CheckpointError(f"{checkpoint_path(path)}: {where}: {first['msg']}") from error


def _mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for key in expected:
        if key not in found:
            return f"{key} is missing"
        if expected[key].shape != found[key].shape:
            return f"{key} has the shape {tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
    surplus = sorted(set(found) - set(expected))
    return f"{surplus[0]} is unexpected" if surplus else None


def _first_difference(left: tuple[str, ...], right: tuple[str, ...]) -> str:
    index = next(index for index, (one, other) in enumerate(zip(left, right, strict=True)) if one != other)
    return f"class {index} is {left[index]!r} in the checkpoint, {right[index]!r} in the data set"
