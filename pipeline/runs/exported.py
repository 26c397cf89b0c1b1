"""``system.json``: a system that was exported, both stages in one directory that needs no run.

Beside it lie the stages, ``classifier/`` and ``segmenter/``, as in a run that trained both: what reads that reads these.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from pipeline.errors import CheckpointError, UserError
from pipeline.runs.checkpoints import Checkpoint
from pipeline.runs.files import JsonFile, file_sha256
from pipeline.runs.provenance import Provenance

EXPORTED, CLASSIFIER, SEGMENTER = "system.json", "classifier", "segmenter"
MARK = "exported"
"""In the configuration of an exported classifier."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a file of the joint system is from the module, over some images."""

    test_images: int
    """Compared on so many images of a test split."""
    seeded_images: int
    """And on so many of seeded noise."""
    logits: float
    """Largest difference of a logit, as a share of the largest logit (at least of 1)."""
    masks: float
    """Mean difference of the masks, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ExportedSystem(JsonFile):
    """What an exported system is."""

    REMEDY: ClassVar[str] = "export it again"
    ERROR: ClassVar[type[UserError]] = CheckpointError

    name: str
    """For people."""
    masks: dict[str, Any]
    """The whole ``MaskConfig`` that it is used with, which may be another one than its classifier was trained with."""
    has_segmenter: bool
    classes: tuple[str, ...]
    """In the order of the logits."""
    image_size: int
    """Height and width of the training images, in pixels."""
    size_step: Annotated[int, Field(ge=1)] | None
    """The files of the joint system take images whose height and width are a multiple of it; None: of ``image_size`` alone."""
    smallest: Annotated[int, Field(ge=1)] | None
    """And not less than so many pixels; None likewise."""
    parity: dict[str, Parity]
    """Of the files of the joint system, by name."""
    files: dict[str, str]
    """SHA-256 of every other file but README.md, by name."""
    provenance: Provenance
    """What exported it."""

    def check_stages(self, path: Path) -> None:
        """Raises CheckpointError where a file of the stages in the directory ``path`` is not the one that was exported: those of
        two exports may each be whole."""
        for name, sha256 in self.files.items():
            parts = PurePosixPath(name).parts
            if not parts or parts[0] not in (CLASSIFIER, SEGMENTER):
                continue
            if ".." in parts:
                raise CheckpointError(f"{path / EXPORTED}: damaged (files: {name!r} lies elsewhere); {self.REMEDY}")
            if not (path / name).is_file():
                raise CheckpointError(f"{path / name}: is missing; {self.REMEDY}")
            if file_sha256(path / name) != sha256:
                raise CheckpointError(f"{path / name}: is not the file that {EXPORTED} names (its SHA-256 differs); {self.REMEDY}")


class Exported(NamedTuple):
    """What an exported directory adds to its classifier."""

    name: str
    masks: dict[str, Any]
    segmenter: Path | None


def read_exported(path: Path) -> Exported | None:
    """What a directory says of masks and segmenter, if it is an exported one; else None. Raises CheckpointError: damaged, or mixed
    from several."""
    if not (path / EXPORTED).is_file():
        return None
    found = ExportedSystem.read(path / EXPORTED)
    found.check_stages(path)
    return Exported(found.name, found.masks, path / SEGMENTER if found.has_segmenter else None)


def check_whole(path: Path, classifier: Checkpoint) -> None:
    """Raises CheckpointError for the directory of an exported system that has lost its ``system.json``: it would be read as the run
    of its classifier, with the masks of training."""
    if classifier.config.get(MARK) and path.is_dir() and not (path / EXPORTED).is_file():
        raise CheckpointError(f"{path / EXPORTED}: is missing; {ExportedSystem.REMEDY}")
