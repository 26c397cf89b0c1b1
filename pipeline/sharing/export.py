"""The command ``foreguard export``: a trained system as one directory that loads without its run."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import to_plain
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import read_rows
from pipeline.errors import CheckpointError, ConfigError, RunError, writing
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.loading import trained_segmenter
from pipeline.prediction.choice import ChosenSystem, choose_system, load_trained_system
from pipeline.progress import progress_bar
from pipeline.runs.checkpoints import Checkpoint, SegmenterReference, read_checkpoint, save_checkpoint
from pipeline.runs.exported import CLASSIFIER, EXPORTED, MARK, SEGMENTER, ExportedSystem, Parity
from pipeline.runs.files import write_atomically
from pipeline.runs.hub import check_repository, push
from pipeline.runs.provenance import provenance
from pipeline.runs.replacing import new_directory
from pipeline.sharing.card import CARD, card, gather
from pipeline.sharing.config import ExportConfig
from pipeline.sharing.joint import BATCH, FILES, Joint, check_parity, check_possible, seeded_images, trace, write_file
from pipeline.system import TwoStage, context_of

IMAGES = 200
"""Test images that a file has to agree on."""
_RECIPE = ("masks", "objective", "label_smoothing", "augment", "trainer", "mask_weight", "attack_on", "updates")
"""What is handed on of the configuration of a training: its recipe, and no path of the machine that it was trained on."""


def export(config: ExportConfig) -> None:
    """Write the directory, or nothing, and push it where that is asked for. Raises ``UserError`` of the kind that fits."""
    if config.push is not None:
        check_repository(config.push)
    _check_target(config.out, force=config.force)
    chosen = choose_system(config.run, config.segmenter_run, config.masks, arm=config.arm)
    system, checkpoint = load_trained_system(chosen, device=torch.device("cpu"), with_data=True)
    check_possible(system, config.files)
    if config.half and config.prepared is not None:
        _halve(config.prepared, system)
    with new_directory(config.out, replace=config.force) as made:
        parity = _write(config, made, chosen, system, checkpoint)
        _check_target(config.out, force=config.force)  # somebody may have put something there meanwhile
    for name, one in parity.items():
        print(f"{name}: the same prediction on {_compared(one)}, logits within {one.logits:.1e} of their size")
    print(f"system: {chosen.name}\nexported: {config.out}")
    if config.push is not None:
        print(f"pushed: {push(config.out, config.push, public=config.public)}")


def _compared(parity: Parity) -> str:
    tested = f"{parity.test_images} test images and " if parity.test_images else ""
    return f"{tested}{parity.seeded_images} images of seeded noise"


def _check_target(out: Path, *, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / EXPORTED).is_file():
        raise RunError(f"{out}: holds something that is no exported system; choose another directory with out=...")
    if not force:
        raise RunError(f"{out}: holds an exported system; say force=true to replace it, or choose another directory with out=...")
    try:
        own = {*ExportedSystem.read(out / EXPORTED).files, EXPORTED, CARD}
    except CheckpointError as error:
        raise RunError(f"{error}, into another directory: which files here are of the system is not known any more") from error
    foreign = sorted(set(_names(out)) - own)
    if foreign:
        raise RunError(f"{out / foreign[0]}: is not of the system that was exported there: move it away, or choose another out=...")


def _write(config: ExportConfig, made: Path, chosen: ChosenSystem, system: TwoStage, checkpoint: Checkpoint) -> dict[str, Parity]:
    evidence = gather(chosen, checkpoint, config.prepared)
    classifier, segmenter = _write_stages(made, chosen, system, checkpoint, half=config.half)
    parity, size_step, smallest = _write_files(config, made, system, checkpoint)
    description = ExportedSystem(
        name=_name(chosen, system),
        masks=to_plain(system.mask_config),
        has_segmenter=segmenter is not None,
        classes=checkpoint.classes,
        image_size=checkpoint.image_size,
        size_step=size_step,
        smallest=smallest,
        parity=parity,
        files={name: hashlib.sha256((made / name).read_bytes()).hexdigest() for name in _names(made)},
        provenance=provenance(),
    )
    description.write(made / EXPORTED)
    write_atomically(made / CARD, card(description, classifier, segmenter, evidence).encode())
    return parity


def _name(chosen: ChosenSystem, system: TwoStage) -> str:
    """What it is called, without the directory that it lay in."""
    run = chosen.classifier_run.resolve()
    named = run if run.is_dir() else run.parent.parent  # it may be the JSON of a checkpoint
    return f"{named.name}, masks {system.mask_config.source.value}"


def _names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())


def _halve(prepared: Path, system: TwoStage) -> None:
    """Round the weights to half precision. Raises RunError where that changes a prediction."""
    dataset = open_prepared(prepared)
    batch = read_rows(dataset, choose_rows(dataset, "test", IMAGES))
    context = system.freeze(batch.images, context_of(batch))
    with torch.no_grad():
        before = system(batch.images, context).argmax(dim=1)
        for value in (*system.parameters(), *system.buffers()):
            if value.is_floating_point():
                value.copy_(value.half())
        after = system(batch.images, system.freeze(batch.images, context)).argmax(dim=1)
    if changed := int((before != after).sum()):
        raise RunError(f"half: {changed} of {len(before)} test images get another prediction in half precision; leave half out")


def _write_stages(
    made: Path, chosen: ChosenSystem, system: TwoStage, checkpoint: Checkpoint, *, half: bool
) -> tuple[Checkpoint, Checkpoint | None]:
    """Both stages as their runs have them, so that what reads those reads these. Returns what is said of the two."""
    segmenter, reference = None, checkpoint.segmenter
    if system.segmenter is not None:
        source = system.mask_config.source
        path = chosen.segmenter_run or trained_segmenter(chosen.classifier_run, checkpoint, source)
        segmenter = _shared(read_checkpoint(path, "segmenter"), half=half)
        save_checkpoint(made / SEGMENTER / "checkpoints", "best", segmenter, _stored(system.segmenter, half=half))
    if reference is not None:
        reference = SegmenterReference(path=SEGMENTER, relative=f"../{SEGMENTER}", sha256=reference.sha256)
    shared = _shared(checkpoint, half=half)
    trained = dataclasses.replace(shared, segmenter=reference, config={**shared.config, MARK: True})
    save_checkpoint(made / CLASSIFIER / "checkpoints", "best", trained, _stored(system.classifier, half=half))
    return trained, segmenter


def _stored(stage: nn.Module, *, half: bool) -> dict[str, Tensor]:
    return {name: value.half() if half and value.is_floating_point() else value for name, value in stage.state_dict().items()}


def _shared(checkpoint: Checkpoint, *, half: bool) -> Checkpoint:
    """Without the paths of the machine: of a file with initial weights the name, which its SHA-256 stands beside."""
    config: dict[str, Any] = {key: checkpoint.config[key] for key in _RECIPE if key in checkpoint.config}
    if isinstance(config.get("trainer"), dict):
        config["trainer"] = {key: value for key, value in config["trainer"].items() if key != "trackers"}
    initial = {key: checkpoint.architecture.get(key) for key in ("weights", "encoder_weights")}
    names = {key: Path(value).name for key, value in initial.items() if value is not None}
    return dataclasses.replace(
        checkpoint,
        config=config,
        architecture={**checkpoint.architecture, **names},
        precision="float16" if half else checkpoint.precision,
    )


def _write_files(
    config: ExportConfig, made: Path, system: TwoStage, checkpoint: Checkpoint
) -> tuple[dict[str, Parity], int | None, int | None]:
    if not config.files:
        return {}, None, None
    joint, kinds = Joint(system).eval(), list(dict.fromkeys(config.files))
    parity = {}
    with progress_bar("export", total=1 + 2 * len(kinds), unit="steps") as advance:
        traced = trace(joint, checkpoint.image_size)
        advance()
        for kind in kinds:
            with writing(config.out / FILES[kind]):
                function = write_file(kind, made / FILES[kind], traced, checkpoint.classes)
            advance()
            seeded = seeded_images(checkpoint.image_size, traced.size_step)
            parity[FILES[kind]] = check_parity(FILES[kind], function, joint, seeded=seeded, test=_test_images(config, checkpoint))
            advance()
    return parity, traced.size_step, traced.smallest


def _test_images(config: ExportConfig, checkpoint: Checkpoint) -> Iterator[Tensor]:
    """What a file is compared on beside noise."""
    if config.prepared is None:
        return
    dataset = open_prepared(config.prepared)
    if dataset.image_size != checkpoint.image_size:
        raise ConfigError(
            f"prepared: its images are {dataset.image_size} px wide, and the system was trained at {checkpoint.image_size}"
        )
    rows = choose_rows(dataset, "test", IMAGES)
    for start in range(0, len(rows), BATCH):
        yield read_rows(dataset, rows[start : start + BATCH]).images
