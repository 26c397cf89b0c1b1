"""The user's own folder: both layouts, every kind of mismatch, and the geometry of the squares."""

import csv
import json
import os
import pickle
import shutil
import unicodedata
import zlib
from collections import defaultdict
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.config import CONFIG_DIR, validate
from pipeline.data.builder import write_prepared
from pipeline.data.config import FolderConfig, PrepareConfig
from pipeline.data.folder import plan
from pipeline.data.names import alike_classes
from pipeline.data.prepare import prepare
from pipeline.data.rules import note_lines
from pipeline.data.sample import Plan, Reject, Sample
from pipeline.errors import ConfigError, DataError

HEIGHT, WIDTH = 24, 40
BOX = (12, 6, 28, 18)  # of the foreground: x0, y0, x1, y1


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def mask(value: int = 255) -> np.ndarray:
    x0, y0, x1, y1 = BOX
    drawn = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    drawn[y0:y1, x0:x1] = value
    return drawn


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pair(root: Path, class_name: str, name: str, *, suffix: str = ".png", values: np.ndarray | None = None) -> None:
    save(root / "images" / class_name / f"{name}{suffix}", photo(zlib.crc32(f"{root.name}/{class_name}/{name}".encode())))
    save(root / "masks" / class_name / f"{name}.png", mask() if values is None else values)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three sound pairs each, as sub-folders."""
    for class_name in ("cat", "dog"):
        for name in ("a", "b", "c"):
            pair(tmp_path / "own", class_name, name)
    return tmp_path / "own"


SHAPE_NOTES = {"filled-box", "alike-mask"}
"""The masks made here are one and the same box."""
SOUND = {f"images/{class_name}/{name}.png" for class_name in ("cat", "dog") for name in ("a", "b", "c")}


def table(root: Path, rows: list[list[str]], header: str = "image,mask,label") -> None:
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])


def rows_of(names: str = "abc") -> list[list[str]]:
    return [[f"images/{c}/{n}.png", f"masks/{c}/{n}.png", c] for c in ("cat", "dog") for n in names]


def load(root: Path, **changes: Any) -> tuple[list[Sample], list[Reject]]:
    found = plan(FolderConfig(root=root, image_size=16, **changes))
    results = [result for item in found.items for result in found.load(item)]
    samples = [result for result in results if isinstance(result, Sample)]
    return samples, [*found.rejects, *(result for result in results if isinstance(result, Reject))]


def files(samples: list[Sample]) -> set[str]:
    return {sample.source_file for sample in samples}


# --- layouts


def test_sub_folders_are_classes_and_equal_names_are_pairs(root: Path) -> None:
    samples, rejects = load(root)
    assert files(samples) == SOUND
    assert not rejects
    assert {(sample.source_file.split("/")[1], sample.label) for sample in samples} == {("cat", 0), ("dog", 1)}


def test_a_table_gives_the_same_samples_as_sub_folders(root: Path) -> None:
    by_folder, _ = load(root)
    table(root, rows_of())
    by_table, rejects = load(root)
    assert not rejects
    for one, other in zip(by_folder, by_table, strict=True):
        assert (one.source_file, one.label, one.box) == (other.source_file, other.label, other.box)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)


def test_names_may_hold_spaces_accents_dots_and_endings_in_capitals(root: Path) -> None:
    pair(root, "big cat", "my photo.v2", suffix=".JPG")
    pair(root, "big cat", "zweite")
    save(root / "images" / "big cat" / (unicodedata.normalize("NFC", "caf\u00e9") + ".png"), photo())
    save(root / "masks" / "big cat" / (unicodedata.normalize("NFD", "caf\u00e9") + ".png"), mask())
    samples, rejects = load(root)
    assert files(samples) - SOUND == {f"images/big cat/{name}" for name in ("my photo.v2.JPG", "zweite.png", "caf\u00e9.png")}
    assert not rejects


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_from_a_spreadsheet_is_read(root: Path, mark: str) -> None:
    lines = ["\ufeffimage, mask ,label,author", *(",".join([*row, "me"]) for row in rows_of()), ",,,", ""]
    (root / "labels.csv").write_bytes("\r\n".join(lines).replace(",", mark).encode())
    samples, rejects = load(root)
    assert files(samples) == SOUND
    assert not rejects


def test_one_image_may_hold_several_objects_in_one_split(root: Path) -> None:
    second = mask()[:, ::-1].copy()
    for class_name in ("cat", "dog"):
        for name in "abc":
            save(root / "masks" / class_name / f"{name}-2.png", second)
    table(root, rows_of() + [[image, m.replace(".png", "-2.png"), label] for image, m, label in rows_of()])
    samples, _ = load(root)
    splits = defaultdict(set)
    for sample in samples:
        splits[sample.source_file].add(sample.split)
    assert len(samples) == len({sample.sample_id for sample in samples}) == 12
    assert all(len(where) == 1 for where in splits.values())


def test_splits_and_groups_of_the_table_are_kept(root: Path) -> None:
    splits = ["train", "val", "test", "", "", ""]
    groups = ["", "", "", "walk", "walk", "walk"]
    rows = [[*row, split, group] for row, split, group in zip(rows_of(), splits, groups, strict=True)]
    table(root, rows, "image,mask,label,split,group")
    samples, _ = load(root)
    by_file = {sample.source_file: sample for sample in samples}
    assert [by_file[row[0]].split for row in rows[:3]] == ["train", "val", "test"]
    assert {by_file[row[0]].group for row in rows[3:]} == {"walk"}
    assert len({by_file[row[0]].split for row in rows[3:]}) == 1


# --- what does not match


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("images/cat/d.png", photo(), "image-without-mask"),
        ("masks/cat/d.png", mask(), "mask-without-image"),
        ("images/bird/d.png", photo(), "image-without-mask"),
        ("images/loose.png", photo(), "label-missing"),
        ("images/cat/notes.txt", b"notes", "not-an-image"),
        ("images/cat/sub/e.png", photo(), "nested-folder"),
        ("images/cat/b\udce9.png", photo(), "bad-file-name"),
    ],
)
def test_a_file_without_its_match_is_reported_and_loses_nothing_else(root: Path, name: str, content: Any, rule: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as stream:
            Image.fromarray(content).save(stream, format="PNG")
    samples, rejects = load(root)
    assert files(samples) == SOUND
    assert [reject.rule for reject in rejects] == [rule]
    rejects[0].source_file.encode()


def test_hidden_files_are_passed_over(root: Path) -> None:
    (root / "images" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "images" / ".cache").mkdir()
    assert load(root)[1] == []


def test_two_images_of_one_name_are_both_reported(root: Path) -> None:
    save(root / "images" / "cat" / "a.jpg", photo())
    samples, rejects = load(root)
    assert files(samples) == SOUND - {"images/cat/a.png"}
    assert [(reject.source_file, reject.rule) for reject in rejects] == [
        ("images/cat/a.jpg", "ambiguous-name"),
        ("images/cat/a.png", "ambiguous-name"),
        ("masks/cat/a.png", "ambiguous-name"),
    ]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("rule", "break_pair"),
    [
        ("unreadable-image", lambda image, _: cut(image)),
        ("unreadable-mask", lambda _, mask_file: mask_file.write_bytes(b"no mask")),
        ("size-mismatch", lambda _, mask_file: save(mask_file, mask()[:, 1:])),
        ("empty-mask", lambda _, mask_file: save(mask_file, mask(0))),
        ("faint-mask", lambda _, mask_file: save(mask_file, np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1)))),
    ],
)
def test_a_bad_pair_is_rejected_by_name_and_loses_nothing_else(root: Path, rule: str, break_pair: Any) -> None:
    break_pair(root / "images" / "dog" / "b.png", root / "masks" / "dog" / "b.png")
    samples, rejects = load(root)
    assert files(samples) == SOUND - {"images/dog/b.png"}
    assert [(reject.source_file, reject.rule) for reject in rejects] == [("images/dog/b.png", rule)]
    assert rejects[0].detail


def test_a_mask_that_vanishes_when_it_shrinks_is_rejected(root: Path) -> None:
    dot = np.zeros((900, 900), dtype=np.uint8)
    dot[5, 5] = 255
    save(root / "images" / "cat" / "a.png", np.zeros((900, 900, 3), dtype=np.uint8))
    save(root / "masks" / "cat" / "a.png", dot)
    samples, rejects = load(root)
    assert files(samples) == SOUND - {"images/cat/a.png"}
    assert [reject.rule for reject in rejects] == ["empty-mask"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (["images/cat/zzz.png", "masks/cat/a.png", "cat"], "mask-without-image"),
        (["images/more.png", "masks/cat/zzz.png", "cat"], "image-without-mask"),
        (["images/more.png", "", "cat"], "image-without-mask"),
        (["images/more.png", "masks/cat/a.png", ""], "label-missing"),
        (["images/more.png", "masks/cat/a.png", "bird"], "single-sample-class"),
    ],
)
def test_a_row_that_cannot_be_used_is_reported_and_loses_nothing_else(root: Path, row: list[str], rule: str) -> None:
    save(root / "images" / "more.png", photo())
    table(root, [*rows_of(), row])
    samples, rejects = load(root)
    assert files(samples) == SOUND
    assert {sample.label for sample in samples} == {0, 1}
    assert [(reject.source_file, reject.rule) for reject in rejects] == [(row[0], rule)]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("image,label", [], r"row 1: no column 'mask' in 'image,label'; expected image, mask, label"),
        ("image|mask|label", [], "separated by commas, semicolons or tabs"),
        ("image,mask,label,spilt", [], "unknown column 'spilt'; did you mean 'split'"),
        ("image,mask,label,label", [], "a column stands twice"),
        ("image,mask,label", [["a.png", "b.png", "cat", "more"]], "row 2: 4 cells, the header has 3"),
        ("image,mask,label", [["", "b.png", "cat"]], "row 2: the column 'image' is empty"),
        ("image,mask,label", [["a.png", "b.png", "cat"], ["a.png", "b.png", "dog"]], "row 3: repeats row 2"),
        ("image,mask,label", [["../a.png", "b.png", "cat"]], r"row 2: '\.\./a\.png' leads outside"),
        ("image,mask,label", [["a.png", "/etc/passwd", "cat"]], "row 2: '/etc/passwd' leads outside"),
        ("image,mask,label", [["images/../../a.png", "b.png", "cat"]], "row 2: .* leads outside"),
        ("image,mask,label", [["C:\\\\data\\\\a.png", "b.png", "cat"]], "row 2: .* leads outside"),
        ("image,mask,label", [["a\0.png", "b.png", "cat"]], "row 2: .* is no usable path"),
        ("image,mask,label,split", [["a.png", "b.png", "cat", "valid"]], "row 2: split 'valid' is none of train, val, test"),
        (
            "image,mask,label,split,group",
            [["a.png", "b.png", "cat", "val", "g"], ["c.png", "d.png", "cat", "test", "g"]],
            "row 3: group 'g' has split 'test' here and 'val' in row 2",
        ),
    ],
)
def test_a_wrong_row_is_named_by_its_number(root: Path, header: str, rows: list[list[str]], message: str) -> None:
    table(root, rows, header)
    with pytest.raises(DataError, match=message):
        plan(FolderConfig(root=root))


def test_links_are_followed_in_both_layouts_and_a_ring_of_links_is_a_missing_file(tmp_path: Path, root: Path) -> None:
    linked = tmp_path / "linked"
    for kind in ("images", "masks"):
        (linked / kind).mkdir(parents=True)
        (linked / kind / "cat").symlink_to(root / kind / "cat")
        (linked / kind / "dog").mkdir()
        for name in "abc":
            (linked / kind / "dog" / f"{name}.png").symlink_to(
                os.path.relpath(root / kind / "dog" / f"{name}.png", linked / kind / "dog")
            )
    assert files(load(linked)[0]) == SOUND
    (linked / "ring.png").symlink_to(linked / "ring.png")
    table(linked, [*rows_of(), ["ring.png", "masks/cat/a.png", "cat"]])
    samples, rejects = load(linked)
    assert files(samples) == SOUND
    assert [(reject.source_file, reject.rule) for reject in rejects] == [("ring.png", "mask-without-image")]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_table_names_files_in_either_unicode_form_and_with_either_slash(root: Path, form: str) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    rows = []
    for name in ("gr\u00fcn", "\u00e9t\u00e9"):
        for kind, pixels in (("images", photo()), ("masks", mask())):
            save(root / kind / unicodedata.normalize(form, "Kr\u00fcge") / unicodedata.normalize(form, f"{name}.png"), pixels)
        rows.append([unicodedata.normalize(other, f"{kind}\\Kr\u00fcge\\{name}.png") for kind in ("images", "masks")] + ["jug"])
    table(root, rows_of() + rows)
    samples, rejects = load(root)
    assert not rejects
    assert len(samples) == 8


@pytest.mark.parametrize(
    ("image", "mask_file", "words"),
    [
        ("images/cat/A.PNG", "masks/cat/a.png", "no file images/cat/A.PNG; images/cat/a.png is there"),
        ("images/Cat/a.png", "masks/cat/a.png", "no file images/Cat/a.png; images/cat/a.png is there"),
        ("pictures/cat/a.png", "masks/cat/a.png", "no file pictures/cat/a.png; there is no folder pictures"),
        ("images/cat/a.png", "masks/cat/a.jpg", "no file masks/cat/a.jpg; masks/cat/a.png is there"),
        ("images/cat/a.png", "masks/cat/a_mask.png", "no file masks/cat/a_mask.png; masks/cat/a.png is there"),
    ],
)
def test_a_missing_file_of_a_table_is_named_with_what_is_there(root: Path, image: str, mask_file: str, words: str) -> None:
    table(root, [*rows_of("bc"), [image, mask_file, "cat"]])
    (root / "images" / "CAT.txt").write_text("")  # no folder that may be meant
    (reject,) = load(root)[1]
    assert words in reject.detail


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("masks/cat/a.png", "masks/cat/a_mask.gif"),
        ("masks/cat/a.png", "masks/cat/a.jpg_mask.png"),
        ("masks/cat/a.png", "masks/cat/a.jpg.png"),
        ("masks/cat/a.png", "masks/cat/A.png"),
        ("masks/cat", "masks/Cat"),
    ],
)
def test_a_file_without_its_match_is_named_with_what_may_be_it(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)
    rejects = {reject.source_file: reject for reject in load(root)[1]}
    there = new if new.count("/") == 2 else "masks/Cat/a.png"
    assert rejects["images/cat/a.png"].detail == f"no file masks/cat/a.*; {there} is there: rename it"
    assert "images/cat/a.png is there" in rejects[there].detail


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_a_picture_are_one_group_however_they_are_called_and_never_in_two_splits(root: Path, seed: int) -> None:
    """Each of 30 pictures lies there under two or three names, in chains: the second name of one is in a group with the next."""
    rows = []
    for number in range(30):
        for copy in range(2 + number % 2):
            file = f"images/{number}-{copy}.png"
            save(root / file, photo(number))
            save(root / "masks" / f"{number}-{copy}.png", mask())
            group = f"walk {number // 2}" if copy == number % 2 else ""
            rows.append([file, f"masks/{number}-{copy}.png", "cat" if number % 3 else "dog", "", group])
    table(root, rows, "image,mask,label,split,group")
    samples, rejects = load(root, seed=seed)
    assert not rejects
    assert len(samples) == len(rows)
    by_picture: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for sample in samples:
        by_picture[sample.source_file.split("-")[0]].add((sample.group, sample.split))
    assert {len(found) for found in by_picture.values()} == {1}
    assert len({sample.group for sample in samples}) == 15
    assert {sample.split for sample in samples} == {"train", "val", "test"}


@pytest.mark.parametrize("masks", ["the same", "others"])
@pytest.mark.parametrize("layout", ["folders", "table"])
def test_a_picture_under_two_classes_with_one_mask_is_of_neither_and_with_others_noted(root: Path, layout: str, masks: str) -> None:
    for kind in ("images", "masks"):
        shutil.copy(root / kind / "cat" / "a.png", root / kind / "dog" / "copy.png")
    if masks == "others":
        save(root / "masks" / "dog" / "copy.png", np.roll(mask(), 3, axis=1))
    if layout == "table":
        table(root, [*rows_of(), ["images/dog/copy.png", "masks/dog/copy.png", "dog"]])
    samples, rejects = load(root)
    both = {"images/cat/a.png", "images/dog/copy.png"}
    assert {reject.source_file: reject.rule for reject in rejects} == (
        dict.fromkeys(both, "repeated-annotation") if masks == "the same" else {}
    )
    noted = {sample.source_file for sample in samples if "two-classes" in sample.notes}
    assert noted == (both if masks == "others" else set())
    assert {sample.source_file for sample in samples} == (SOUND | both if masks == "others" else SOUND - both)


def test_a_copy_in_another_split_is_left_out_and_one_without_a_split_follows(root: Path) -> None:
    for name, of in (("again", "a"), ("once-more", "a"), ("other", "b")):
        save(root / "images" / "cat" / f"{name}.png", photo(ord(of)))
        save(root / "masks" / "cat" / f"{name}.png", mask())
    for name in "ab":
        save(root / "images" / "cat" / f"{name}.png", photo(ord(name)))
    cats = {"a": "train", "again": "test", "once-more": "", "b": "test", "other": "test", "c": ""}
    rows = [[f"images/cat/{name}.png", f"masks/cat/{name}.png", "cat", split] for name, split in cats.items()]
    table(root, [*rows, *([*row, ""] for row in rows_of()[3:])], "image,mask,label,split")
    samples, (reject,) = load(root)
    assert (reject.rule, Path(reject.source_file).stem) == ("repeated-image", "again")
    assert "the same picture as images/cat/a.png in the train split" in reject.detail
    split_of = {Path(sample.source_file).stem: sample.split for sample in samples if "cat" in sample.source_file}
    assert split_of["a"] == split_of["once-more"] == "train"
    assert split_of["b"] == split_of["other"] == "test"


@pytest.mark.parametrize("given", list(permutations(["train", "test"])))
def test_a_group_without_a_split_that_has_copies_in_two_is_left_out_of_both(root: Path, given: tuple[str, str]) -> None:
    """A walk of three pictures, of which one is a training picture and one a test picture; none can be kept."""
    rows = []
    for name, of, split, group in (
        *(("one", "a", given[0], ""), ("other", "b", given[1], "")),
        *(("a again", "a", "", "walk"), ("b again", "b", "", "walk"), ("on the way", "c", "", "walk"), ("way again", "c", "", "")),
        ("alone", "d", "", ""),
    ):
        save(root / "images" / f"{name}.png", photo(ord(of)))
        save(root / "masks" / f"{name}.png", mask())
        rows.append([f"images/{name}.png", f"masks/{name}.png", "cat", split, group])
    table(root, [*rows, *([*row, "", ""] for row in rows_of()[3:])], "image,mask,label,split,group")
    samples, rejects = load(root)
    split_of = {Path(sample.source_file).stem: sample.split for sample in samples}
    assert (split_of["one"], split_of["other"]) == given
    assert "alone" in split_of
    left_out = {Path(reject.source_file).stem: reject for reject in rejects}
    assert sorted(left_out) == ["a again", "b again", "on the way", "way again"]
    assert {reject.rule for reject in rejects} == {"repeated-image"}
    assert {reject.detail for reject in rejects} == {"its group has the same pictures as the test and the train split"}


def test_splits_may_be_folders_above_images_and_masks(tmp_path: Path) -> None:
    for part in ("train", "Valid", "test"):
        for class_name in ("cat", "dog"):
            pair(tmp_path / "own" / part, class_name, "a")
            pair(tmp_path / "own" / part, class_name, "b")
    samples, rejects = load(tmp_path / "own")
    assert not rejects
    assert {(sample.source_file.split("/")[0], sample.split) for sample in samples} == {
        ("train", "train"),
        ("Valid", "val"),
        ("test", "test"),
    }
    assert len({sample.sample_id for sample in samples}) == 12


@pytest.mark.parametrize(
    ("beside", "missing"),
    [("train dev", ""), ("train test", "test/masks"), ("train test", "test/images"), (". test", ""), (". more", "")],
)
def test_a_folder_of_pictures_that_is_not_read_is_named(root: Path, tmp_path: Path, beside: str, missing: str) -> None:
    read, other = beside.split()
    for folder in (read, other):
        shutil.copytree(root, tmp_path / "splits" / folder, dirs_exist_ok=True)
    if missing:
        shutil.rmtree(tmp_path / "splits" / missing)
    samples, rejects = load(tmp_path / "splits")
    assert len(samples) == len(SOUND)
    assert [(reject.rule, reject.source_file) for reject in rejects] == [("unused-folder", other)]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("subset", ("train", "test")),
        ("subset", ("Training", "Validation")),
        ("subset", ("", "valid")),
        ("is_test", ("0", "1")),
        ("isTest", ("False", "True")),
        ("train", ("1.0", "0.0")),
        ("Validation", ("", "yes")),
    ],
)
def test_a_column_of_splits_under_another_name_is_refused(root: Path, column: str, words: tuple[str, str]) -> None:
    rows = [f"images/cat/{name}.png,masks/cat/{name}.png,cat,{words[name == 'c']}" for name in "abc"]
    (root / "labels.csv").write_text("\n".join([f"image,mask,label,{column}", *rows]))
    with pytest.raises(DataError, match=rf"labels.csv: row 1: the column '{column}' holds splits \(.*call it split"):
        plan(FolderConfig(root=root))


@pytest.mark.parametrize(
    ("column", "words"), [("indoors", ("0", "1")), ("test", ("12", "13")), ("is_valid", ("0", "1")), ("is_crowd", ("no", "yes"))]
)
def test_other_columns_are_welcome(root: Path, column: str, words: tuple[str, str]) -> None:
    rows = [f"images/cat/{name}.png,masks/cat/{name}.png,cat,{words[name == 'c']}" for name in "abc"]
    (root / "labels.csv").write_text("\n".join([f"image,mask,label,{column}", *rows]))
    assert len(plan(FolderConfig(root=root)).items) == 3


@pytest.mark.parametrize(
    ("column", "words", "told"),
    [
        *[(column, ("7", "8"), True) for column in ("patient_id", "Subject", "track no", "video", "scene_id")],
        ("patient_id", ("7", "7"), False),  # it tells nothing apart
        *[(column, ("7", "8"), False) for column in ("scene", "person", "camera", "width")],
    ],
)
def test_a_column_of_groups_under_another_name_is_refused(root: Path, column: str, words: tuple[str, str], told: bool) -> None:
    rows = [[*row, words[place > 2]] for place, row in enumerate(rows_of())]
    table(root, rows, f"image,mask,label,{column}")
    if told:
        with pytest.raises(DataError, match=rf"labels.csv: row 1: the column '{column}' .* would not be read: call it group"):
            plan(FolderConfig(root=root))
    else:
        assert len(plan(FolderConfig(root=root)).items) == len(SOUND)
    table(root, [[*row, "g"] for row in rows], f"image,mask,label,{column},group")
    assert len(plan(FolderConfig(root=root)).items) == len(SOUND)


def test_a_column_of_groups_that_are_all_others_is_none(root: Path) -> None:
    table(root, [[*row, str(place)] for place, row in enumerate(rows_of())], "image,mask,label,track")
    assert len(plan(FolderConfig(root=root)).items) == len(SOUND)


@pytest.mark.parametrize("nothing", ["", "nan", "NaN", "<NA>"])
def test_what_programs_write_for_nothing_is_no_label_group_or_split(root: Path, nothing: str) -> None:
    rows = [[*row, nothing, nothing] for row in rows_of()]
    table(root, [[*rows[0][:2], nothing, nothing, nothing], *rows[1:]], "image,mask,label,split,group")
    samples, rejects = load(root)
    assert [(reject.rule, reject.detail) for reject in rejects] == [("label-missing", "row 2: the column 'label' is empty, or nan")]
    assert {sample.group for sample in samples} == SOUND - {"images/cat/a.png"}


@pytest.mark.parametrize("line", ["sep=;", "sep=|", '"sep=;"', "sep=,"])
def test_a_line_that_says_the_separator_is_none_of_the_table(root: Path, line: str) -> None:
    mark = line.strip('"')[-1]
    text = "\r\n".join([line, *(mark.join(row) for row in [["image", "mask", "label"], *rows_of()])])
    (root / "labels.csv").write_text(text, newline="")
    assert files(load(root)[0]) == SOUND
    (root / "labels.csv").write_text(text + f"{mark}x", newline="")
    with pytest.raises(DataError, match="row 8: 4 cells, the header has 3"):
        plan(FolderConfig(root=root))


@pytest.mark.parametrize("header", ["image,mask,label,split", "image,mask,label,subset", "image,mask,label,patient_id"])
def test_a_table_without_a_row_is_one_line(root: Path, tmp_path: Path, header: str) -> None:
    (root / "labels.csv").write_text(f"{header}\n\n")
    message = prepared_message(root, tmp_path / "prepared")
    assert message.startswith("no sample was left to prepare: the source holds none")
    assert "\n" not in message


@pytest.mark.parametrize("layout", ["table", "copy", "link"])
def test_a_picture_that_is_its_own_mask_is_rejected(root: Path, layout: str) -> None:
    own = "masks/cat/a.png"
    if layout == "table":
        table(root, [[own, own, "cat"], *rows_of()[1:]])
    else:
        (root / "images" / "cat" / "a.png").unlink()
        (os.symlink if layout == "link" else shutil.copy)(root / own, root / "images" / "cat" / "a.png")
    samples, rejects = load(root)
    assert files(samples) == SOUND - {"images/cat/a.png"}
    assert [(reject.rule, reject.detail) for reject in rejects] == [
        ("unreadable-mask", f"{own}: it is the picture itself, to the byte")
    ]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 2)])
def test_pictures_of_a_row_or_a_column_are_taken(root: Path, height: int, width: int) -> None:
    save(root / "images" / "cat" / "a.png", np.full((height, width, 3), 7, np.uint8))
    save(root / "masks" / "cat" / "a.png", np.full((height, width), 255, np.uint8))
    assert files(load(root)[0]) == SOUND


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"], ids=["empty", "LFS"]
)
def test_files_that_are_no_pictures_are_not_taken_for_copies_of_one(root: Path, content: bytes) -> None:
    for class_name in ("cat", "dog"):
        for kind in ("images", "masks"):
            (root / kind / class_name / "a.png").write_bytes(content)
    samples, rejects = load(root)
    assert len(samples) == len(SOUND) - 2
    assert [(reject.rule, reject.source_file) for reject in rejects] == [
        ("unreadable-image", f"images/{class_name}/a.png") for class_name in ("cat", "dog")
    ]


def test_a_set_for_testing_keeps_classes_of_one_sample(root: Path) -> None:
    table(root, [[*rows_of()[0], "test"], [*rows_of()[3], "test"]], "image,mask,label,split")
    samples, rejects = load(root)
    assert [sample.split for sample in samples] == ["test", "test"]
    assert not rejects


@pytest.mark.parametrize("lost", ["names", "copies", "masks", "rows"])
def test_where_nothing_is_left_to_train_on_the_rest_is_no_set_for_testing(root: Path, tmp_path: Path, lost: str) -> None:
    made = tmp_path / "splits"
    for part in ("train", "test"):
        for class_name in ("cat", "dog"):
            for name in "ab":
                pair(made / part, class_name, name)
    if lost == "names":
        for path in (made / "train" / "masks").rglob("*.png"):
            path.rename(path.with_stem(f"{path.stem}_mask"))
    elif lost == "copies":
        shutil.copytree(made / "test" / "images", made / "train" / "images", dirs_exist_ok=True)
    elif lost == "masks":
        shutil.rmtree(made / "train" / "masks")
    else:
        made = root
        rows = [[*row, "test"] for row in rows_of()]
        table(root, [*rows, ["gone.png", "gone-mask.png", "cat", "train"]], "image,mask,label,split")
    message = prepared_message(made, tmp_path / "set")
    assert "0 of them for training" in message
    assert "not taken: " in message


@pytest.mark.parametrize("below", ["", "cat"])
@pytest.mark.parametrize("names", ["train val", "Training Valid Test", "train plane", "train"])
def test_splits_below_images_are_not_taken_for_classes(tmp_path: Path, names: str, below: str) -> None:
    for name in names.split():
        for number in range(2):
            pair(tmp_path / "own", f"{name}/{below}", str(number))
    if names in ("train plane", "train"):  # a train may be a vehicle
        found = plan(FolderConfig(root=tmp_path / "own"))
        assert found.classes == (() if below else tuple(sorted(names.split())))
    else:
        with pytest.raises(DataError, match=r"its folders .* are splits.* above images/ and masks/"):
            plan(FolderConfig(root=tmp_path / "own"))


def test_pictures_without_folders_of_classes_are_named_with_the_remedy(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / "own" / "images" / f"{name}.png", photo())
        save(tmp_path / "own" / "masks" / f"{name}.png", mask())
    message = prepared_message(tmp_path / "own", tmp_path / "set")
    assert "6 label-missing; the first is images/a.png: it lies in no sub-folder of images/" in message
    assert "put it into a sub-folder named after its class" in message


@pytest.mark.parametrize("square", [True, False])
def test_a_picture_that_exif_turns_and_a_mask_that_is_not_turned(root: Path, square: bool) -> None:
    """Where sizes tell, the mask was drawn on the stored pixels and is refused; where they do not, the set is noted."""
    height = WIDTH if square else HEIGHT
    pixels = np.random.default_rng(0).integers(0, 256, (height, WIDTH, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(root / "images" / "cat" / "a.png", exif=exif)
    drawn = np.zeros((height, WIDTH), np.uint8)
    drawn[3:9, 3:9] = 255
    save(root / "masks" / "cat" / "a.png", drawn)
    samples, rejects = load(root)
    if square:
        (sample,) = (sample for sample in samples if sample.source_file == "images/cat/a.png")
        assert sample.notes - SHAPE_NOTES == {"turned", "turned-alone"}
        assert not rejects
    else:
        assert [(reject.source_file, reject.rule) for reject in rejects] == [("images/cat/a.png", "turned-image")]
        assert "EXIF orientation 6" in rejects[0].detail


def at_the_lower_border() -> np.ndarray:
    """The mask of a portrait: it reaches the border, and is the background of nothing."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[HEIGHT // 3 :, WIDTH // 4 : -WIDTH // 4] = 255
    return drawn


@pytest.mark.parametrize("drawn", [mask(), at_the_lower_border()], ids=["within", "at the border"])
def test_masks_of_the_background_are_noted_also_where_the_object_reaches_the_border(root: Path, drawn: np.ndarray) -> None:
    save(root / "masks" / "cat" / "a.png", 255 - drawn)
    save(root / "masks" / "cat" / "b.png", drawn)
    noted = {sample.source_file: sample.notes - SHAPE_NOTES for sample in load(root)[0]}
    assert noted["images/cat/a.png"] == {"border-foreground"}
    assert noted["images/cat/b.png"] == frozenset()


def test_prepare_names_the_first_file_of_each_rule(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "masks" / "cat" / "b.png").rename(root / "masks" / "cat" / "b_mask.png")
    save(root / "masks" / "dog" / "a.png", mask() * 0)
    prepare(PrepareConfig(data=FolderConfig(root=root), prepared=tmp_path / "set", workers=0))
    said = capsys.readouterr().out
    assert "       1  empty-mask (images/dog/a.png: masks/dog/a.png: all pixels are 0)\n" in said
    assert (
        "       1  image-without-mask (images/cat/b.png: no file masks/cat/b.*; masks/cat/b_mask.png is there: rename it)\n" in said
    )


def test_a_mask_of_several_pictures_is_noted(root: Path) -> None:
    rows = ["images/cat/a.png,masks/cat/a.png,cat", "images/cat/b.png,masks/cat/a.png,cat", "images/dog/a.png,masks/dog/a.png,dog"]
    (root / "labels.csv").write_text("\n".join(["image,mask,label", *rows, "images/dog/b.png,masks/dog/b.png,dog"]))
    noted = {sample.source_file: sample.notes - SHAPE_NOTES for sample in load(root)[0]}
    assert {name for name, notes in noted.items() if notes == {"shared-mask"}} == {"images/cat/a.png", "images/cat/b.png"}
    assert len(noted) == 4


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (((rows - y) ** 2 + (columns - x) ** 2 <= radius**2) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("make", "noted"),
    [
        (lambda: photo()[..., 1], True),
        (lambda: np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH), True),  # depth
        (lambda: (photo()[..., 1] // 3 + mask() // 2).astype(np.uint8), True),  # an object on a dark picture
        (lambda: cv2.GaussianBlur(mask(), (0, 0), 2), False),
        (lambda: mask(), False),
    ],
    ids=["photograph", "depth", "overlay", "soft", "sharp"],
)
def test_grey_pictures_in_the_place_of_masks_are_noted(root: Path, make: Any, noted: bool) -> None:
    for path in (root / "masks").rglob("*.png"):
        save(path, make())
    samples, rejects = load(root)
    assert not rejects
    assert [("in-between" in sample.notes) for sample in samples] == [noted] * len(SOUND)
    assert any("are these masks, or grey pictures" in line for line in note_lines({"in-between": 3}, 20, {}))


@pytest.mark.parametrize("scale", [1, 60])
@pytest.mark.parametrize(
    ("drawn", "noted"),
    [
        (disc(18, 12, 8) - disc(18, 12, 7), True),
        (cv2.morphologyEx(mask(), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), True),
        (disc(18, 12, 8) - disc(18, 12, 4), False),  # a ring covers more than its hole
        (disc(18, 12, 8), False),
        (255 - disc(18, 12, 8), False),
    ],
    ids=["circle", "box", "ring", "disc", "background"],
)
def test_outlines_that_were_not_filled_are_noted(root: Path, drawn: np.ndarray, noted: bool, scale: int) -> None:
    large = np.kron(drawn, np.ones((scale, scale), np.uint8))
    if noted and scale > 1:  # a line of few pixels stays one when it is looked at from afar
        large = cv2.morphologyEx(large, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    save(root / "images" / "cat" / "a.png", np.zeros((*large.shape, 3), np.uint8))
    save(root / "masks" / "cat" / "a.png", large)
    assert {sample.source_file for sample in load(root)[0] if "hollow" in sample.notes} == (
        {"images/cat/a.png"} if noted else set()
    )
    assert "was its outline drawn" in note_lines({"hollow": 3}, 10, {})[0]
    assert not note_lines({"hollow": 1}, 10, {})


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_masks_that_are_filled_boxes_are_noted(root: Path, ending: str) -> None:
    for name, drawn in (("a", disc(18, 12, 7)), ("b", mask()), ("c", mask() | disc(18, 12, 7))):
        (root / "masks" / "cat" / f"{name}.png").unlink()
        Image.fromarray(drawn).save(root / "masks" / "cat" / f"{name}.{ending}", quality=100, subsampling=0)
    noted = {sample.source_file for sample in load(root)[0] if "filled-box" in sample.notes}
    assert noted == {"images/cat/b.png", *(name for name in SOUND if "dog" in name)}
    assert note_lines({"filled-box": 4}, 6, {})[0].startswith("in 4 of 6 masks the object is a filled box")
    assert not note_lines({"filled-box": 1}, 20, {})


def test_one_mask_under_many_names_is_noted_but_that_of_a_picture_there_twice_is_not(root: Path) -> None:
    for place, name in enumerate("abc"):
        save(root / "masks" / "cat" / f"{name}.png", disc(18 + place, 12, 7))
    shutil.copy(root / "images" / "cat" / "a.png", root / "images" / "cat" / "copy.png")
    shutil.copy(root / "masks" / "cat" / "a.png", root / "masks" / "cat" / "copy.png")
    noted = {sample.source_file for sample in load(root)[0] if "alike-mask" in sample.notes}
    assert noted == {name for name in SOUND if "dog" in name}


@pytest.mark.parametrize(("shift", "noted"), [(0.4, True), (6, False)])
@pytest.mark.parametrize("label", ["cat", "dog"])
def test_an_object_that_is_listed_twice_with_masks_a_pixel_apart_is_noted(
    root: Path, shift: float, noted: bool, label: str
) -> None:
    save(root / "masks" / "cat" / "a.png", disc(16, 12, 9))
    save(root / "masks" / "cat" / "again.png", disc(16 + shift, 12, 9.2))
    table(root, [*rows_of(), ["images/cat/a.png", "masks/cat/again.png", label]])
    found = {sample.sample_id for sample in load(root)[0] if sample.notes & {"twin", "twin-class"}}
    assert len(found) == 2 * noted
    assert {name for sample in load(root)[0] for name in sample.notes & {"twin", "twin-class"}} == (
        {"twin" if label == "cat" else "twin-class"} if noted else set()
    )


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        *[(name, True) for name in ("Cat", "cat ", "c\u200bat", "c_at", "c-at", "cat-")],
        *[(name, False) for name in ("cats", "1", "1-2", "12", "-", "_")],
    ],
)
def test_classes_whose_names_look_alike_are_noted(root: Path, name: str, noted: bool) -> None:
    for number in "abc":
        pair(root, name, number)
    told = {sample.source_file.split("/")[1] for sample in load(root)[0] if "alike-class" in sample.notes}
    assert told == ({"cat", name} if noted else set())


@pytest.mark.parametrize(
    ("one", "other", "noted"),
    [("1", "1.0", True), ("1", "01", True), ("0", "00.0", True), ("1", "10", False), ("1.0", "1.5", False), ("1-0", "10", False)],
)
def test_classes_that_are_one_number_written_twice_are_noted(one: str, other: str, noted: bool) -> None:
    assert bool(alike_classes([one, other, "7"])) is noted


def test_a_link_that_leads_nowhere_is_told_as_one(root: Path) -> None:
    (root / "images" / "cat" / "z.png").symlink_to("/nowhere/z.png")
    (reject,) = load(root)[1]
    assert (reject.rule, reject.detail) == ("not-an-image", "it is no file, or a link that leads to none")


def test_an_object_that_fills_its_picture_is_not_taken_for_the_background(root: Path) -> None:
    drawn = np.full((HEIGHT, WIDTH), 255, np.uint8)
    drawn[:4, :4] = drawn[-4:, -4:] = 0
    save(root / "masks" / "cat" / "a.png", drawn)
    noted = {sample.source_file: sample.notes - SHAPE_NOTES for sample in load(root)[0]}
    assert noted["images/cat/a.png"] == frozenset()


def test_a_table_that_is_no_text_is_refused(root: Path) -> None:
    (root / "labels.csv").write_bytes("image,mask,label\n\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        plan(FolderConfig(root=root))


def test_an_unclosed_quote_is_refused(root: Path) -> None:
    (root / "labels.csv").write_text('image,mask,label\n"a.png,b.png,cat\n')
    with pytest.raises(DataError, match=r"labels\.csv: row \d"):
        plan(FolderConfig(root=root))


def test_a_folder_without_a_usable_pair_is_refused_with_the_rule_the_file_and_what_was_looked_for(tmp_path: Path) -> None:
    save(tmp_path / "own" / "images" / "cat" / "a.png", photo())
    (tmp_path / "own" / "masks").mkdir()
    message = prepared_message(tmp_path / "own", tmp_path / "set")
    assert "1 image-without-mask; the first is images/cat/a.png: no file masks/cat/a.*" in message
    assert (tmp_path / "set" / "rejects.csv").read_text().splitlines()[1].startswith("image-without-mask,images/cat/a.png,")


def prepared_message(root: Path, target: Path) -> str:
    with pytest.raises(DataError) as caught:
        write_prepared(plan(FolderConfig(root=root)), target, name="folder", image_size=64, root=root, workers=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "has neither.*it holds file, own.zip"),
        ("absent", "does not exist"),
        ("file", "is no folder$"),
        ("own.zip", "unpack it$"),
    ],
)
def test_a_root_that_is_no_data_set_is_one_clear_line(tmp_path: Path, name: str, message: str) -> None:
    for other in ("file", "own.zip"):
        (tmp_path / other).write_text("x")
    with pytest.raises(DataError, match=message):
        plan(FolderConfig(root=tmp_path / name))


def test_fractions_that_leave_nothing_to_train_on_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        plan(FolderConfig(root=root, val_fraction=0.5, test_fraction=0.5))


# --- masks and geometry


@pytest.mark.parametrize(("value", "recipe"), [(1, "file-0-1"), (255, "file-0-255"), (38, "file-two-values")])
def test_a_mask_of_0_and_one_other_value_is_background_and_object_whatever_the_value(root: Path, value: int, recipe: str) -> None:
    save(root / "masks" / "cat" / "a.png", mask(value))
    sample = next(sample for sample in load(root, context=0.0)[0] if sample.source_file == "images/cat/a.png")
    assert sample.mask_recipe == recipe
    assert sample.mask.max() == 255


def test_a_whole_image_is_padded_and_never_squashed(root: Path) -> None:
    save(root / "images" / "cat" / "a.png", photo())
    found = plan(FolderConfig(root=root, image_size=WIDTH))
    sample = found.load(found.items[0])[0]
    assert isinstance(sample, Sample)
    margin = (WIDTH - HEIGHT) // 2
    assert sample.box == (0, -margin, WIDTH, HEIGHT + margin)
    np.testing.assert_array_equal(sample.image[margin:-margin], photo())
    np.testing.assert_array_equal(sample.image[0], photo()[0])
    np.testing.assert_array_equal(sample.mask[margin:-margin], mask())
    assert not sample.mask[:margin].any()
    assert not sample.mask[-margin:].any()


def test_a_crop_is_centred_on_the_mask_with_the_margin_asked_for(root: Path) -> None:
    save(root / "images" / "cat" / "a.png", photo())
    x0, y0, x1, y1 = BOX
    found = plan(FolderConfig(root=root, image_size=24, context=0.25))
    sample = found.load(found.items[0])[0]
    assert isinstance(sample, Sample)
    side = round((x1 - x0) * 1.5)
    assert sample.box == (x0 - 4, 0, x1 + 4, side)
    assert side == 24
    np.testing.assert_array_equal(sample.image, photo()[:, x0 - 4 : x1 + 4])
    np.testing.assert_array_equal(sample.mask, mask()[:, x0 - 4 : x1 + 4])
    assert (y0, y1) == (6, 18)


def test_the_foreground_shrinks_with_the_square_of_the_scale(root: Path) -> None:
    sample = load(root)[0][0]
    x0, y0, x1, y1 = BOX
    expected = (x1 - x0) * (y1 - y0) * (16 / WIDTH) ** 2
    assert sample.mask.sum() / 255 == pytest.approx(expected, rel=0.02)


def test_a_turned_photo_is_shown_upright(root: Path) -> None:
    stored = Image.fromarray(np.rot90(photo()).copy())  # 90 degrees counter-clockwise; orientation 6 turns it back
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(root / "images" / "cat" / "a.png", exif=exif)
    found = plan(FolderConfig(root=root, image_size=WIDTH))
    sample = found.load(found.items[0])[0]
    assert isinstance(sample, Sample)
    margin = (WIDTH - HEIGHT) // 2
    np.testing.assert_array_equal(sample.image[margin:-margin], photo())


# --- the plan


def test_a_plan_can_be_sent_to_another_process_and_its_recipe_is_json(root: Path) -> None:
    found = plan(FolderConfig(root=root))
    again: Plan = pickle.loads(pickle.dumps(found))
    first, second = found.load(found.items[0])[0], again.load(again.items[0])[0]
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    np.testing.assert_array_equal(first.image, second.image)
    recipe = json.dumps(found.recipe)
    assert str(root) not in recipe
    assert "two values are background and object" in recipe
    assert {os.path.relpath(path, root) for path in found.files} == SOUND | {name.replace("images", "masks") for name in SOUND}


def test_splits_do_not_depend_on_the_order_of_the_rows(root: Path) -> None:
    table(root, rows_of())
    first = [(item.entry.image, item.split) for item in plan(FolderConfig(root=root)).items]
    table(root, rows_of()[::-1])
    assert [(item.entry.image, item.split) for item in plan(FolderConfig(root=root)).items] == first


def test_the_shipped_configuration_is_valid(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "data" / "folder.yaml"))
    assert isinstance(values, dict)
    assert validate(FolderConfig, values | {"root": tmp_path}).context is None
