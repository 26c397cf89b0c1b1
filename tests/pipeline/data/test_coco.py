"""COCO: records, masks, rules and crops, against pycocotools, plain rasterisation and small made-up files."""

import contextlib
import io
import json
import os
import pickle
import shutil
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.config import CONFIG_DIR, validate
from pipeline.data import images, silhouettes
from pipeline.data.builder import write_prepared
from pipeline.data.coco import annotations as coco_annotations
from pipeline.data.coco import source as coco
from pipeline.data.coco.annotations import Annotation, identity, read_annotations, read_index
from pipeline.data.coco.masks import area, draw, extent, read_outline, runs_along_rows
from pipeline.data.coco.objects import check_object
from pipeline.data.coco.source import plan
from pipeline.data.config import CocoConfig, CocoPart
from pipeline.data.dataset import open_prepared
from pipeline.data.folds import fold_splits
from pipeline.data.preview import CELL, GAP, write_contact_sheet
from pipeline.data.rules import Rejected, note_lines
from pipeline.data.sample import Plan, Reject, Sample
from pipeline.data.splits import Split
from pipeline.errors import ConfigError, DataError

FILES = ("instances_train2017.json", "instances_train2017_partial.json", "instances_val2017.json")


def load_all(found: Plan) -> tuple[list[Sample], list[Reject]]:
    results = [result for item in found.items for result in found.load(item)]
    samples = [result for result in results if isinstance(result, Sample)]
    return samples, [*found.rejects, *(result for result in results if isinstance(result, Reject))]


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def noise(name: str) -> Image.Image:
    """A picture of its own for every name."""
    return Image.fromarray(np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (80, 100, 3), dtype=np.uint8))


class MadeUp:
    """A COCO data set of a few images of 100 x 80 pixels with rectangles; every test breaks one thing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [
            {"id": 1, "name": "cat", "supercategory": "animal"},
            {"id": 2, "name": "dog", "supercategory": "animal"},
            {"id": 3, "name": "cup", "supercategory": "kitchen"},
            {"id": 4, "name": "table", "supercategory": "furniture"},
        ]
        (root / "annotations").mkdir(parents=True)
        (root / "photos").mkdir()

    def image(self, name: str | None = None, *, write: bool = True) -> int:
        number = len(self.images) + 1
        name = name or f"{number:03}.png"
        self.images.append({"id": number, "file_name": name, "width": 100, "height": 80})
        if write:
            noise(name).save(self.root / "photos" / name)
        return number

    def object(self, image: int, box: tuple[float, float, float, float], category: int = 1, **changes: Any) -> str:
        number = 10 + len(self.annotations)
        record = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, "bbox": list(box)}
        self.annotations.append(record | {"segmentation": rectangle(*box)} | changes)
        name = next((record["file_name"] for record in self.images if record["id"] == image), "")
        return f"photos/{name}#{number}"

    def write(self, name: str = "instances.json") -> None:
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        (self.root / "annotations" / name).write_text(json.dumps(content))

    def config(self, **changes: Any) -> CocoConfig:
        values: dict[str, Any] = {
            "root": self.root,
            "classes": {"pet": ("cat", "dog"), "cup": ("cup",)},
            "parts": (CocoPart(annotations="instances.json", images="photos"),),
            "image_size": 16,
            "min_size": 10,
            "max_overlap": 0.4,
        }
        return CocoConfig(**(values | changes))

    def load(self, **changes: Any) -> tuple[list[Sample], list[Reject]]:
        self.write()
        return load_all(plan(self.config(**changes)))


# The official reader, used as the oracle, converts masks in a way that numpy 2 deprecates.
official_reader = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUp:
    """Two sound images with a pet and a cup each."""
    made_up = MadeUp(tmp_path / "set")
    for _ in range(2):
        image = made_up.image()
        made_up.object(image, (5, 10, 20, 30), 1)
        made_up.object(image, (50, 20, 30, 30), 3)
    return made_up


SOUND = {"photos/001.png#10", "photos/001.png#11", "photos/002.png#12", "photos/002.png#13"}


def shipped(name: str, root: Path, **changes: Any) -> CocoConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        values = OmegaConf.to_container(compose(f"data/{name}"), resolve=True)
    assert isinstance(values, dict)
    return validate(CocoConfig, values["data"] | {"root": root} | changes)


# --- annotation files


@pytest.mark.parametrize("name", FILES)
def test_records_read_one_by_one_are_those_of_json(coco_mini: Path, name: str) -> None:
    path = coco_mini / "annotations" / name
    whole = json.loads(path.read_text())
    images, categories = read_index(path)
    assert [record for _, record in read_annotations(path)] == whole["annotations"]
    assert [(i.image_id, i.file_name, i.width, i.height) for i in images] == [
        (i["id"], i["file_name"], i["width"], i["height"]) for i in whole["images"]
    ]
    assert [(c.category_id, c.name, c.supercategory) for c in categories] == [
        (c["id"], c["name"], c["supercategory"]) for c in whole["categories"]
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    others=st.dictionaries(st.text(max_size=3), json_values, max_size=3),
    entries=st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=2), max_size=4),
    indent=st.sampled_from([None, 1]),
    block=st.integers(1, 9),
)
def test_a_file_is_read_alike_whatever_the_size_of_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, others: dict[str, Any], entries: list[dict[str, Any]], indent: int | None, block: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "annotations.json"
    records = [entry | {"id": number, "image_id": 1, "category_id": "x"} for number, entry in enumerate(entries)]
    path.write_text(json.dumps(others | {"annotations": records}, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_annotations, "BLOCK", block)
        assert list(read_annotations(path)) == list(enumerate(records))


def test_a_truncated_annotation_file_is_refused(made_up: MadeUp) -> None:
    made_up.write()
    path = made_up.root / "annotations" / "instances.json"
    path.write_text(path.read_text()[:-200])
    with pytest.raises(DataError, match=r"instances\.json: is no JSON object that can be read .* is the file complete"):
        plan(made_up.config())


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"images": [], "annotations": []}', '{"images": [5]}', '{"images": [{"id": "x"}]}']
)
def test_a_file_of_another_kind_is_refused(made_up: MadeUp, content: str) -> None:
    (made_up.root / "annotations" / "instances.json").write_text(content)
    with pytest.raises(DataError, match=r"instances\.json"):
        plan(made_up.config())


def test_a_packed_annotation_is_unpacked_unchanged() -> None:
    annotation = Annotation(
        annotation_id=7, label=None, crowd=True, box=[0.1, 2, 3, 1e-9], segmentation={"size": [2, 3], "counts": "04"}
    )
    assert Annotation.unpack(annotation.pack()) == annotation


# --- masks


@pytest.mark.slow
@official_reader
def test_masks_are_those_of_the_official_reader(coco_mini: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(coco_mini / "annotations" / "instances_val2017.json")
    kinds = set()
    for annotation in official.dataset["annotations"]:
        image = official.imgs[annotation["image_id"]]
        runs, kind, *_ = read_outline(annotation["segmentation"], width=image["width"], height=image["height"])
        expected = official.annToMask(annotation)
        np.testing.assert_array_equal(draw(runs, width=image["width"], height=image["height"]), expected)
        assert area(runs) == expected.sum()
        kinds.add((kind, annotation["iscrowd"]))
    assert kinds == {("polygon", 0), ("rle", 1)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-10, 50), st.floats(-10, 50)), min_size=3, max_size=8))
def test_a_polygon_covers_the_pixels_inside_it(points: list[tuple[float, float]]) -> None:
    hull = cv2.convexHull(np.array(points, dtype=np.float32))
    assume(hull is not None and len(hull) > 2)
    mask = draw(read_outline([hull.ravel().tolist()], width=40, height=30).runs, width=40, height=30)
    for y, x in np.ndindex(30, 40):
        distance = cv2.pointPolygonTest(hull, (x + 0.5, y + 0.5), measureDist=True)
        if abs(distance) > 1:  # nearer to the edge the two roundings may differ
            assert mask[y, x] == (distance > 0)


def test_a_rectangle_is_the_same_as_polygon_and_as_either_run_length_code() -> None:
    mask = np.zeros((12, 20), dtype=np.uint8)
    mask[2:7, 3:15] = 1
    compressed = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    for segmentation in (rectangle(3, 2, 12, 5), {"size": [12, 20], "counts": compressed}, {"size": [12, 20], "counts": runs}):
        drawn = read_outline(segmentation, width=20, height=12).runs
        np.testing.assert_array_equal(draw(drawn, width=20, height=12), mask)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 1000))
def test_a_compressed_code_is_checked_and_decoded_as_pycocotools_wrote_it(height: int, width: int, share: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    code = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    runs, kind, *_ = read_outline({"size": [height, width], "counts": code}, width=width, height=height)
    np.testing.assert_array_equal(draw(runs, width=width, height=height), mask)
    assert kind == "rle"


BAD_SEGMENTATIONS = [
    None,
    [],
    "polygon",
    [[1, 2, 3, 4]],
    [[1, 2, 3, 4, 5, 6, 7]],
    [[1, 2, 3, 4, 5, float("nan")]],
    [[1, 2, 3, 4, 5, "6"]],
    [[1, 2, 3, 4, 5, 1e12]],
    {"size": [80, 100], "counts": [10, 20]},  # too short: pycocotools returns uninitialised memory for it
    {"size": [80, 100], "counts": [7990, 20]},
    {"size": [80, 100], "counts": [8010, -10]},
    {"size": [80, 100], "counts": [4000.5, 3999.5]},
    {"size": [100, 80], "counts": [8000]},
    {"size": [80, 100], "counts": "35<"},
    {"size": [80, 100], "counts": "\x01"},
    {"size": [80, 100], "counts": "P"},
    {"size": [80, 100]},
]


@pytest.mark.parametrize("segmentation", BAD_SEGMENTATIONS, ids=str)
def test_a_bad_segmentation_is_rejected_and_loses_nothing_else(made_up: MadeUp, segmentation: Any) -> None:
    for read in (read_outline, extent):
        with pytest.raises(Rejected) as caught:
            read(segmentation, width=100, height=80)
        assert caught.value.rule == "bad-segmentation"
    bad = made_up.object(2, (5, 45, 20, 20), 1, segmentation=segmentation)
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND
    assert [(reject.item, reject.rule) for reject in rejects] == [(bad, "bad-segmentation")]


# --- rules


@pytest.mark.parametrize(
    ("rule", "box", "changes"),
    [
        ("crowd", (5, 45, 20, 20), {"iscrowd": 1}),
        ("too-small", (5, 45, 20, 9.5), {}),
        ("box-mismatch", (5, 45, -20, 20), {}),
        ("truncated", (1, 45, 20, 20), {}),
        ("truncated", (30, 5, 20, 75), {}),
        ("nan-box", (5, 45, float("nan"), 20), {}),
        ("nan-box", (5, 45, float("inf"), 20), {}),
        ("nan-box", (5, 45, 20, 20), {"bbox": [5, 45, 20]}),
        ("nan-box", (5, 45, 20, 20), {"bbox": "5 45 20 20"}),
        ("nan-box", (5, 45, 20, 20), {"bbox": [5, 45, 20, None]}),
        ("nan-box", (5, 45, 20, 20), {"bbox": [5, 45, 20, 10**400]}),
        ("box-outside-image", (90, 45, 20, 20), {}),
        ("box-outside-image", (-300, 45, 20, 20), {}),
        ("box-mismatch", (5, 45, 20, 20), {"segmentation": rectangle(70, 60, 10, 10)}),
        ("box-mismatch", (5, 45, 20, 20), {"bbox": [0.05, 0.5, 0.2, 0.25], "min_size": 0}),
        ("empty-mask", (5, 45, 20, 20), {"segmentation": rectangle(-70, -60, 10, 10)}),
        ("unknown-category", (5, 45, 20, 20), {"category_id": 99}),
        ("annotation-without-image", (5, 45, 20, 20), {"image_id": 99}),
        ("repeated-annotation", (50, 20, 30, 30), {"id": 13, "category_id": 3}),
    ],
)
def test_an_object_that_breaks_a_rule_is_rejected_and_loses_nothing_else(
    made_up: MadeUp, rule: str, box: tuple[float, float, float, float], changes: dict[str, Any]
) -> None:
    made_up.object(2, box, 1, **changes)
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND
    assert [reject.rule for reject in rejects] == [rule]
    assert rejects[0].detail


def test_zeros_in_place_of_a_box_are_none(made_up: MadeUp) -> None:
    name = made_up.object(2, (5, 45, 20, 20), 1, bbox=[0, 0, 0, 0])
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND | {name}
    assert not rejects


@pytest.mark.parametrize(
    ("label", "lost"), [(3, True), (2, False), (4, False)], ids=["another class", "the same class", "no class"]
)
def test_one_outline_under_two_classes_is_neither(made_up: MadeUp, label: int, lost: bool) -> None:
    names = {made_up.object(2, (5, 45, 20, 20), 1), made_up.object(2, (5, 45, 20, 20), label)}
    samples, rejects = made_up.load(max_overlap=1.0)
    told = {reject.item for reject in rejects if reject.rule == "repeated-annotation"}
    assert told == (names if lost else set())
    assert {sample.sample_id for sample in samples} >= SOUND


def run_lengths(mask: np.ndarray, order: Literal["C", "F"]) -> dict[str, Any]:
    flat = np.concatenate([[False], mask.ravel(order)])  # background comes first
    ends = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [mask.size]])
    return {"size": list(mask.shape), "counts": np.diff(ends).tolist()}


@pytest.mark.parametrize("shape", [(80, 100), (80, 160), (100, 80)], ids=str)
def test_run_lengths_along_rows_are_told_without_a_box_and_stripes_are_not_taken_for_them(shape: tuple[int, int]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    disc = (y - 30) ** 2 + (x - 40) ** 2 < 400
    size = {"width": shape[1], "height": shape[0]}
    assert runs_along_rows(run_lengths(disc, "C"), **size)
    for mask in (disc, x % 9 < 4, y % 9 < 4, (x + y) % 9 < 4, x >= 0):
        assert not runs_along_rows(run_lengths(mask, "F"), **size)


def test_an_object_with_run_lengths_along_rows_is_rejected(made_up: MadeUp) -> None:
    y, x = np.mgrid[:80, :100]
    drawn = (y - 60) ** 2 + (x - 30) ** 2 < 100
    name = made_up.object(2, (0, 0, 0, 0), 1, segmentation=run_lengths(drawn, "C"), bbox=None)
    samples, rejects = made_up.load(border=None)
    assert {sample.sample_id for sample in samples} == SOUND
    assert [(reject.item, reject.rule) for reject in rejects] == [(name, "bad-segmentation")]
    assert "along rows" in rejects[0].detail


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_pictures_that_exif_turns_within_their_size_are_noted(made_up: MadeUp, turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = turn
    path = made_up.root / "photos" / "001.png"
    with Image.open(path) as image:
        image.save(path, exif=exif)
    noted = {sample.source_file: sample.notes - {"filled-box"} for sample in made_up.load()[0]}
    assert noted == {"photos/001.png": {"turned", "turned-alone"}, "photos/002.png": frozenset()}


def test_truncated_objects_are_kept_on_demand(made_up: MadeUp) -> None:
    cut = made_up.object(2, (0, 45, 20, 35), 1)
    samples, rejects = made_up.load(border=None)
    assert {sample.sample_id for sample in samples} == SOUND | {cut}
    assert not rejects


def break_image(made_up: MadeUp, rule: str) -> None:
    path = made_up.root / "photos" / "003.png"
    if rule == "annotation-without-image":
        path.unlink()
    elif rule == "size-mismatch":
        Image.new("RGB", (80, 100)).save(path)
    else:
        path.write_bytes(path.read_bytes()[:-3000])


@pytest.mark.parametrize("rule", ["annotation-without-image", "size-mismatch", "unreadable-image"])
def test_all_objects_of_a_bad_image_are_rejected_and_nothing_else_is_lost(made_up: MadeUp, rule: str) -> None:
    image = made_up.image()
    lost = [made_up.object(image, (5, 45, 20, 20), 1), made_up.object(image, (50, 45, 20, 20), 3)]
    break_image(made_up, rule)
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND
    assert [(reject.item, reject.rule) for reject in rejects] == [(item, rule) for item in lost]


def test_images_without_an_object_of_the_classes_are_counted_once(made_up: MadeUp) -> None:
    made_up.image()
    made_up.object(made_up.image(), (5, 45, 20, 20), 4)
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND
    assert [(reject.source_file, reject.rule) for reject in rejects] == [
        ("photos/003.png", "image-without-annotation"),
        ("photos/004.png", "image-without-annotation"),
    ]


def test_a_file_name_that_leads_out_of_the_folder_is_rejected(made_up: MadeUp) -> None:
    made_up.object(made_up.image("../outside.png"), (5, 45, 20, 20), 1)
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND
    assert [reject.rule for reject in rejects] == ["path-outside-root"]


def with_ends(x: float, y: float, width: float, height: float, covered: float) -> list[list[float]]:
    """The upper part of a box, and a strip of one pixel along its left side, so that the outline's box is the whole one."""
    return rectangle(x, y, width, height - covered) + rectangle(x, y, 1, height)


@pytest.mark.parametrize(("covered", "kept"), [(14, True), (18, False)])
def test_the_overlap_is_the_share_of_the_box_that_others_cover(made_up: MadeUp, covered: int, kept: bool) -> None:
    image = made_up.image()
    item = made_up.object(image, (20, 20, 40, 40), 1, segmentation=with_ends(20, 20, 40, 40, covered))
    made_up.object(image, (21, 60 - covered, 39, covered), 4)  # below it, touching
    samples, rejects = made_up.load()
    assert (item in {sample.sample_id for sample in samples}) == kept
    if not kept:
        assert [(reject.item, reject.rule) for reject in rejects] == [(item, "overlapped")]
        assert rejects[0].detail.startswith(f"{39 * covered / 1600:.2f} ")


def test_where_masks_overlap_the_smaller_object_is_in_front(made_up: MadeUp) -> None:
    image = made_up.image()
    large = made_up.object(image, (10, 10, 60, 60), 1)
    small = made_up.object(image, (10, 10, 60, 40), 3)  # covers two thirds of the larger one, which covers all of it
    samples, rejects = made_up.load()
    assert small in {sample.sample_id for sample in samples}
    assert [(reject.item, reject.rule) for reject in rejects] == [(large, "overlapped")]


def test_crowd_regions_and_other_categories_count_as_overlap(made_up: MadeUp) -> None:
    runs = {"size": [80, 100], "counts": [30 * 80, 40 * 80, 30 * 80]}  # columns 30 to 69
    lost = []
    for changes in ({"category_id": 4}, {"category_id": 1, "iscrowd": 1}):
        image = made_up.image()
        lost.append(made_up.object(image, (30, 20, 40, 40), 1, segmentation=with_ends(30, 20, 40, 40, 20)))
        made_up.object(image, (30, 0, 40, 80), **({"category": 1, "segmentation": runs} | changes))
    _, rejects = made_up.load()
    assert [reject.item for reject in rejects if reject.rule == "overlapped"] == lost


# --- crops and splits


def test_a_crop_shows_the_square_that_its_box_names(made_up: MadeUp) -> None:
    image = made_up.image()
    item = made_up.object(image, (30, 20, 16, 10), 1)
    samples, _ = made_up.load(context=0.0)
    sample = next(sample for sample in samples if sample.sample_id == item)
    assert sample.box == (30, 17, 46, 33)
    with Image.open(made_up.root / "photos" / "003.png") as stored:
        np.testing.assert_array_equal(sample.image, np.asarray(stored)[17:33, 30:46])
    expected = np.zeros((16, 16), dtype=np.uint8)
    expected[3:13] = 255
    np.testing.assert_array_equal(sample.mask, expected)
    assert sample.mask_recipe == "polygon"
    assert sample.label == 0


def test_a_large_photograph_is_decoded_at_the_size_that_its_smallest_object_needs(
    made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph = np.zeros((800, 1000, 3), dtype=np.uint8)
    photograph[..., 0] = np.linspace(0, 255, 1000)[None, :]
    photograph[..., 1] = np.linspace(0, 255, 800)[:, None]
    image = made_up.image("photo.jpg", write=False)
    made_up.images[-1] |= {"width": 1000, "height": 800}
    Image.fromarray(photograph).save(made_up.root / "photos" / "photo.jpg", quality=95)
    items = {made_up.object(image, (100, 100, 320, 320), 1), made_up.object(image, (450, 100, 500, 500), 3)}
    decoded, draft = [], JpegImageFile.draft

    def drafted(opened: JpegImageFile, mode: str | None, size: tuple[int, int] | None) -> object:
        done = draft(opened, mode, size)
        decoded.append(opened.size)
        return done

    monkeypatch.setattr(JpegImageFile, "draft", drafted)
    found = []
    for exact_pixels in (2**24, 1000):
        monkeypatch.setattr(images, "EXACT_PIXELS", exact_pixels)
        samples, _ = made_up.load(context=0.0)
        found.append({sample.sample_id: sample for sample in samples if sample.sample_id in items})
    assert decoded == [(125, 100)]  # 20 and 31 pixels of the file become one: both squares are cut from one of 8
    whole, reduced = found
    assert whole.keys() == reduced.keys() == items
    for name in items:
        np.testing.assert_allclose(reduced[name].image, whole[name].image.astype(int), atol=4)
        np.testing.assert_array_equal(reduced[name].mask, whole[name].mask)
        assert reduced[name].box == whole[name].box


@pytest.fixture(scope="module")
def mini(coco_mini: Path) -> tuple[Plan, list[Sample], list[Reject]]:
    """The small real set as coco_mini.yaml prepares it; every third image of it is decoded."""
    found = plan(shipped("coco_mini", coco_mini))
    results = [result for item in found.items[::3] for result in found.load(item)]
    samples = [result for result in results if isinstance(result, Sample)]
    return found, samples, [*found.rejects, *(result for result in results if isinstance(result, Reject))]


@pytest.mark.slow
@official_reader
def test_the_foreground_of_a_crop_is_the_annotated_area_times_the_scale_squared(
    coco_mini: Path, mini: tuple[Plan, list[Sample], list[Reject]]
) -> None:
    official: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for folder, name in (("train2017", FILES[0]), ("train2017", FILES[1]), ("val2017", FILES[2])):
            reader = COCO(coco_mini / "annotations" / name)
            official |= {f"{folder}/{reader.imgs[a['image_id']]['file_name']}#{a['id']}": (reader, a) for a in reader.anns.values()}
    for sample in mini[1]:
        reader, annotation = official[sample.sample_id]
        left, top, right, bottom = (int(value) for value in sample.box)
        source = reader.annToMask(annotation)[max(top, 0) : bottom, max(left, 0) : right]
        expected = source.sum() * (48 / (right - left)) ** 2
        assert sample.mask.sum() / 255 == pytest.approx(expected, rel=0.02, abs=2)


@pytest.mark.slow
def test_no_image_stands_on_both_sides_of_a_split(mini: tuple[Plan, list[Sample], list[Reject]]) -> None:
    splits = defaultdict(set)
    for sample in mini[1]:
        splits[sample.group].add(sample.split)
        assert sample.source_file == sample.group
    assert all(len(where) == 1 for where in splits.values())
    assert len({item.source_file for item in mini[0].items}) == len(mini[0].items)
    assert {split for where in splits.values() for split in where} == {"train", "val", "test"}


@pytest.mark.slow
def test_nothing_is_to_be_said_of_a_real_set(mini: tuple[Plan, list[Sample], list[Reject]]) -> None:
    _, samples, rejects = mini
    assert not note_lines(
        Counter(note for sample in samples for note in sample.notes), len(samples), Counter(reject.rule for reject in rejects)
    )


def test_every_object_of_the_classes_becomes_a_sample_or_a_reject(coco_mini: Path) -> None:
    found = plan(shipped("coco_mini", coco_mini, max_overlap=1.0, border=None, min_size=48, image_size=8))
    labels = [label for item in found.items for label in (Annotation.unpack(packed).label for packed in item.annotations)]
    samples, rejects = load_all(replace_items(found, found.items[::5]))
    taken = [Annotation.unpack(packed) for item in found.items[::5] for packed in item.annotations]
    assert len(samples) + len(rejects) - len(found.rejects) == sum(annotation.label is not None for annotation in taken)
    names = {name: label for label, name in enumerate(found.classes)}
    assert labels.count(names["person"]) - crowds(coco_mini, "person") == 1420  # the table of its PROVENANCE.md
    assert labels.count(names["bicycle"]) - crowds(coco_mini, "bicycle") == 216


def replace_items(found: Plan, items: list[Any]) -> Plan:
    return Plan(classes=found.classes, recipe=found.recipe, files=found.files, items=items, load=found.load, rejects=found.rejects)


def crowds(root: Path, category: str) -> int:
    count = 0
    for name in FILES:
        content = json.loads((root / "annotations" / name).read_text())
        number = next(c["id"] for c in content["categories"] if c["name"] == category)
        count += sum(a["iscrowd"] for a in content["annotations"] if a["category_id"] == number)
    return count


def test_a_plan_can_be_sent_to_another_process(made_up: MadeUp) -> None:
    made_up.write()
    found = plan(made_up.config())
    copy = pickle.loads(pickle.dumps((found.load, found.items)))
    ours = [result for item in found.items for result in found.load(item)]
    theirs = [result for item in copy[1] for result in copy[0](item)]
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Sample)
        assert isinstance(other, Sample)
        assert one.sample_id == other.sample_id
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)


def test_the_recipe_is_json_and_names_what_decides_but_not_where_the_files_lie(made_up: MadeUp) -> None:
    made_up.write()
    found = plan(made_up.config())
    recipe = json.loads(json.dumps(found.recipe))
    assert recipe["version"] == coco.RECIPE_VERSION
    assert recipe["max_overlap"] == 0.4
    assert str(made_up.root) not in json.dumps(recipe)
    assert {path.name for path in found.files} == {"instances.json", "001.png", "002.png"}


def test_an_official_split_is_kept_and_the_rest_is_drawn(made_up: MadeUp) -> None:
    for _ in range(20):
        made_up.object(made_up.image(), (5, 10, 20, 30), 1)
    made_up.write()
    first = made_up.images[:2]
    made_up.images, rest = first, made_up.images[2:]
    made_up.write("first.json")
    made_up.images = rest
    made_up.write("rest.json")
    parts = (
        CocoPart(annotations="first.json", images="photos", split="test"),
        CocoPart(annotations="rest.json", images="photos"),
    )
    found = plan(made_up.config(parts=parts, val_fraction=0.2, test_fraction=0.0))
    splits = {item.source_file: item.split for item in found.items}
    assert [splits.pop(f"photos/00{number}.png") for number in (1, 2)] == ["test", "test"]
    assert sorted(splits.values()) == ["train"] * 16 + ["val"] * 4


def test_an_image_that_two_parts_list_is_taken_once(made_up: MadeUp) -> None:
    made_up.write("again.json")
    (made_up.root / "copies").mkdir()
    for path in (made_up.root / "photos").iterdir():
        (made_up.root / "copies" / path.name).write_bytes(path.read_bytes())
    parts = (
        CocoPart(annotations="instances.json", images="photos"),
        CocoPart(annotations="again.json", images="photos", split="test"),
        CocoPart(annotations="again.json", images="copies", split="val"),
    )
    samples, rejects = made_up.load(parts=parts)
    assert {sample.sample_id for sample in samples} == SOUND
    assert [reject.rule for reject in rejects] == ["repeated-image"] * 4


# --- configuration and download


def test_a_misspelled_category_names_the_nearest(made_up: MadeUp) -> None:
    made_up.write()
    with pytest.raises(ConfigError, match=r"data\.classes\.pet: 'cta' is no COCO category or supercategory; did you mean 'cat'\?"):
        plan(made_up.config(classes={"pet": ("cta",)}))


def test_a_supercategory_stands_for_its_categories(made_up: MadeUp) -> None:
    animal = made_up.object(2, (5, 45, 20, 20), 2)
    samples, _ = made_up.load(classes={"beast": ("animal",)})
    assert {sample.sample_id for sample in samples} == {"photos/001.png#10", "photos/002.png#12", animal}


def test_a_category_in_two_classes_is_refused(made_up: MadeUp) -> None:
    made_up.write()
    with pytest.raises(ConfigError, match="category 'cat' belongs to both 'pet' and 'beast'"):
        plan(made_up.config(classes={"pet": ("cat",), "beast": ("animal",)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {}}, r"data\.classes is empty"),
        ({"parts": ()}, r"data\.parts is empty"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "below 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_one_clear_line(made_up: MadeUp, changes: dict[str, Any], message: str) -> None:
    made_up.write()
    with pytest.raises(ConfigError, match=message):
        plan(made_up.config(**changes))


def test_a_class_without_a_usable_object_is_refused(made_up: MadeUp) -> None:
    made_up.write()
    message = prepared_message(made_up, classes={"pet": ("cat",), "cup": ("dog",)})
    assert "class 'cup' has no sample" in message


def prepared_message(made_up: MadeUp, **changes: Any) -> str:
    made_up.write()
    target = made_up.root.parent / "prepared"
    with pytest.raises(DataError) as caught:
        write_prepared(plan(made_up.config(**changes)), target, name="coco", image_size=16, root=made_up.root, workers=0)
    assert "\n" not in str(caught.value)
    assert (target / "rejects.csv").is_file()
    return str(caught.value)


@pytest.mark.parametrize("missing", ["annotations/instances.json", "photos", ""])
def test_a_missing_file_or_folder_is_named(made_up: MadeUp, missing: str) -> None:
    made_up.write()
    path = made_up.root / missing
    path.rename(made_up.root.parent / "elsewhere")
    with pytest.raises(DataError, match=rf"{path}.*data\.download=true"):
        plan(made_up.config())


@pytest.mark.parametrize("long", [{"annotations": "x" * 900}, {"images": "x" * 900}])
def test_a_part_whose_name_is_longer_than_names_can_be_is_missing(made_up: MadeUp, long: dict[str, str]) -> None:
    made_up.write()
    with pytest.raises(DataError, match=r"x: is missing; there are annotations/instances\.json; see data\.parts"):
        plan(made_up.config(parts=(CocoPart(**{"annotations": "instances.json", "images": "photos"} | long),)))


def test_only_the_archives_that_the_parts_need_are_fetched(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(coco, "fetch_archive", lambda archive, root: asked.append((archive.url.rsplit("/")[-1], root)))
    parts = (CocoPart(annotations="instances_val2017.json", images="val2017"),)
    with pytest.raises(DataError, match="is missing"):
        plan(made_up.config(parts=parts, download=True))
    assert asked == [("annotations_trainval2017.zip", made_up.root), ("val2017.zip", made_up.root)]


def test_the_shipped_configurations_are_valid(tmp_path: Path) -> None:
    assert [part.split for part in shipped("coco", tmp_path).parts] == [None, "test"]
    assert len(shipped("coco_mini", tmp_path).classes) == 10
    assert len(shipped("coco_mini", tmp_path).parts) == 3


# --- parts for segmenters alone


def test_a_part_for_segmenters_gives_masks_without_a_class_and_in_no_split(made_up: MadeUp, tmp_path: Path) -> None:
    """Its cup would have a class and its table has none: neither matters. Folds, silhouettes and the sheet leave it out."""
    made_up.object(1, (5, 45, 20, 30), 1)
    made_up.object(2, (5, 45, 20, 30), 3)
    made_up.write()
    more = MadeUp(made_up.root.parent / "more")
    more.images, first = list(made_up.images), len(made_up.images)
    table, cup = (more.object(more.image(f"more{number}.png"), (5, 10, 20, 30), category) for number, category in ((1, 4), (2, 3)))
    more.images = more.images[first:]
    for image in (more.root / "photos").iterdir():
        image.rename(made_up.root / "photos" / image.name)
    more.root = made_up.root
    more.write("more.json")
    parts = (
        CocoPart(annotations="instances.json", images="photos"),
        CocoPart(annotations="more.json", images="photos", segmenter=("furniture",)),
    )
    found = plan(made_up.config(parts=parts, val_fraction=0.5, test_fraction=0))
    samples, _ = load_all(found)
    extra = [sample for sample in samples if sample.split == "segmenter"]
    assert [(sample.sample_id, sample.label) for sample in extra] == [(table, -1)]
    assert cup not in {sample.sample_id for sample in samples}
    assert {sample.label for sample in samples if sample.split != "segmenter"} == {0, 1}
    target = tmp_path / "prepared"
    write_prepared(found, target, name="coco", image_size=16, root=made_up.root, workers=0)
    dataset = open_prepared(target)
    trained = set(dataset.indices("train"))
    (alone,) = np.flatnonzero(dataset.labels == -1)
    assert alone not in trained
    assert set(dataset.for_segmenters().indices("train")) == trained | {alone}
    for number in range(2):
        assert fold_splits(dataset.samples, number=number, folds=2)[int(alone)] == "segmenter"
    (drawn, _) = load_all(silhouettes.plan(dataset))
    assert len(drawn) == len(dataset) - 1
    write_contact_sheet(dataset, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == GAP + (len(dataset) - 1) * (CELL + GAP), "a cell for each sample of a class, and none for the table"


@pytest.mark.parametrize("name", ["furnitur"])
def test_a_part_for_segmenters_names_categories_that_there_are(made_up: MadeUp, name: str) -> None:
    made_up.write()
    with pytest.raises(ConfigError, match=f"segmenter: '{name}' is no COCO category"):
        plan(made_up.config(parts=(CocoPart(annotations="instances.json", images="photos", segmenter=(name,)),)))


# --- what labelling tools and converters write


def circle(x: float, y: float, radius: float, num_points: int = 24) -> list[float]:
    turn = np.arange(num_points) * (2 * np.pi / num_points)
    return np.round(np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1), 2).ravel().tolist()


DISC = circle(25, 55, 12)


def plain_and_odd(made_up: MadeUp, **changes: Any) -> tuple[Sample, Sample, list[Reject]]:
    """The same disc in two images, once as it should be and once with changes."""
    box = [13.0, 43.0, 24.0, 24.0]
    plain = made_up.object(1, (0, 0, 0, 0), 1, bbox=box, segmentation=[DISC])
    odd = made_up.object(2, (0, 0, 0, 0), 1, **({"bbox": box, "segmentation": [DISC]} | changes))
    samples, rejects = made_up.load(context=0.1)
    named = {sample.sample_id: sample for sample in samples}
    return named[plain], named[odd], rejects


@pytest.mark.parametrize(
    "changes",
    [
        {"segmentation": DISC},  # VIA: one flat list
        {"segmentation": np.reshape(DISC, (-1, 2)).tolist()},  # points
        {"segmentation": [np.reshape(DISC, (-1, 2)).tolist()]},
        {"segmentation": [DISC, [60.0, 60.0, 61.0, 60.0]]},  # a fragment of two points
        {"segmentation": json.dumps([DISC])},  # of a table, in which every cell is text
        {"segmentation": [DISC, [60.0, 60.0]]},
        {"segmentation": [DISC, []]},
        {"bbox": None},
        {"bbox": []},
        {"bbox": [13.0, 43.0, 37.0, 67.0]},  # x0, y0, x1, y1
        {"bbox": [25.0, 55.0, 24.0, 24.0]},  # center and size
        {"iscrowd": "0"},
        {"iscrowd": 0.0},
        {"iscrowd": None},
        {"iscrowd": "false"},
        {"category_id": 1.0},
        {"category_id": "1"},
        {"image_id": 2.0},
        {"image_id": "2"},
        {"image_id": "2.0"},
    ],
    ids=str,
)
def test_what_is_clear_is_read_as_it_is_meant(made_up: MadeUp, changes: dict[str, Any]) -> None:
    plain, odd, rejects = plain_and_odd(made_up, **changes)
    assert not rejects
    np.testing.assert_array_equal(plain.mask, odd.mask)
    np.testing.assert_allclose(plain.box, odd.box, atol=1)
    expected = (
        {"outline-box"}
        if changes.get("bbox")
        else {"dropped-fragment"}
        if changes.get("segmentation", [0])[1:] in ([[60.0, 60.0]], [[]], [[60.0, 60.0, 61.0, 60.0]])
        else set()
    )
    assert odd.notes == expected


def test_fields_that_are_missing_altogether_are_no_fault(made_up: MadeUp) -> None:
    for number, record in enumerate(made_up.annotations):
        made_up.annotations[number] = {key: record[key] for key in ("image_id", "category_id", "segmentation")}
    for record in made_up.images:
        del record["width"], record["height"]
    samples, rejects = made_up.load()
    assert not rejects
    assert {sample.sample_id for sample in samples} == {f"photos/00{1 + n // 2}.png#at{n}" for n in range(4)}


def test_ids_may_be_any_text_or_number_as_long_as_they_agree(made_up: MadeUp) -> None:
    for record in made_up.images:
        record["id"] = f"img-{record['id']}"
    for number, record in enumerate(made_up.annotations):
        record["image_id"] = f"img-{record['image_id']}"
        record["id"] = [float(number), str(number), number, f"x{number}"][number]
    samples, rejects = made_up.load()
    assert not rejects
    assert [sample.sample_id.split("#")[1] for sample in samples] == ["0", "1", "2", "x3"]


def test_objects_of_one_id_are_all_kept_but_for_the_same_object_again(made_up: MadeUp) -> None:
    for record in made_up.annotations:
        record["id"] = 0
    made_up.annotations.append(dict(made_up.annotations[-1]))
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == {f"photos/00{image}.png#{name}" for image in (1, 2) for name in ("0", "0-2")}
    assert [reject.rule for reject in rejects] == ["repeated-annotation"]


def test_one_file_under_two_ids_is_rejected_with_both_and_costs_no_other_image(made_up: MadeUp) -> None:
    other = made_up.image("001.png", write=False)
    made_up.object(other, (60, 50, 20, 20), 1)
    made_up.object(made_up.image(), (5, 10, 20, 30), 1)
    samples, rejects = made_up.load()
    assert {sample.source_file for sample in samples} == {"photos/002.png", "photos/004.png"}
    assert [(reject.source_file, reject.rule) for reject in rejects] == [("photos/001.png", "ambiguous-image")] * 2
    assert "ids 1, 3" in rejects[0].detail


def test_one_id_for_two_files_is_rejected_with_both(made_up: MadeUp) -> None:
    made_up.image()
    made_up.images[-1]["id"] = 1.0
    samples, rejects = made_up.load()
    assert {sample.source_file for sample in samples} == {"photos/002.png"}
    assert {(reject.source_file, reject.rule) for reject in rejects} == {
        ("photos/001.png", "ambiguous-image"),
        ("photos/003.png", "ambiguous-image"),
    }
    assert "photos/001.png, photos/003.png" in rejects[0].detail


def test_parts_that_are_numbered_alike_but_show_other_pictures_are_all_kept(made_up: MadeUp) -> None:
    made_up.write("again.json")
    (made_up.root / "more").mkdir()
    for number in (1, 2):
        other = np.random.default_rng(100 + number).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(other).save(made_up.root / "more" / f"00{number}.png")
    parts = (CocoPart(annotations="instances.json", images="photos"), CocoPart(annotations="again.json", images="more"))
    samples, rejects = made_up.load(parts=parts)
    assert not rejects
    assert {sample.sample_id for sample in samples} == SOUND | {name.replace("photos", "more") for name in SOUND}


@pytest.mark.parametrize("written", ["sub\\0%20ö.png", "sub/0%2520%C3%B6.png"])
def test_file_names_as_windows_and_as_addresses_have_them_are_found(made_up: MadeUp, written: str) -> None:
    """But a name that is there as it is written is what it is."""
    (made_up.root / "photos" / "sub").mkdir()
    (made_up.root / "photos" / "002.png").rename(made_up.root / "photos" / "sub" / "0%20ö.png")
    made_up.images[1]["file_name"] = written
    samples, rejects = made_up.load()
    assert not rejects
    assert {sample.source_file for sample in samples} == {"photos/001.png", "photos/sub/0%20ö.png"}


COLUMNS = [20 * 80 + 30, *[25, 55] * 19, 25]  # 20 columns of 25 pixels
RUNS = {"size": [80, 100], "counts": [*COLUMNS, 8000 - sum(COLUMNS)]}


def compressed() -> dict[str, Any]:
    mask = np.zeros((80, 100), dtype=np.uint8, order="F")
    mask[30:55, 20:40] = 1
    return coco_mask.encode(mask)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [80.0, 100.0], "counts": [float(run) for run in RUNS["counts"]]},
        [RUNS],
        json.dumps(RUNS),
        {"size": [80, 100], "counts": compressed()["counts"].decode()},
        {"size": [80, 100], "counts": str(compressed()["counts"])},  # b'...', bytes that were taken for text
    ],
    ids=lambda value: str(value)[:40],
)
def test_run_lengths_are_read_however_they_are_wrapped(made_up: MadeUp, segmentation: Any) -> None:
    made_up.annotations = []
    plain, odd = (made_up.object(image, (20, 30, 20, 25), 1, segmentation=RUNS) for image in (1, 2))
    made_up.annotations[1]["segmentation"] = segmentation
    samples, rejects = made_up.load(classes={"pet": ("cat",)})
    named = {sample.sample_id: sample for sample in samples}
    assert not rejects
    np.testing.assert_array_equal(named[plain].mask, named[odd].mask)
    assert named[plain].mask_recipe == named[odd].mask_recipe == "rle"


@pytest.mark.parametrize("size", [0, -5, "0"])
def test_a_size_that_is_none_is_that_of_the_file(made_up: MadeUp, size: Any) -> None:
    made_up.images[0] |= {"width": size, "height": size}
    samples, rejects = made_up.load()
    assert not rejects
    assert {sample.sample_id for sample in samples} == SOUND


@pytest.mark.parametrize("flag", [1, True, "1", 1.0, "true", "True"])
def test_objects_flagged_as_crowd_are_taken_on_demand(made_up: MadeUp, flag: Any) -> None:
    made_up.annotations = []
    for image in (1, 2):
        made_up.object(image, (20, 30, 20, 25), 1, iscrowd=flag, segmentation=RUNS)
    message = prepared_message(made_up, classes={"pet": ("cat",)})
    assert "class 'pet' has no sample: 2 crowd; the first is photos/001.png#10: iscrowd is 1" in message
    assert "data.keep_crowd=true" in message
    samples, rejects = made_up.load(classes={"pet": ("cat",)}, keep_crowd=True)
    assert not rejects
    assert [sample.mask_recipe for sample in samples] == ["rle", "rle"]


def nothing_left(made_up: MadeUp, change: Callable[[MadeUp], None]) -> str:
    made_up.annotations = [record for record in made_up.annotations if record["category_id"] == 1]
    change(made_up)
    return prepared_message(made_up, classes={"pet": ("cat",)})


def each(section: str, **values: Any) -> Callable[[MadeUp], None]:
    def change(made_up: MadeUp) -> None:
        for record in getattr(made_up, section):
            record.update(values)

    return change


def move_deeper(made_up: MadeUp) -> None:
    (made_up.root / "photos" / "default").mkdir()
    for path in (made_up.root / "photos").glob("*.png"):
        path.rename(path.parent / "default" / path.name)


def shrink(made_up: MadeUp) -> None:
    for path in (made_up.root / "photos").glob("*.png"):
        with Image.open(path) as image:
            half = image.resize((50, 40))
        half.save(path)


def name_addresses(made_up: MadeUp) -> None:
    for record in made_up.images:
        record["file_name"] = f"http://localhost:8080/data/upload/1/{record['file_name']}"


def name_shares(made_up: MadeUp) -> None:
    each("annotations", bbox=[0.2, 0.375, 0.2, 0.3125], segmentation=rectangle(0.2, 0.375, 0.2, 0.3125))(made_up)


def prefix(made_up: MadeUp) -> None:
    """File names from the root, and the folder in data.parts as well."""
    for record in made_up.images:
        record["file_name"] = f"photos/{record['file_name']}"


def capitals(made_up: MadeUp) -> None:
    for record in made_up.images:
        record["file_name"] = record["file_name"].replace("png", "PNG")


def rows(made_up: MadeUp) -> None:
    """Run lengths along rows instead of columns, as of a mask that was not turned before it was coded."""
    counts = [30 * 100 + 20, *[20, 80] * 24, 20]
    each("annotations", bbox=[20, 30, 20, 25], segmentation={"size": [80, 100], "counts": [*counts, 8000 - sum(counts)]})(made_up)


def exchange(made_up: MadeUp) -> None:
    """x and y of the outlines alone, as from row and column."""
    each("annotations", bbox=[20, 30, 20, 25], segmentation=rectangle(30, 20, 25, 20))(made_up)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            each("annotations", segmentation=[]),
            "2 bad-segmentation; the first is photos/001.png#10: there are no polygons; export outlines",
        ),
        (
            each("images", width=80, height=100),
            "the file has 100 x 80 pixels, its record says 80 x 100: width and height are exchanged",
        ),
        (shrink, "the file has 50 x 40 pixels, its record says 100 x 80: it was resized by 0.5 after labelling"),
        (move_deeper, "no file photos/001.png; photos/default/001.png is there: say images: photos/default in data.parts"),
        (name_addresses, "is an address; photos/001.png is there: write file_name: 001.png"),
        (each("annotations", bbox=[-15.0, -15.0, 30.0, 30.0], segmentation=rectangle(-15, -15, 30, 30)), "box-outside-image"),
        (
            name_shares,
            "0.2, 0.375 to 0.4, 0.6875: are these shares of the image, and no pixels?; bbox must be x, y, width, height in",
        ),
        (
            exchange,
            "box-mismatch; the first is photos/001.png#10: bbox is 20, 30 to 40, 55, and the outline lies in 30, 20 to 55, 40",
        ),
        (each("annotations", bbox=[40.0, 55.0, -20.0, -25.0]), "box-mismatch; the first is photos/001.png#10: bbox [40.0, 55.0"),
        (rows, "box-mismatch; the first is photos/001.png#10: bbox is 20, 30 to 40, 55, and the outline lies in 37, 0 to 68, 80"),
        (
            each("annotations", bbox=[20, 30, 20, 25], segmentation=rectangle(10, 15, 10, 12.5)),
            "bbox is 20, 30 to 40, 55, and the outline lies in 10, 15 to 20, 27.5",
        ),
        (
            each("annotations", bbox=[40, 40, 20, 20], segmentation=rectangle(20, 20, 30, 30)),
            "bbox is 40, 40 to 60, 60, and the outline lies in 20, 20 to 50, 50",
        ),
        (prefix, "no file photos/photos/001.png; there is no folder photos; photos/001.png is there: say images: . in data.parts"),
        (capitals, "no file photos/001.PNG; 001.png is there (capitals count)"),
        (each("annotations", segmentation=[["1.5"] * 6]), "a coordinate of a polygon is no finite number: '1.5'"),
        (each("annotations", segmentation="1 2 3"), "neither polygons nor RLE: str '1 2 3'"),
        (each("annotations", category_id=77), "category_id '77' is not in the file"),
        (each("annotations", image_id=77), "image_id '77' is not in the file"),
    ],
)
def test_where_nothing_is_left_the_true_rule_the_file_and_the_remedy_are_said(
    made_up: MadeUp, change: Callable[[MadeUp], None], words: str
) -> None:
    message = nothing_left(made_up, change)
    assert words in message
    assert "loosen" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image_id": 1, "category_id": 1, "segmentation": [], "score": 0.5}], "looks like a results file"),
        ([{"id": 1, "data": {"image": "a"}, "annotations": [{"completed_by": 1}]}], "looks like an export of Label Studio"),
        ({"version": "5", "shapes": [], "imagePath": "a.png"}, "looks like a file of labelme"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "looks like a project of VIA"),
        ({"a.png1": {"filename": "a.png", "regions": [{"shape_attributes": {"name": "polygon"}}]}}, "annotations of VIA"),
        ({"images": [], "annotations": [{"image_id": 1, "segments_info": []}], "categories": []}, "looks like a panoptic file"),
        ({"images": [], "annotations": [{"image_id": 1, "id": 1, "caption": "a"}]}, "looks like a captions file"),
        ({"type": "FeatureCollection", "features": []}, "looks like GeoJSON"),
        ("<?xml version='1.0'?><annotations/>", "looks like XML (CVAT"),
        ("0 0.5 0.5 0.1 0.1\n", "looks like text of YOLO"),
        ('{"a": ' * 5000, "nested more than 32 deep"),
        ('{"images": ' + "[" * 100000, "nested more than 32 deep"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "(a number has more than 640 digits)"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": -' + "1" * 6000 + "}]}", "more than 640 digits"),
        ('{"images": [[' + "9" * 5000 + ",1]]}", "more than 640 digits"),
        ("9" * 5000, "more than 640 digits"),
        ('{"images": [{"id": 1e' + "9" * 30 + "}]}", "(a number is out of range)"),
        ({"version": "2.0", "annotations": [{"name": "cup", "polygon": {"paths": [[]]}}]}, "looks like an export of V7 Darwin"),
        ({"dataset": "x", "annotations": [{"polygon": {"path": [{"x": 1, "y": 2}]}}]}, "looks like an export of V7 Darwin"),
        ({"info": {}, "categories": {"label": {"labels": [{"name": "cup"}]}}, "items": []}, "looks like an export of Datumaro"),
        ({"project": {"pid": "x"}, "config": {}, "file": {}, "metadata": {}}, "looks like a project of VIA 3"),
        ({"image": {}, "annotations": [{"stability_score": 0.9, "segmentation": {}}]}, "looks like masks of SAM"),
        ({"imgHeight": 2, "imgWidth": 2, "objects": [{"label": "car", "polygon": [[1, 1]]}]}, "looks like a file of Cityscapes"),
        ([{"name": "a.png", "labels": [{"poly2d": [{"vertices": [[1, 1]]}]}]}], "looks like labels of BDD100K"),
        ([{"task_id": "a", "response": {"annotations": [{"vertices": [{"x": 1}]}]}}], "looks like an export of Scale"),
        ([{"image": "a.png", "annotations": [{"label": "a", "coordinates": {"x": 1, "y": 2}}]}], "looks like CreateML"),
        ({"samples": [{"ground_truth": {"_cls": "Detections"}}]}, "looks like a data set of FiftyOne"),
        ([{"label_hash": "a", "data_units": {}}], "looks like an export of Encord"),
        ({"images": [{"image_name": "a.png", "labels": []}], "label_classes": []}, "looks like an export of Hasty"),
        ({"dataset": {}, "samples": [{"labels": {"ground-truth": {}}}]}, "looks like a release of Segments.ai"),
        ("<!DOCTYPE html><html><body>404</body></html>", "looks like a page of the web"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "looks like a pointer of Git LFS"),
        ("\0" * 1000, "looks like zeros alone"),
        ("PK", "is compressed: unpack it"),
        ("", "is no JSON object"),
        ("{}", "has no 'images'"),
        ({"images": [{"id": 1, "file_name": "a.png"}], "categories": []}, "has no 'annotations'"),
        ({"images": [], "categories": [], "annotations": {"1": {"image_id": 1}}}, "its annotations are no list"),
        (
            {
                "images": [{"id": 1, "file_name": "a.png"}],
                "annotations": [],
                "categories": [{"id": 1, "name": "cup"}, {"id": "1", "name": "jug"}],
            },
            "category 1 is 'cup' and 'jug': give each an id of its own",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": " "}]},
            "categories[0]: 'name' is ' ', expected text",
        ),
    ],
)
def test_a_file_of_another_tool_is_named_for_what_it_is(made_up: MadeUp, content: Any, words: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (made_up.root / "annotations" / "instances.json").write_text(text)
    with pytest.raises(DataError) as caught:
        plan(made_up.config())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["annotations", "images"])
def test_a_part_outside_of_the_root_is_refused_by_an_absolute_path_and_taken_inside(made_up: MadeUp, tmp_path, key) -> None:
    part = {"annotations": "instances.json", "images": "photos"}
    inside = {"annotations": made_up.root / "annotations" / "instances.json", "images": made_up.root / "photos"}[key]
    made_up.load()  # which writes the file
    assert plan(made_up.config(parts=[{**part, key: str(inside)}])).items
    outside = tmp_path / "elsewhere"
    outside.symlink_to(inside)
    with pytest.raises(ConfigError, match=r"^data\.parts: \S+elsewhere lies outside of data\.root: name it relative to [^\n]+$"):
        plan(made_up.config(parts=[{**part, key: str(outside)}]))


@pytest.mark.parametrize("kind", ["folder", "ring", "pipe"])
def test_what_stands_in_the_place_of_a_file_is_named_for_what_it_is(made_up: MadeUp, kind: str) -> None:
    made = {"folder": Path.mkdir, "ring": lambda path: path.symlink_to(path), "pipe": os.mkfifo}[kind]
    picture = made_up.root / "photos" / "002.png"
    picture.unlink()
    made(picture)
    _, rejects = made_up.load()
    assert {(one.rule, one.detail) for one in rejects} == {("unreadable-image", "it is no file, or a link that leads to none")}
    table = made_up.root / "annotations" / "instances.json"
    table.unlink()
    made(table)
    with pytest.raises(DataError, match=r"instances\.json: is no file, or a link that leads to none; see data\.parts"):
        plan(made_up.config())


def test_a_name_of_an_image_that_no_file_can_have_costs_that_image_alone(made_up: MadeUp) -> None:
    made_up.images[1]["file_name"] = "x" * 5000
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND - {"photos/002.png#12", "photos/002.png#13"}
    assert {reject.rule for reject in rejects} == {"annotation-without-image"}


def test_a_file_in_utf_16_is_named(made_up: MadeUp) -> None:
    (made_up.root / "annotations" / "instances.json").write_text("{}", encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16: save it as UTF-8"):
        plan(made_up.config())


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 1e6, 1e6] * 200],
        [[0, 0, 100, 80] * 20000],
        [[0, 0, 1e300, 1, 1, 1]],
        [[0, 0, 10**400, 1, 1, 1]],
        {"size": [80, 100], "counts": "o" * 100000},
        {"size": [80.5, 100], "counts": [8000]},
        {"size": [10**400, 100], "counts": [8000]},
        {"size": "80,100", "counts": [8000]},
        [[[[1, 2], [3, 4], [5, 6]]]],
        [{"x": 1}],
        7,
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_outline_that_would_break_the_rasteriser_is_rejected(made_up: MadeUp, segmentation: Any) -> None:
    bad = made_up.object(2, (5, 45, 20, 20), 1, segmentation=segmentation)
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == SOUND
    assert [(reject.item, reject.rule) for reject in rejects] == [(bad, "bad-segmentation")]
    assert len(rejects[0].detail) < 200


def test_an_export_of_roboflow_is_read_whole(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "crockery", "supercategory": "none"}]
    categories += [{"id": n, "name": name, "supercategory": "crockery"} for n, name in ((1, "cup"), (2, "jug"))]
    for part in ("train", "valid", "test"):
        folder = tmp_path / "export" / part
        folder.mkdir(parents=True)
        images, annotations = [], []
        for number in range(4):
            name = f"p{number}_jpg.rf.{part}.png"
            noise(name).save(folder / name)
            images.append({"id": number, "file_name": name, "width": 100, "height": 80})
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1 + number % 2,
                    "bbox": [0, 0, 40, 40],
                    "segmentation": rectangle(0, 0, 40, 40),
                }
            )
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / "_annotations.coco.json").write_text(text)
    found = plan(shipped("roboflow", tmp_path / "export"))
    samples, rejects = load_all(found)
    assert found.classes == ("cup", "jug")
    assert not rejects
    assert {(sample.split, sample.source_file.split("/")[0]) for sample in samples} == {
        ("train", "train"),
        ("val", "valid"),
        ("test", "test"),
    }
    with pytest.raises(DataError, match="an export of Roboflow: data=roboflow reads that"):
        plan(shipped("coco_mini", tmp_path / "export"))


@pytest.mark.parametrize("seed", range(3))
def test_versions_of_one_photograph_are_one_group_and_in_one_split(made_up: MadeUp, seed: int) -> None:
    """Roboflow turns, crops and brightens a photograph into several files, whose names have a hash each."""
    for photograph in range(20):
        for version in ("0a1b2c", "3d4e5f", "ffee00"):
            image = made_up.image(f"IMG.{photograph}_jpg.rf.{version}{photograph}.png")
            made_up.object(image, (5, 10, 20, 30), 1 + 2 * (photograph % 2))
    samples, _ = made_up.load(val_fraction=0.25, test_fraction=0.25, seed=seed)
    found: dict[str, set[tuple[str, str]]] = {}
    for sample in samples:
        found.setdefault(sample.source_file.split(".rf.")[0], set()).add((sample.group, sample.split))
    assert {len(of_photograph) for of_photograph in found.values()} == {1}
    assert len({sample.group for sample in samples}) == 20 + 2
    assert {sample.split for sample in samples} == {"train", "val", "test"}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_version_without_a_split_goes_where_another_part_puts_its_photograph(made_up: MadeUp, split: Split) -> None:
    for photograph in range(12):
        made_up.object(made_up.image(f"p{photograph}_jpg.rf.aa.png"), (5, 10, 20, 30), 1 + 2 * (photograph % 2))
    made_up.write("given.json")
    made_up.images, made_up.annotations = [], []
    for photograph in range(24):
        made_up.object(made_up.image(f"p{photograph}_jpg.rf.bb.png"), (5, 10, 20, 30), 1 + 2 * (photograph % 2))
    given = CocoPart(annotations="given.json", images="photos", split=split)
    samples, _ = made_up.load(
        parts=(given, CocoPart(annotations="instances.json", images="photos")), val_fraction=0.25, test_fraction=0.25
    )
    found: dict[str, set[Split]] = {}
    for sample in samples:
        found.setdefault(sample.group, set()).add(sample.split)
    assert len(found) == 24 + 2
    assert all(len(splits) == 1 for splits in found.values())
    assert {sample.split for sample in samples} == {"train", "val", "test"}


@settings(max_examples=100, deadline=None)
@given(segmentation=json_values, box=json_values, flag=json_values)
def test_whatever_stands_in_an_annotation_is_a_sample_or_a_reject(segmentation: Any, box: Any, flag: Any) -> None:
    annotation = Annotation(annotation_id=1, label=0, crowd=flag == 1, box=box, segmentation=segmentation)
    rules = CocoConfig(root=".", classes=None, parts=(), min_size=1, max_overlap=1, border=None, keep_crowd=True)
    with contextlib.suppress(Rejected):
        check_object(annotation, 20, 10, rules)
    with contextlib.suppress(Rejected):
        assert read_outline(segmentation, width=20, height=10).runs.sum() == 200


@pytest.mark.parametrize(("written", "shown"), [("cat", "'cat'"), (["1"], r"\['1'\]"), (None, "None"), (99, "99")])
def test_categories_that_no_object_names_by_its_id_are_told_from_a_file_without_objects(
    made_up: MadeUp, written: Any, shown: str
) -> None:
    number = made_up.image()
    made_up.annotations = []
    made_up.object(number, (5, 5, 40, 40), 1, category_id=written)
    made_up.write()
    config = made_up.config(classes=None)
    said = rf"no object of any category is annotated: category_id of annotations\[0\] is {shown}, expected one of 1, 2, 3, 4$"
    with pytest.raises(DataError, match=said):
        plan(config)


@pytest.mark.parametrize(
    ("categories", "used"),
    [
        ((1, 2, 3), (0, 1, 2)),
        ((1, 2, 3), (0, 1)),
        ((0, 1, 2), (1, 2, 3)),
        ((5, 6, 7), (4, 5)),
        ((1, 4, 9), (0, 1, 2)),
        ((1, 4, 9), (1, 2, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [None, {"cat": ("cat",), "dog": ("dog",)}], ids=["all", "named"])
def test_objects_that_are_numbered_unlike_the_categories_end_the_call(
    tmp_path: Path, categories: tuple[int, ...], used: tuple[int, ...], classes: Any
) -> None:
    made_up = MadeUp(tmp_path)
    made_up.categories = [{"id": number, "name": name} for number, name in zip(categories, ("cat", "dog", "cup"), strict=True)]
    for number in used:
        made_up.object(made_up.image(), (20, 20, 30, 30), number)
    missing = ", ".join(str(number) for number in used if number not in categories)
    with pytest.raises(
        DataError, match=rf"instances\.json: category_id {missing} is in annotations and not in categories .*counted"
    ):
        made_up.load(classes=classes)


@pytest.mark.parametrize(("full", "unit"), [(1, "shares"), (100, "percent")])
@pytest.mark.parametrize("what", ["the outline", "bbox"])
def test_an_outline_or_a_box_in_shares_or_percent_is_named(made_up: MadeUp, full: float, unit: str, what: str) -> None:
    small = (5 / 100 * full, 45 / 80 * full, 20 / 100 * full, 20 / 80 * full)
    changes = {"segmentation": rectangle(*small)} if what == "the outline" else {"bbox": list(small)}
    name = made_up.object(2, (5, 45, 20, 20), 1, **changes)
    (reject,) = made_up.load()[1]
    assert (reject.item, reject.rule) == (name, "box-mismatch")
    assert reject.detail.endswith(f"; {what} is in {unit} of the image, and pixels are meant")


def test_objects_that_all_lie_in_the_first_hundred_pixels_of_photographs_may_be_in_percent(tmp_path: Path) -> None:
    for place, noted in ((60, {"percent"}), (160, set())):
        record = Annotation(annotation_id=1, label=0, crowd=False, box=None, segmentation=rectangle(place, 50, 30, 30))
        assert check_object(record, 640, 480, MadeUp(tmp_path / str(place)).config())[1] == noted
    assert note_lines({"percent": 12}, 12, {})[0].startswith("12 of 12 objects lie within the first 100 pixels")
    assert not note_lines({"percent": 5}, 12, {})


def blob(x: float, y: float, radius: float) -> list[list[float]]:
    """A polygon with a center."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return [np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1).ravel().tolist()]


def test_outlines_that_are_boxes_are_noted(made_up: MadeUp) -> None:
    name = made_up.object(1, (30, 55, 16, 16), segmentation=blob(38, 63, 8))
    code = coco_mask.encode(np.asfortranarray(np.pad(np.ones((20, 16), np.uint8), ((55, 5), (4, 80)))))
    rle = made_up.object(2, (4, 55, 16, 20), segmentation={"size": [80, 100], "counts": code["counts"].decode()})
    noted = {sample.sample_id: sample.notes for sample in made_up.load()[0]}
    assert noted == dict.fromkeys(SOUND | {rle}, frozenset({"filled-box"})) | {name: frozenset()}


@pytest.mark.parametrize(("name", "noted"), [("Cat", True), ("cat ", True), ("cats", False)])
def test_categories_whose_names_look_alike_are_noted(made_up: MadeUp, name: str, noted: bool) -> None:
    made_up.categories[1]["name"] = name
    other = made_up.object(1, (8, 45, 20, 20), 2)
    samples, rejects = made_up.load(classes=None)
    assert not rejects
    told = {sample.sample_id for sample in samples if "alike-class" in sample.notes}
    assert told == ({"photos/001.png#10", "photos/002.png#12", other} if noted else set())


@pytest.mark.parametrize(("x", "radius", "noted"), [(25, 6, True), (18, 5, True), (25, 17, False), (50, 6, False), (41, 6, False)])
def test_a_polygon_within_another_one_of_its_object_is_noted(made_up: MadeUp, x: float, radius: float, noted: bool) -> None:
    """What looks for contours gives a ring as two polygons, and in COCO's format it is a disc. Parts side by side are parts."""
    both = made_up.object(1, (8, 43, 49, 34), segmentation=[*blob(25, 60, 17), *blob(x, 60, radius)])
    samples = made_up.load(border=None)[0]
    assert {sample.sample_id for sample in samples if "filled-hole" in sample.notes} == ({both} if noted else set())
    assert any("is it a hole?" in line for line in note_lines({"filled-hole": 1}, 5, {}))


def in_raster_order(x: float, y: float, radius: int) -> list[float]:
    """The pixels of a disc as ``numpy.argwhere`` lists them."""
    return [
        value
        for down in range(-radius, radius + 1)
        for along in range(-radius, radius + 1)
        if along**2 + down**2 <= radius**2
        for value in (x + along, y + down)
    ]


@pytest.mark.parametrize(
    ("outline", "noted"),
    [
        (in_raster_order(25, 60, 14), True),
        ([11, 46, 39, 74, 39, 46, 11, 74], True),
        (blob(25, 60, 14)[0], False),
        (blob(25, 60, 14)[0][::-1], False),  # the other way round, and mirrored
        ([11, 46, 39, 46, 39, 74, 11, 74, 11, 46], False),
        ([11, 46, 39, 46, 39, 74, 35, 74, 35, 50, 11, 50], False),
    ],
    ids=["raster", "bow", "blob", "other-way", "closed", "hook"],
)
def test_outlines_whose_points_are_out_of_order_are_noted(made_up: MadeUp, outline: list[float], noted: bool) -> None:
    crossed = made_up.object(1, (11, 46, 28, 28), segmentation=[outline], bbox=None)
    samples, _ = made_up.load(border=None)
    assert {sample.sample_id for sample in samples if "crossed" in sample.notes} == ({crossed} if noted else set())
    assert any("in the order in which they follow" in line for line in note_lines({"crossed": 1}, 5, {}))


def test_ids_below_zero_are_numbers_as_text_too() -> None:
    assert [identity(value) for value in ("-2", "-2.0", -2, "--2", "-")] == [-2, -2, -2, "--2", "-"]


@pytest.mark.parametrize(("category", "note"), [(1, "twin"), (2, "twin"), (3, "twin-class"), (4, None)])
@pytest.mark.parametrize("max_overlap", [0.4, 1])
def test_an_object_that_is_listed_twice_with_outlines_a_pixel_apart_is_noted(
    made_up: MadeUp, category: int, note: str | None, max_overlap: float
) -> None:
    one = made_up.object(1, (8, 43, 34, 34), segmentation=blob(25, 60, 17))
    made_up.object(1, (9, 43, 34, 34), category, segmentation=blob(26, 60, 17))
    made_up.object(2, (8, 43, 34, 34), segmentation=blob(25, 60, 17))
    made_up.object(2, (20, 43, 34, 34), category, segmentation=blob(37, 60, 17))  # another one, in front
    samples = made_up.load(max_overlap=max_overlap, border=None)[0]
    noted = {sample.sample_id for sample in samples if sample.notes & {"twin", "twin-class"}}
    twins = {sample.sample_id for sample in samples if sample.sample_id.split("#")[0] == one.split("#")[0]} - SOUND
    assert noted == (twins if note else set())
    assert all(sample.notes == {note} for sample in samples if sample.sample_id in noted)


@pytest.mark.parametrize("scale", [1, 1.25, 2])
@pytest.mark.parametrize("boxes", [True, False])
def test_pictures_that_were_made_larger_than_their_outlines_are_noted(made_up: MadeUp, scale: float, boxes: bool) -> None:
    """Sizes of the records as the pictures are now, outlines as they were before; the originals show objects everywhere."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        image = made_up.image()
        for _ in range(3):
            x, y = rng.uniform(0, 80 / scale), rng.uniform(0, 60 / scale)
            made_up.object(image, (x, y, 20 / scale, 20 / scale), segmentation=rectangle(x, y, 20 / scale, 20 / scale))
    made_up.annotations = made_up.annotations[4:]  # those of the fixture lie where they lie
    for x, y in ((0, 20), (20, 0), (79, 10), (10, 59)):
        made_up.object(3, (x / scale, y / scale, 20 / scale, 20 / scale))
    for record in () if boxes else made_up.annotations:
        del record["bbox"]
    made_up.write()
    assert {item.notes for item in plan(made_up.config(classes={"cat": ("cat",)})).items} == {
        frozenset({"upper-left"} if scale > 1 else ())
    }


@pytest.mark.parametrize("boxes", [True, False])
def test_pictures_that_were_made_smaller_than_their_outlines_are_told_by_those_that_lie_outside(
    made_up: MadeUp, boxes: bool
) -> None:
    outside = [made_up.object(1, (70, 50, 60, 60)), made_up.object(2, (10, 40, 30, 60))]
    for record in made_up.annotations if not boxes else ():
        del record["bbox"]
    samples, rejects = made_up.load(border=None)
    assert {(reject.item, reject.rule) for reject in rejects} == {(name, "box-outside-image") for name in outside}
    assert {sample.sample_id for sample in samples} == SOUND
    assert note_lines({}, 4, {"box-outside-image": 2})[0].startswith("2 objects lie outside of their pictures")
    assert not note_lines({}, 100, {"box-outside-image": 2})


@pytest.mark.parametrize("where", ["images", "image_id", "category_id"])
def test_ids_that_a_float_cannot_hold_end_the_call(made_up: MadeUp, where: str) -> None:
    """Of 9007199254740993 and its neighbor a float makes one number."""
    large = 2.0**53
    if where == "images":
        made_up.images[0]["id"] = large
    else:
        made_up.annotations[1][where] = large
    with pytest.raises(DataError, match=r"'(id|image_id|category_id)' is 9007199254740992.0, a float.*whole numbers or as text"):
        made_up.load()


@pytest.mark.parametrize("write", [lambda number: number, str, lambda number: f"{number}.0"])
def test_ids_of_many_digits_that_are_written_whole_are_kept_apart(made_up: MadeUp, write: Any) -> None:
    ids = {1: 2**53 + 1, 2: 2**53 + 2}
    for record in made_up.images:
        record["id"] = ids[record["id"]]
    for record in made_up.annotations:
        record["image_id"] = write(ids[record["image_id"]])
    assert {sample.sample_id for sample in made_up.load()[0]} == SOUND


def copy(made_up: MadeUp, name: str, of: str = "001.png") -> str:
    """The same picture under another name and id, annotated again."""
    shutil.copy(made_up.root / "photos" / of, made_up.root / "photos" / name)
    return made_up.object(made_up.image(name, write=False), (5, 10, 20, 30), 1)


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_photograph_are_one_group_and_in_one_split(made_up: MadeUp, seed: int) -> None:
    for number in range(6):
        made_up.object(made_up.image(), (5, 10, 20, 30), 1 + 2 * (number % 2))
    other = copy(made_up, "copy.png")
    version = copy(made_up, "one.rf.abc.png", of="002.png")  # its sisters follow it
    sister = made_up.object(made_up.image("one.rf.def.png"), (5, 10, 20, 30), 1)
    samples = {sample.sample_id: sample for sample in made_up.load(seed=seed)[0]}
    for one, same in (("photos/001.png#10", other), ("photos/002.png#12", version), ("photos/002.png#12", sister)):
        assert samples[one].group == samples[same].group
        assert samples[one].split == samples[same].split
    assert plan(made_up.config()).recipe["joined"]


@pytest.mark.parametrize("first", ["a.json", "b.json"])
def test_a_copy_in_another_split_is_left_out_and_one_without_a_split_goes_where_it_is(made_up: MadeUp, first: str) -> None:
    made_up.write("a.json")
    images, annotations = len(made_up.images), len(made_up.annotations)
    inside = copy(made_up, "copy.png")
    made_up.images, made_up.annotations = made_up.images[images:], made_up.annotations[annotations:]
    made_up.write("b.json")
    for split, rule in (("train", ["repeated-image"]), ("test", []), (None, [])):
        parts = {
            "a.json": CocoPart(annotations="a.json", images="photos", split="test"),
            "b.json": CocoPart(annotations="b.json", images="photos", split=split),
        }
        ordered = (parts.pop(first), *parts.values())
        samples, rejects = load_all(plan(made_up.config(parts=ordered)))
        left = {sample.sample_id: sample.split for sample in samples}
        assert len({left[name] for name in left if name in (inside, "photos/001.png#10")}) == 1
        assert [reject.rule for reject in rejects] == rule


def test_where_copies_leave_nothing_to_train_on_the_rest_is_no_set_for_testing(made_up: MadeUp, tmp_path: Path) -> None:
    made_up.write("instances.json")
    shutil.copytree(made_up.root / "photos", made_up.root / "again")
    test = CocoPart(annotations="instances.json", images="photos", split="test")
    again = CocoPart(annotations="instances.json", images="again", split="train")
    for parts in ((test, again), (test,)):
        config, target = made_up.config(parts=parts), tmp_path / str(len(parts))
        written = partial(write_prepared, plan(config), target, name="coco", image_size=config.image_size, root=None, workers=0)
        if again in parts:
            with pytest.raises(DataError, match=r"0 of them for training.*repeated-image.*give every picture one split"):
                written()
        else:
            assert written().num_samples


def test_a_copy_for_segmenters_alone_is_left_out_where_the_other_has_a_class(made_up: MadeUp) -> None:
    made_up.write("a.json")
    copy(made_up, "copy.png")
    made_up.images, made_up.annotations = made_up.images[2:], made_up.annotations[4:]
    made_up.write("b.json")
    parts = (
        CocoPart(annotations="b.json", images="photos", segmenter=("cat",)),
        CocoPart(annotations="a.json", images="photos"),
    )
    samples, rejects = load_all(plan(made_up.config(parts=parts)))
    assert {sample.sample_id for sample in samples} == SOUND
    assert [(reject.rule, reject.item) for reject in rejects] == [("repeated-image", "photos/copy.png")]


@pytest.mark.parametrize("step", [1, -1])
def test_images_that_objects_count_from_another_number_end_the_call(made_up: MadeUp, step: int) -> None:
    for record in made_up.annotations:
        record["image_id"] += step
    with pytest.raises(DataError, match=r"instances.json: image_id \d is in annotations and not in images.*give both the same ids"):
        made_up.load()


def test_an_image_that_is_missing_from_the_list_is_no_other_count(made_up: MadeUp) -> None:
    made_up.images.pop(0)
    samples, rejects = made_up.load()
    assert {sample.sample_id for sample in samples} == {"photos/002.png#12", "photos/002.png#13"}
    assert {reject.rule for reject in rejects} == {"annotation-without-image"}
