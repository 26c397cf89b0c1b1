"""A contact sheet of a prepared data set: see the masks before you trust them."""

import math
from bisect import bisect_left
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.dataset import PreparedDataset
from pipeline.data.splits import SPLITS
from pipeline.errors import printable

CELL, GAP, TEXT, COLUMNS = 112, 8, 16, 12
MAX_CELLS = 144


def write_contact_sheet(dataset: PreparedDataset, path: Path) -> None:
    """Write a PNG with samples of every class and split, the mask's outline (where it crosses one half) drawn over the image.

    The choice depends on the data set alone: classes in turn, spread evenly over each class's rows.
    """
    rows = _spread(dataset)
    columns = min(COLUMNS, len(rows))
    width = GAP + columns * (CELL + GAP)
    height = GAP + math.ceil(len(rows) / columns) * (CELL + TEXT + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 10)
    splits = dataset.samples["split"].to_list()
    for position, row in enumerate(rows):
        left = GAP + position % columns * (CELL + GAP)
        top = GAP + position // columns * (CELL + TEXT + GAP)
        sheet.paste(Image.fromarray(outlined(dataset.images[row], dataset.masks[row])), (left, top))
        caption = printable(f"{splits[row]}: {dataset.classes[dataset.labels[row]]}")  # the split first: a long name is cut
        draw.text((left, top + CELL + 2), fitting(caption, font, CELL), fill="black", font=font)
    sheet.save(path, format="PNG")


def outlined(image: UInt8[np.ndarray, "side side 3"], mask: UInt8[np.ndarray, "side side"]) -> UInt8[np.ndarray, "cell cell 3"]:
    """The image enlarged with whole pixels, with the outline of mask >= 128."""
    large = cv2.resize(np.asarray(image), (CELL, CELL), interpolation=cv2.INTER_NEAREST_EXACT)
    draw_outline(large, cv2.resize(np.asarray(mask), (CELL, CELL), interpolation=cv2.INTER_LINEAR) >= 128)
    return large


def draw_outline(drawn: UInt8[np.ndarray, "side side 3"], inside: Bool[np.ndarray, "side side"]) -> None:
    """Draw the edge of the region into the image."""
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, (255, 255, 255), thickness=3)
    cv2.drawContours(drawn, contours, -1, (255, 0, 200), thickness=1)


def _spread(dataset: PreparedDataset) -> list[int]:
    """Rows class by class, each class's share spread evenly over its splits and rows."""
    per_class = max(1, MAX_CELLS // dataset.num_classes)
    splits = dataset.samples["split"].to_list()
    rows: list[int] = []
    for label in range(dataset.num_classes):
        of_class = sorted(np.flatnonzero(dataset.labels == label).tolist(), key=lambda row: SPLITS.index(splits[row]))
        picked = np.unique(np.linspace(0, len(of_class) - 1, per_class).round().astype(int))
        rows += [of_class[place] for place in picked]
    return rows


def fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """The text, or as much of it as fits into so many pixels, with dots behind."""
    if font.getlength(text) <= room:
        return text
    kept = bisect_left(range(len(text)), True, key=lambda length: font.getlength(f"{text[:length]}...") > room)
    return f"{text[: max(kept - 1, 0)]}..."
