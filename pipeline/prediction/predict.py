"""The command ``foreguard predict``: class, confidence and mask for the user's own images."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from pipeline.arithmetic import tf32_disabled
from pipeline.data.images import Box, open_image, square_around
from pipeline.data.preview import draw_outline
from pipeline.data.rules import REMEDIES, Rejected, note_lines
from pipeline.data.seeds import sample_seed
from pipeline.errors import DataError, RunError, writing
from pipeline.evaluation.devices import choose_device
from pipeline.interrupts import told
from pipeline.masks.context import MaskContext
from pipeline.prediction.choice import choose_system, load_trained_system
from pipeline.prediction.config import PredictConfig
from pipeline.prediction.listing import MASKS, OVERLAYS, PREDICTIONS, Listing, left_alone_lines, list_images
from pipeline.progress import progress_bar
from pipeline.runs.checkpoints import Checkpoint
from pipeline.system import TwoStage, attacked

MIN_SIDE, MAX_SIDE = 256, 512
_BACKGROUND = 0.3
"""Brightness that is left where the mask is 0."""
MAX_NAMED = 5
"""Unreadable images that the terminal names; the rest are in the file."""


class Square(NamedTuple):
    """A readable image, cut."""

    number: int
    """Position in the listing, from 1."""
    name: str
    """Path relative to the folder."""
    pixels: UInt8[np.ndarray, "side side 3"]
    """The square as the system sees it."""
    shown: UInt8[np.ndarray, "drawn drawn 3"] | None
    """The square as large as it is drawn: a batch of photographs at their own resolution would fill the memory. None: it is not."""
    box: Box
    """Of the square in pixels of the file; it may reach beyond it."""
    notes: frozenset[str]
    """What is to be said of how it was read, by the names of ``rules.NOTES``."""


def predict(config: PredictConfig) -> None:
    """Predict and say what was done. Nothing is overwritten; an unreadable image costs its own line only.

    ``predictions.jsonl`` has one line an image in the order of their paths: file, class, confidence (the classifier's own
    probability, not calibrated), mask_share (mean of the mask over the square, 1 without masks), box, mask and overlay (null
    where none is drawn); or file and error. Raises ``UserError`` of the kind that fits, DataError also where not one image can be
    read.
    """
    listing, device = list_images(config.images), choose_device(config.accelerator)
    chosen = choose_system(config.run, config.segmenter_run, config.masks, arm=config.arm)
    system, checkpoint = load_trained_system(chosen, device=device)
    out = Path("predictions") / config.images.resolve().stem if config.out is None else config.out
    _make_directory(out, (MASKS, OVERLAYS) if config.overlays else (MASKS,))
    try:
        with tf32_disabled(device), writing(out), (out / PREDICTIONS).open("w", encoding="ascii") as lines:
            errors, notes = _predict_all(config, out, listing.files, system, checkpoint, lines)
        if len(errors) == len(listing.files):
            what = f"not one of the {len(errors)} images of {config.images} can be read"
            raise DataError(f"images: {what}; the first is {errors[0][0]}: {errors[0][1]}")
    except Exception:
        with suppress(OSError):
            if '"class": ' not in (out / PREDICTIONS).read_text(encoding="ascii"):  # of no image anything: nothing is lost
                shutil.rmtree(out)
        raise
    print(f"system: {chosen.name}, masks {system.mask_config.source.value}")
    _report(config, out, listing, errors, notes, checkpoint.image_size)


def _predict_all(
    config: PredictConfig, out: Path, files: list[tuple[str, Path]], system: TwoStage, checkpoint: Checkpoint, lines: IO[str]
) -> tuple[list[tuple[str, str]], Counter[str]]:
    """Write all lines; returns the names of images that cannot be read, with what is wrong, and how many of the others have which
    note."""
    done, errors, notes = 0, list[tuple[str, str]](), Counter[str]()

    def where() -> str:
        return f"after {done} of {len(files)} images, which are in {out}; the same command with another out=DIR begins anew"

    with told(where), progress_bar("predict", total=len(files), unit="images") as step:
        for batch in _batches(config, files, checkpoint.image_size):
            squares = [item for item in batch if isinstance(item, Square)]
            found = iter(_predict_batch(out, system, checkpoint.classes, squares))
            for item in batch:
                if isinstance(item, Square):
                    lines.write(json.dumps(next(found)) + "\n")
                    notes.update(item.notes)
                else:
                    lines.write(json.dumps({"file": item[0], "error": item[1]}) + "\n")
                    errors.append(item)
                step()
            lines.flush()
            done += len(batch)
    return errors, notes


def _batches(config: PredictConfig, files: list[tuple[str, Path]], image_size: int) -> Iterator[list[Square | tuple[str, str]]]:
    """Squares, or names with what is wrong, in the order of the files."""
    batch: list[Square | tuple[str, str]] = []
    for number, (name, path) in enumerate(files, start=1):
        try:
            batch.append(cut_square(number, name, path, image_size, square=config.square, drawn=config.overlays))
        except Rejected as error:
            told = error.rule == "unreadable-image"  # what kind of file it is, and what would make an image of it
            batch.append((name, error.detail if told else f"{error.detail}; {REMEDIES[error.rule]}"))
        if len(batch) == config.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def cut_square(
    number: int, name: str, path: Path, image_size: int, *, square: Literal["crop", "pad"] = "crop", drawn: bool = True
) -> Square:
    """The square of a file that a system sees, and if ``drawn`` the one that is shown to people. Raises ``Rejected``."""
    with open_image(path) as opened:
        width, height = opened.width, opened.height
        if square == "crop":
            side = min(height, width)
            left, top = (width - side) // 2, (height - side) // 2
        else:
            left, top, side = square_around((0, 0, width, height), context=0.0, width=width, height=height)
        shown_side = int(np.clip(side, MIN_SIDE, MAX_SIDE))
        picture = opened.picture(shrink=side / max(shown_side, image_size))
        return Square(
            number=number,
            name=name,
            pixels=picture.square(left, top, side, image_size),
            shown=picture.square(left, top, side, shown_side) if drawn else None,
            box=(float(left), float(top), float(left + side), float(top + side)),
            notes=picture.notes,
        )


def _predict_batch(out: Path, system: TwoStage, classes: tuple[str, ...], squares: list[Square]) -> list[dict[str, Any]]:
    if not squares:
        return []
    stored, device = np.stack([square.pixels for square in squares]), next(system.parameters()).device
    images = torch.from_numpy(stored).permute(0, 3, 1, 2).float().div_(255).to(device)
    seeds = torch.tensor([sample_seed(square.name) for square in squares], device=device)
    with torch.no_grad(), attacked(system):
        context = system.freeze(images, MaskContext(sample_seeds=seeds))
        masks = system.masks(images, context)
        confidence, label = system.classify(images, masks, context).softmax(dim=1).max(dim=1)
    found = []
    for square, mask, class_index, share in zip(
        squares, masks[:, 0].cpu().numpy(), label.tolist(), confidence.tolist(), strict=True
    ):
        mask_name, overlay_name = _draw(out, square, mask)
        about = {"file": square.name, "class": classes[class_index], "confidence": share, "mask_share": float(mask.mean())}
        found.append(about | {"box": square.box, "mask": mask_name, "overlay": overlay_name})
    return found


def _draw(out: Path, square: Square, mask: np.ndarray) -> tuple[str, str | None]:
    """Write the mask (grey, as large as the training images) and the overlay. Names are numbers: a file's own may be anything."""
    mask_name, overlay_name = (f"{kind}/{square.number:06d}.png" for kind in (MASKS, OVERLAYS))
    _save(np.rint(mask * 255).astype(np.uint8), out / mask_name)
    if square.shown is None:
        return mask_name, None
    _save(overlay(square.shown, mask), out / overlay_name)
    return mask_name, overlay_name


def overlay(
    square: UInt8[np.ndarray, "drawn drawn 3"], mask: Float[np.ndarray, "mask_side mask_side"]
) -> UInt8[np.ndarray, "drawn drawn 3"]:
    """The image with its background darkened in proportion to the mask, and an outline where the mask crosses one half.

    ``mask`` is in [0,1], of any resolution.
    """
    weights = cv2.resize(np.ascontiguousarray(mask, dtype=np.float32), square.shape[:2], interpolation=cv2.INTER_LINEAR)
    brightness = cv2.merge([_BACKGROUND + (1 - _BACKGROUND) * weights] * 3)
    drawn = cv2.multiply(square, brightness, dtype=cv2.CV_8U)
    draw_outline(drawn, weights >= 0.5)
    return drawn


def _save(pixels: UInt8[np.ndarray, "height width *channels"], path: Path) -> None:
    """A PNG. Run lengths alone make files within 3 % of the default's size in a quarter of its time."""
    Image.fromarray(pixels).save(path, compress_level=1, compress_type=Image.RLE)


def _make_directory(out: Path, names: tuple[str, ...]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"out: {out} exists already; choose another directory, nothing is overwritten")
    with writing(f"out: {out}", cannot="be made"):
        for name in names:
            (out / name).mkdir(parents=True)


def _report(
    config: PredictConfig, out: Path, listing: Listing, errors: list[tuple[str, str]], notes: Counter[str], image_size: int
) -> None:
    total = len(listing.files)
    how = "cut to the largest centered square" if config.square == "crop" else "padded to a square"
    print(f"{total - len(errors)} of {total} images predicted, each {how} and resized to {image_size} x {image_size} pixels")
    for name, reason in errors[:MAX_NAMED]:
        print(f"  not read: {name!a}: {ascii(reason)[1:-1]}")
    if len(errors) > MAX_NAMED:
        print(f"  and {len(errors) - MAX_NAMED} more")
    for line in note_lines(notes, total - len(errors), {}):
        print(f"note: {line}")
    if listing.left_alone:
        print(f"left alone, by ending: {'; '.join(left_alone_lines(listing.left_alone))}")
    print(f"predictions: {out / PREDICTIONS}")
