"""The GTSRB source: small trees made by hand for every fault, and the real files against torchvision's reader."""

import csv
import pickle
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from pipeline.data.builder import write_prepared
from pipeline.data.config import GtsrbConfig
from pipeline.data.gtsrb.annotations import COLUMNS
from pipeline.data.gtsrb.shapes import shape_of
from pipeline.data.gtsrb.source import CLASS_NAMES, TEST_IMAGES, TEST_TABLE, TRAINING, plan
from pipeline.data.polygons import coverage
from pipeline.data.rules import REMEDIES, note_lines
from pipeline.data.sample import Plan, Reject, Sample
from pipeline.errors import ConfigError, DataError

REPOSITORY = Path(__file__).parents[3]
SIDE = 40
Row = list[str]


def good_row(name: str, class_number: int) -> Row:
    return [name, str(SIDE), str(SIDE), "6", "6", "33", "33", str(class_number)]


def write_table(path: Path, rows: list[Row], header: tuple[str, ...] = COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([header, *rows])


def write_image(path: Path, class_number: int, side: int = SIDE) -> None:
    """A red disc, or whatever the class is, on grey: enough to be read. No two files are the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((side, side, 3), 90, np.uint8)
    image[0, 0] = list(zlib.crc32("/".join(path.parts[-2:]).encode()).to_bytes(4, "big")[:3])
    image[8 : side - 8, 8 : side - 8] = (190, 5 * class_number, 30)
    Image.fromarray(image).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Classes 1 and 14, three tracks of two frames each, and two test images."""
    for number in (1, 14):
        names = [f"{track:05d}_{frame:05d}.ppm" for track in range(3) for frame in range(2)]
        for name in names:
            write_image(tmp_path / TRAINING / f"{number:05d}" / name, number)
        write_table(table_of(tmp_path, number), [good_row(name, number) for name in names])
    for name, number in (("00000.ppm", 14), ("00001.ppm", 1)):
        write_image(tmp_path / TEST_IMAGES / name, number)
    write_table(tmp_path / TEST_TABLE, [good_row("00000.ppm", 14), good_row("00001.ppm", 1)])
    return tmp_path


def table_of(root: Path, number: int) -> Path:
    return root / TRAINING / f"{number:05d}" / f"GT-{number:05d}.csv"


def config(root: Path, **changes: object) -> GtsrbConfig:
    return TypeAdapter(GtsrbConfig).validate_python({"root": root, "classes": (1, 14)} | changes)


def edit(table: Path, change: Callable[[list[Row]], None]) -> None:
    with table.open(newline="") as stream:
        rows = list(csv.reader(stream, delimiter=";"))[1:]
    change(rows)
    write_table(table, rows)


def load_all(made: Plan) -> tuple[list[Sample], list[Reject]]:
    results = [result for item in made.items for result in made.load(item)]
    return [r for r in results if isinstance(r, Sample)], [*made.rejects, *(r for r in results if isinstance(r, Reject))]


def test_a_sound_tree_gives_every_image_once_with_its_label_split_and_mask(tree: Path) -> None:
    made = plan(config(tree, image_size=24))
    samples, rejects = load_all(made)
    assert made.classes == ("speed limit 30", "stop")
    assert not rejects
    assert len({sample.sample_id for sample in samples}) == len(samples) == 14
    for sample in samples:
        assert (tree / sample.source_file).is_file()
        number = (
            int(sample.source_file.split("/")[3]) if sample.split != "test" else {"00000": 14, "00001": 1}[sample.sample_id[5:]]
        )
        assert made.classes[sample.label] == CLASS_NAMES[number]
        assert sample.mask_recipe in (f"{shape_of(number)}-refined", f"{shape_of(number)}-plain")
        assert sample.image.shape == (24, 24, 3)
        assert 0.3 < sample.mask.mean() / 255 < 0.9
    assert {sample.sample_id for sample in samples if sample.split == "test"} == {"test/00000", "test/00001"}


def test_the_plan_travels_to_worker_processes_and_loads_the_same_there(tree: Path) -> None:
    made = plan(config(tree))
    item, load = pickle.loads(pickle.dumps((made.items[3], made.load)))
    (here,), (there,) = made.load(made.items[3]), load(item)
    assert isinstance(here, Sample)
    np.testing.assert_array_equal(here.mask, there.mask)
    np.testing.assert_array_equal(here.image, there.image)


def test_tracks_are_never_torn_and_every_class_is_in_train_and_val(tree: Path) -> None:
    for seed in range(5):
        items = plan(config(tree, seed=seed)).items
        splits = {group: {item.split for item in items if item.group == group} for group in {item.group for item in items}}
        assert all(len(split) == 1 for split in splits.values())
        for number in ("00001", "00014"):
            assert {next(iter(split)) for group, split in splits.items() if group.startswith(number)} == {"train", "val"}
    assert {item.split for item in plan(config(tree, val_fraction=0)).items} == {"train", "test"}


def test_the_plain_mask_is_the_shape_in_the_box(tree: Path) -> None:
    made = plan(config(tree, refine=False, context=0.0, image_size=28))
    disc = next(item for item in made.items if item.class_number == 1)
    (sample,) = made.load(disc)
    assert isinstance(sample, Sample)
    assert sample.mask_recipe == "circle-plain"
    assert sample.box == (6, 6, 34, 34)  # X2 and Y2 are included
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 14 - (0.5 + 0.02 * 28)
    expected = coverage(14 + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1), width=28, height=28)
    assert np.abs(sample.mask / 255 - expected).max() < 0.02


def test_a_crop_beyond_the_image_repeats_the_border_and_has_no_foreground_there(tree: Path) -> None:
    made = plan(config(tree, refine=False, context=0.5, image_size=56))
    (sample,) = made.load(made.items[0])
    assert isinstance(sample, Sample)
    assert sample.box == (-8, -8, 48, 48)
    np.testing.assert_array_equal(sample.image[0], sample.image[8])
    assert not sample.mask[:8].any()


@pytest.mark.parametrize(
    ("rule", "column", "value"),
    [
        ("nan-box", 3, "nan"),
        ("nan-box", 5, ""),
        ("nan-box", 4, "inf"),
        ("empty-box", 5, "6"),
        ("empty-box", 6, "2"),
        ("box-outside-image", 5, str(SIDE)),
        ("box-outside-image", 3, "-1"),
        ("unknown-class", 7, "43"),
        ("unknown-class", 7, "stop"),
        ("class-mismatch", 7, "2"),
        ("size-mismatch", 1, str(SIDE + 2)),
        ("size-mismatch", 2, "x"),
        ("too-small", 3, "25"),
        ("annotation-without-image", 0, "00009_00009.ppm"),
        ("annotation-without-image", 0, "../00014/00000_00000.ppm"),
        ("annotation-without-image", 0, "/somewhere/else.ppm"),
        ("annotation-without-image", 0, "C:\\signs\\00000_00000.ppm"),
        ("annotation-without-image", 0, "x/" * 20 + "00000_00000.ppm"),
        ("annotation-without-image", 0, "x" * 5000 + "/00000_00000.ppm"),
        ("annotation-without-image", 0, "a\0/b.ppm"),
        ("annotation-without-image", 0, "/"),
        ("annotation-without-image", 0, ".."),
        ("annotation-without-image", 0, ""),
        ("duplicate-annotation", 0, "00000_00001.ppm"),
    ],
)
def test_a_bad_row_is_rejected_by_its_rule_and_nothing_else_is_lost(tree: Path, rule: str, column: int, value: str) -> None:
    def damage(rows: list[Row]) -> None:
        rows[0][column] = value

    edit(table_of(tree, 1), damage)
    samples, rejects = load_all(plan(config(tree, min_roi=10)))
    # A row that names a wrong file leaves the right file without one.
    expected = [rule, "image-without-annotation"] if column == 0 else [rule]
    assert [reject.rule for reject in rejects] == expected
    assert all("\n" not in reject.detail and reject.detail and reject.source_file.startswith("gtsrb/") for reject in rejects)
    assert len(samples) == 13


def test_a_truncated_image_is_rejected_and_nothing_else_is_lost(tree: Path) -> None:
    path = tree / TRAINING / "00001" / "00000_00000.ppm"
    path.write_bytes(path.read_bytes()[:700])
    samples, rejects = load_all(plan(config(tree)))
    assert [(reject.rule, reject.item) for reject in rejects] == [("unreadable-image", "train/00001/00000_00000")]
    assert len(samples) == 13


def test_an_image_of_another_size_than_its_row_says_is_rejected(tree: Path) -> None:
    write_image(tree / TEST_IMAGES / "00000.ppm", 14, side=50)
    _, rejects = load_all(plan(config(tree)))
    assert [(reject.rule, reject.item) for reject in rejects] == [("size-mismatch", "test/00000")]


def test_an_image_that_no_row_names_is_rejected(tree: Path) -> None:
    write_image(tree / TEST_IMAGES / "00077.ppm", 14)
    write_image(tree / TRAINING / "00001" / "00009_00000.ppm", 1)
    rejects = plan(config(tree)).rejects
    assert [(reject.rule, reject.item) for reject in rejects] == [
        ("image-without-annotation", "train/00001/00009_00000"),
        ("image-without-annotation", "test/00077"),
    ]


def test_a_folder_of_a_class_that_does_not_exist_is_reported(tree: Path) -> None:
    (tree / TRAINING / "00043").mkdir()
    assert [(reject.rule, reject.item) for reject in plan(config(tree)).rejects] == [("unknown-class", "00043")]


def test_an_image_whose_track_is_not_in_its_name_is_rejected(tree: Path) -> None:
    write_image(tree / TRAINING / "00001" / "extra.ppm", 1)
    edit(table_of(tree, 1), lambda rows: rows.append(good_row("extra.ppm", 1)))
    assert [(reject.rule, reject.item) for reject in plan(config(tree)).rejects] == [("unknown-track", "train/00001/extra")]


def test_the_column_that_the_remedy_names_says_the_track_of_a_training_image(tree: Path) -> None:
    write_image(tree / TRAINING / "00001" / "extra.ppm", 1)
    column = REMEDIES["unknown-track"].split()[-1]
    write_table(table_of(tree, 1), [[*good_row("extra.ppm", 1), "00001/lent"]], header=(*COLUMNS, column))
    samples, rejects = load_all(plan(config(tree)))
    assert [sample.group for sample in samples if sample.sample_id == "train/00001/extra"] == ["00001/lent"]
    assert "unknown-track" not in {reject.rule for reject in rejects}


@pytest.mark.parametrize("nothing", ["nan", "NaN", ""])
def test_a_track_that_a_program_wrote_as_nan_is_that_of_the_name(tree: Path, nothing: str) -> None:
    plain = {sample.sample_id: sample.group for sample in load_all(plan(config(tree)))[0]}
    for table in (table_of(tree, 1), tree / TEST_TABLE):
        rows = [line.split(";") for line in table.read_text().splitlines()[1:]]
        write_table(table, [[*row, nothing] for row in rows], header=(*COLUMNS, "Group"))
    assert {sample.sample_id: sample.group for sample in load_all(plan(config(tree)))[0]} == plain


def test_a_column_of_tracks_in_other_capitals_is_refused(tree: Path) -> None:
    write_table(table_of(tree, 1), [[*good_row("00000_00000.ppm", 1), "a"]], header=(*COLUMNS, "group"))
    with pytest.raises(DataError, match="column group is not read: call it Group if it says the tracks"):
        plan(config(tree))


def test_the_training_track_that_the_test_set_repeats_is_left_out(tree: Path) -> None:
    for number in (1, 14):  # track 23 of another class is an ordinary track
        write_image(tree / TRAINING / f"{number:05d}" / "00023_00000.ppm", number)
        edit(table_of(tree, number), lambda rows, number=number: rows.append(good_row("00023_00000.ppm", number)))
    made = plan(config(tree))
    assert [(reject.rule, reject.item) for reject in made.rejects] == [("leaks-into-test", "train/00014/00023_00000")]
    assert any(item.group == "00001/00023" for item in made.items)


def test_classes_are_a_choice_and_their_order_is_that_of_the_labels(tree: Path) -> None:
    made = plan(config(tree, classes=(14, 1)))
    assert made.classes == ("stop", "speed limit 30")
    assert {sample.label for sample in load_all(made)[0] if "/00014/" in sample.source_file} == {0}
    alone = plan(config(tree, classes=(14,)))
    assert {item.class_number for item in alone.items} == {14}
    assert not alone.rejects


def remove_test_table(root: Path) -> None:
    (root / TEST_TABLE).unlink()


def remove_class_table(root: Path) -> None:
    table_of(root, 14).unlink()


def break_header(root: Path) -> None:
    write_table(table_of(root, 1), [], header=COLUMNS[:-1])


def hide_labels(root: Path) -> None:
    write_table(root / TEST_TABLE, [good_row("00000.ppm", 14)[:-1]], header=COLUMNS[:-1])


def write_binary(root: Path) -> None:
    table_of(root, 1).write_bytes(bytes(range(256)))


def empty_class(root: Path) -> None:
    write_table(table_of(root, 1), [])


def double_column(root: Path) -> None:
    """Which of the two holds is not known: the last one was taken."""
    lines = table_of(root, 1).read_text().splitlines()
    table_of(root, 1).write_text("\n".join([f"{lines[0]};Roi.X1", *(f"{line};0" for line in lines[1:])]))


def open_quote(root: Path) -> None:
    """All rows behind it were one cell, and their images without a row."""
    table_of(root, 1).write_text(table_of(root, 1).read_text().replace("00001_00000.ppm", '"00001_00000.ppm'))


def other_separator(root: Path) -> None:
    table_of(root, 1).write_text(table_of(root, 1).read_text().replace(";", "|"))


def separators_of_two_kinds(root: Path) -> None:
    """The reason was that ClassId is empty."""
    header, *rows = table_of(root, 1).read_text().splitlines()
    table_of(root, 1).write_text("\n".join([header, *(row.replace(";", ",") for row in rows)]))


def wide_letters(root: Path) -> None:
    table_of(root, 1).write_text(table_of(root, 1).read_text(), encoding="utf-16")


@pytest.mark.parametrize(
    ("damage", "named", "remedy"),
    [
        (double_column, "GT-00001.csv", "column Roi.X1 stands twice; it begins with 'Filename;Width"),
        (open_quote, "GT-00001.csv", "unexpected end of data; is a quote left open?"),
        (other_separator, "GT-00001.csv", "column Filename is missing; it begins with 'Filename|Width"),
        (separators_of_two_kinds, "GT-00001.csv", "one cell each, the first is '00000_00000.ppm,40,40,6,6,33,33,1': separate them"),
        (wide_letters, "GT-00001.csv", "is not UTF-8 text"),
        (remove_test_table, "GT-final_test.csv", "is missing"),
        (remove_class_table, "GT-00014.csv", "is missing"),
        (break_header, "GT-00001.csv", "ClassId is missing; it begins with 'Filename;Width"),
        (hide_labels, "GT-final_test.csv", "ClassId is missing"),
        (write_binary, "GT-00001.csv", "is not UTF-8 text"),
    ],
)
def test_a_damaged_layout_is_one_line_that_names_the_file(
    tree: Path, damage: Callable[[Path], None], named: str, remedy: str
) -> None:
    damage(tree)
    with pytest.raises(DataError) as caught:
        plan(config(tree))
    assert named in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_root_or_layout_says_what_would_be_right(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root.*data\.download=true"):
        plan(config(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"neither the official layout .*Training.* nor that of Kaggle"):
        plan(config(tmp_path))


@pytest.mark.parametrize(("classes", "message"), [((), "empty"), ((1, 1), "twice")])
def test_impossible_classes_are_refused(tree: Path, classes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(config(tree, classes=classes))


def test_a_class_without_a_usable_image_is_refused_with_the_rule_and_the_first_file(tree: Path, tmp_path: Path) -> None:
    empty_class(tree)
    made = plan(config(tree))
    with pytest.raises(
        DataError, match="class 'speed limit 30' has no sample: 6 image-without-annotation; the first is train/00001/"
    ):
        write_prepared(made, tmp_path / "set", name="gtsrb", image_size=32, root=tree, workers=0)
    assert plan(config(tree, classes=None)).classes == ("stop",)


def test_training_images_that_are_all_lost_make_no_set_for_testing(tree: Path, tmp_path: Path) -> None:
    for number in (1, 14):
        for path in (tree / TRAINING / f"{number:05d}").glob("*.ppm"):
            write_image(path, number, SIDE + 2)
    what = r"1 sample\(s\), 0 of them for training.*not taken: 12 size-mismatch; the first is train/00001/00000_00000: the file"
    with pytest.raises(DataError, match=what):
        write_prepared(plan(config(tree)), tmp_path / "set", name="gtsrb", image_size=32, root=tree, workers=0)


def lose_training(root: Path) -> None:
    """Every row of the training tables names another folder than the one that is there."""
    for path in root.rglob("Train.csv"):
        path.write_text(path.read_text().replace("Train/", "elsewhere/"))
    for path in root.rglob("GT-000*.csv"):
        edit(path, lambda rows: [row.__setitem__(0, f"x{row[0]}") for row in rows])


@pytest.mark.parametrize("kaggle", [True, False])
def test_a_training_part_that_is_lost_whole_leaves_no_set_for_testing(tree: Path, tmp_path: Path, kaggle: bool) -> None:
    if kaggle:
        as_kaggle(tree)
    lose_training(tree)
    made = plan(config(tree, classes=None))
    with pytest.raises(
        DataError, match=r"class 'speed limit 30' has no sample: .*annotation-without-image.*; images are named from"
    ):
        write_prepared(made, tmp_path / "set", name="gtsrb", image_size=32, root=tree, workers=0)


def test_blanks_around_cells_and_cells_behind_the_header_count_for_nothing(tree: Path) -> None:
    expected = ids(plan(config(tree)))
    table = table_of(tree, 1)
    table.write_text("\n".join(f"{line} ;" for line in table.read_text().replace(";", " ; ").splitlines()))
    made = plan(config(tree))
    assert (ids(made), made.rejects) == (expected, [])


@pytest.mark.parametrize("column", [3, 7])
def test_rows_of_one_image_that_tell_different_things_cost_the_image(tree: Path, column: int) -> None:
    def contradict(rows: list[Row]) -> None:
        rows.append([*rows[1][:column], "14", *rows[1][column + 1 :]])

    edit(tree / TEST_TABLE, contradict)
    made = plan(config(tree))
    assert [reject.rule for reject in made.rejects] == ["duplicate-annotation"]
    assert "none of its rows counts" in made.rejects[0].detail
    assert [item.sample_id for item in made.items if item.split == "test"] == ["test/00000"]


# --- layouts


def ids(made: Plan) -> set[tuple[str, str, str]]:
    return {(item.sample_id, item.group, item.split) for item in made.items}


def to_png(folder: Path) -> None:
    for path in list(folder.rglob("*.ppm")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".png"))
        path.unlink()


def as_archives(tree: Path) -> None:
    (tree / "GTSRB/Final_Training").mkdir(parents=True)
    (tree / TRAINING).rename(tree / "GTSRB/Final_Training/Images")
    (tree / "GTSRB/Final_Test").mkdir()
    (tree / TEST_IMAGES).rename(tree / "GTSRB/Final_Test/Images")
    (tree / TEST_TABLE).rename(tree / "GT-final_test.csv")
    shutil.rmtree(tree / "gtsrb")


def as_separate_archives(tree: Path) -> None:
    as_archives(tree)
    for name, part in (("one", "Final_Training"), ("two", "Final_Test")):
        (tree / name / "GTSRB").mkdir(parents=True)
        (tree / "GTSRB" / part).rename(tree / name / "GTSRB" / part)
    (tree / "three").mkdir()
    (tree / "GT-final_test.csv").rename(tree / "three" / "GT-final_test.csv")
    (tree / "GTSRB").rmdir()


def as_archives_with_the_table_inside(tree: Path) -> None:
    as_archives(tree)
    (tree / "GT-final_test.csv").rename(tree / "GTSRB/Final_Test/Images/GT-final_test.csv")
    (tree / "GTSRB/Final_Test/Images/GT-final_test.test.csv").write_text(";".join(COLUMNS[:-1]) + "\n")


def as_png(tree: Path) -> None:
    to_png(tree)


def as_kaggle(tree: Path) -> None:
    tables: dict[str, list[list[str]]] = {"Train": [], "Test": []}
    for number in (1, 14):
        with table_of(tree, number).open(newline="") as stream:
            for row in list(csv.reader(stream, delimiter=";"))[1:]:
                target = Path("Train") / str(number) / f"{number:05d}_{Path(row[0]).stem}.png"
                tables["Train"].append([*row[1:], target.as_posix()])
                (tree / target).parent.mkdir(parents=True, exist_ok=True)
                with Image.open(tree / TRAINING / f"{number:05d}" / row[0]) as image:
                    image.save(tree / target)
    with (tree / TEST_TABLE).open(newline="") as stream:
        for row in list(csv.reader(stream, delimiter=";"))[1:]:
            target = Path("Test") / f"{Path(row[0]).stem}.png"
            tables["Test"].append([*row[1:], target.as_posix()])
            (tree / "Test").mkdir(exist_ok=True)
            with Image.open(tree / TEST_IMAGES / row[0]) as image:
                image.save(tree / target)
    for name, rows in tables.items():
        with (tree / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([(*COLUMNS[1:], "Path"), *rows])
    (tree / "Meta.csv").write_text("Path,ClassId,ShapeId,ColorId,SignId\n")
    shutil.rmtree(tree / "gtsrb")


def as_kaggle_on_windows(tree: Path) -> None:
    as_kaggle(tree)
    for name in ("Train.csv", "Test.csv"):
        (tree / name).write_text((tree / name).read_text().replace("/", "\\"))


def as_kaggle_with_tabs_and_capitals(tree: Path) -> None:
    as_kaggle(tree)
    for name in ("Train.csv", "Test.csv"):
        (tree / name.upper()).write_text("\ufeff" + (tree / name).read_text().replace(",", "\t"))
        (tree / name).unlink()


def as_kaggle_elsewhere(tree: Path) -> None:
    """The pictures on another disk, by a link, and named by whole paths in the folder that holds the table."""
    as_kaggle(tree)
    (tree / "disk").mkdir()
    for name in ("Train", "Test"):
        (tree / name).rename(tree / "disk" / name)
        (tree / name).symlink_to(tree / "disk" / name)
        lines = [line.split(",") for line in (tree / f"{name}.csv").read_text().splitlines()]
        absolute = [",".join([*line[:-1], f"{tree}/{line[-1]}"]) for line in lines[1:]]
        (tree / f"{name}.csv").write_text("\n".join([",".join(lines[0]), *absolute]))


LAYOUTS = [as_archives, as_separate_archives, as_archives_with_the_table_inside, as_png, as_kaggle, as_kaggle_on_windows]
LAYOUTS += [as_kaggle_with_tabs_and_capitals, as_kaggle_elsewhere]


def test_an_image_that_is_not_there_is_named_with_what_may_be_it(tree: Path) -> None:
    as_kaggle(tree)
    (tree / "Train").rename(tree / "train")
    first = next(reject for reject in plan(config(tree)).rejects if reject.rule == "annotation-without-image")
    assert "Train.csv names 'Train/1/00001_" in first.detail
    assert "which is not there; train/1/00001_" in first.detail


@pytest.mark.parametrize("arrange", LAYOUTS)
def test_every_layout_gives_the_same_samples_tracks_and_splits(tree: Path, arrange: Callable[[Path], None]) -> None:
    expected = plan(config(tree))
    samples = {sample.sample_id: sample for sample in load_all(expected)[0]}
    arrange(tree)
    made = plan(config(tree, classes=None))
    assert not made.rejects
    assert ids(made) == ids(expected)
    assert made.classes == expected.classes
    for sample in load_all(made)[0]:
        np.testing.assert_array_equal(sample.image, samples[sample.sample_id].image)
        np.testing.assert_array_equal(sample.mask, samples[sample.sample_id].mask)


@pytest.mark.parametrize("arrange", [as_archives, as_kaggle])
@pytest.mark.parametrize("part", ["training", "test"])
def test_one_part_alone_can_be_prepared(tree: Path, arrange: Callable[[Path], None], part: str) -> None:
    arrange(tree)
    for path in ("Train.csv", "GTSRB/Final_Training") if part == "test" else ("Test.csv", "GTSRB/Final_Test"):
        if (tree / path).is_dir():
            shutil.rmtree(tree / path)
        else:
            (tree / path).unlink(missing_ok=True)
    assert {item.split for item in plan(config(tree)).items} == ({"test"} if part == "test" else {"train", "val"})


def test_whoever_knows_the_tracks_of_the_test_images_says_them_in_a_column(tree: Path) -> None:
    rows = [[*good_row("00000.ppm", 14), "a"], [*good_row("00001.ppm", 1), ""]]
    write_table(tree / TEST_TABLE, rows, header=(*COLUMNS, "Group"))
    assert {item.sample_id: item.group for item in plan(config(tree)).items if item.split == "test"} == {
        "test/00000": "a",
        "test/00001": "test/00001",
    }


def test_a_typo_in_the_configuration_is_refused_and_the_shipped_file_is_sound(tree: Path) -> None:
    with pytest.raises(ValidationError, match="min_rio"):
        config(tree, min_rio=3)
    shipped = yaml.safe_load((REPOSITORY / "configs" / "data" / "gtsrb.yaml").read_text())
    assert TypeAdapter(GtsrbConfig).validate_python(shipped | {"root": tree}) == GtsrbConfig(root=tree)


def test_the_recipe_changes_with_every_choice_but_not_with_the_place(tree: Path, tmp_path: Path) -> None:
    base = plan(config(tree)).recipe
    for change in ({"image_size": 40}, {"context": 0.2}, {"min_roi": 2}, {"refine": False}, {"val_fraction": 0.4}, {"seed": 1}):
        assert plan(config(tree, **change)).recipe != base
    moved = tree.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    assert plan(config(moved)).recipe == base


def test_reading_does_not_import_torchvision() -> None:
    loaded = "any(name.split('.')[0] in ('torch', 'torchvision') for name in sys.modules)"
    check = f"import sys, pipeline.data.gtsrb.source; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, check=False).returncode == 0


def test_download_asks_torchvision_for_both_parts_and_only_where_something_is_missing(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    asked: list[tuple[Path, str, bool]] = []

    def record(root: Path, *, split: str, download: bool) -> None:
        asked.append((root, split, download))

    monkeypatch.setattr(torchvision.datasets, "GTSRB", record)
    plan(config(tree, download=True))
    assert not asked
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="official layout"):
        plan(config(empty, download=True))
    assert asked == [(empty, "train", True), (empty, "test", True)]

    monkeypatch.setattr(torchvision.datasets, "GTSRB", Mock(side_effect=OSError("no\nroute")))
    with pytest.raises(DataError, match=r"data\.download.*no route"):
        plan(config(empty, download=True))


@pytest.mark.parametrize("roi", [(6, 6, 33, 33), (5, 8, 34, 31), (6, 6, 28, 28), (5, 8, 30, 24)], ids=str)
def test_a_size_in_the_place_of_the_second_corner_is_noted(tree: Path, roi: tuple[int, ...]) -> None:
    def written(rows: list[Row]) -> None:
        for row in rows:
            row[3:7] = map(str, roi)

    edit(tree / TEST_TABLE, written)
    found = plan(config(tree))
    noted = {sample.notes - {"no-outline"} for item in found.items if item.split == "test" for sample in found.load(item)}
    assert noted == {frozenset({"size-for-corner"} if roi[2] < 31 else ())}


@pytest.mark.parametrize(
    ("roi", "note"),
    [
        ((3, 3, 16, 16), "off-center"),  # as of a picture of half the size
        ((6, 9, 30, 33), "off-center"),  # x and y exchanged, or the ROI of another picture
        ((0, 0, SIDE - 1, SIDE - 1), "whole-roi"),
        ((6, 6, 33, 33), None),
        ((7, 6, 34, 33), None),
    ],
)
def test_a_roi_that_lies_as_none_of_gtsrb_does_is_noted(tree: Path, roi: tuple[int, ...], note: str | None) -> None:
    def written(rows: list[Row]) -> None:
        for row in rows:
            row[3:7] = map(str, roi)

    for number in (1, 14):
        edit(table_of(tree, number), written)
    found = plan(config(tree))
    noted = [sample.notes - {"no-outline"} for item in found.items if item.split != "test" for sample in found.load(item)]
    assert noted == [frozenset({note} if note else ())] * 12
    lines = note_lines({note: len(noted)} if note else {}, len(noted), {})
    assert len(lines) == (note is not None)


# --- what both parts together show


def renumber(root: Path, step: int, *, training: bool, test: bool) -> None:
    """Count the classes from another number, in one part or both."""
    if test:
        edit(root / TEST_TABLE, lambda rows: [row.__setitem__(7, str(int(row[7]) + step)) for row in rows])
    for number in (14, 1) if training else ():
        edit(table_of(root, number), lambda rows: [row.__setitem__(7, str(int(row[7]) + step)) for row in rows])
        folder = table_of(root, number).parent.rename(table_of(root, number + step).parent)
        (folder / f"GT-{number:05d}.csv").rename(table_of(root, number + step))


@pytest.mark.parametrize("part", ["training", "test"])
@pytest.mark.parametrize("kaggle", [True, False])
@pytest.mark.parametrize("classes", [None, (1, 14)])
def test_parts_that_count_the_classes_from_other_numbers_end_the_call(
    tree: Path, part: str, kaggle: bool, classes: tuple[int, ...] | None
) -> None:
    if kaggle:
        as_kaggle(tree)
        table = tree / ("Train.csv" if part == "training" else "Test.csv")
        table.write_text(table.read_text().replace(",14,", ",15,").replace(",1,", ",2,").replace("Train/", "Train/./"))
    else:
        renumber(tree, 1, training=part == "training", test=part == "test")
    words = r"the training part has the classes .*, the test part .* if one is counted from another number"
    with pytest.raises(DataError, match=f"{words}|has a folder of none of the classes that are asked for"):
        plan(config(tree, classes=classes))


def test_classes_that_are_counted_from_1_throughout_end_the_call(tmp_path: Path) -> None:
    rows = []
    for number in range(1, 44):
        write_image(tmp_path / "Train" / str(number) / f"{number:05d}_00000_00000.png", number % 43)
        rows.append([*good_row("", number)[1:], f"Train/{number}/{number:05d}_00000_00000.png"])
    with (tmp_path / "Train.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([(*COLUMNS[1:], "Path"), *rows])
    with pytest.raises(DataError, match="there is a class 43 and no class 0"):
        plan(config(tmp_path, classes=None))


def test_test_images_of_a_class_without_training_images_are_counted(tree: Path) -> None:
    write_image(tree / TEST_IMAGES / "00002.ppm", 7)
    edit(tree / TEST_TABLE, lambda rows: rows.append(good_row("00002.ppm", 7)))
    made = plan(config(tree, classes=None))
    assert [(reject.rule, reject.item) for reject in made.rejects] == [("untrained-class", "test/00002")]
    assert made.classes == ("speed limit 30", "stop")
    assert len(made.items) == 14


def test_folders_of_classes_that_are_named_otherwise_leave_no_set_for_testing(tree: Path) -> None:
    for number in (1, 14):
        table_of(tree, number).parent.rename(tree / TRAINING / str(number))
    with pytest.raises(DataError, match=r"Training: its folders of classes are named 00000 to 00042 .*: '1'"):
        plan(config(tree, classes=None))


def add_test_image(tree: Path, name: str, source: Path, number: int, row: Row | None = None) -> None:
    shutil.copy(source, tree / TEST_IMAGES / name)
    edit(tree / TEST_TABLE, lambda rows: rows.append([name, *(row or good_row("", number))[1:]]))


def test_a_training_track_with_a_picture_that_is_a_test_image_is_left_out_whole(tree: Path) -> None:
    add_test_image(tree, "00002.ppm", tree / TRAINING / "00001" / "00002_00001.ppm", 1)
    made = plan(config(tree))
    assert [(reject.rule, reject.item) for reject in made.rejects] == [
        ("leaks-into-test", f"train/00001/00002_0000{frame}") for frame in range(2)
    ]
    assert {item.group for item in made.items if item.split != "test"} == {
        f"{n:05d}/{t:05d}" for n in (1, 14) for t in range(3)
    } - {"00001/00002"}


def test_a_set_whose_test_part_is_copied_from_training_is_refused(tree: Path, tmp_path: Path) -> None:
    for track in range(3):
        add_test_image(tree, f"0001{track}.ppm", tree / TRAINING / "00001" / f"{track:05d}_00000.ppm", 1)
    with pytest.raises(DataError, match=r"'speed limit 30' has no sample: 6 leaks-into-test"):
        write_prepared(plan(config(tree)), tmp_path / "set", name="gtsrb", image_size=32, root=tree, workers=0)


@pytest.mark.parametrize("seed", range(4))
def test_tracks_with_a_picture_in_common_are_one(tree: Path, seed: int) -> None:
    folder = tree / TRAINING / "00001"
    for frame in range(2):
        shutil.copy(folder / f"00000_0000{frame}.ppm", folder / f"00009_0000{frame}.ppm")
    edit(table_of(tree, 1), lambda rows: rows.extend(good_row(f"00009_0000{frame}.ppm", 1) for frame in range(2)))
    made = plan(config(tree, seed=seed))
    found = {item.sample_id: item for item in made.items}
    assert len(found) == 16
    assert len({found[f"train/00001/{track}_00000"].split for track in ("00000", "00009")}) == 1
    assert len({found[f"train/00001/{track}_00000"].group for track in ("00000", "00009")}) == 1


def test_a_picture_of_two_classes_is_of_neither(tree: Path) -> None:
    shutil.copy(tree / TRAINING / "00001" / "00000_00000.ppm", tree / TRAINING / "00014" / "00007_00000.ppm")
    edit(table_of(tree, 14), lambda rows: rows.append(good_row("00007_00000.ppm", 14)))
    made = plan(config(tree))
    assert {(reject.rule, reject.item) for reject in made.rejects} == {
        ("repeated-annotation", "train/00001/00000_00000"),
        ("repeated-annotation", "train/00014/00007_00000"),
    }


@pytest.mark.parametrize(("number", "rule"), [(14, "leaks-into-test"), (1, "repeated-annotation")])
def test_one_file_that_both_tables_name_is_not_trained_on_and_tested(tree: Path, number: int, rule: str) -> None:
    as_kaggle(tree)
    with (tree / "Train.csv").open("a") as stream:
        stream.write(",".join([*good_row("", number)[1:], "Test/00000.png", "00014/lent"]) + "\n")
    table = (tree / "Train.csv").read_text().replace("Path", "Path,Group", 1)
    (tree / "Train.csv").write_text(table)
    made = plan(config(tree))
    assert rule in {reject.rule for reject in made.rejects}
    assert not {"train", "val"} & {item.split for item in made.items if item.source_file == "Test/00000.png"}


def test_tracks_that_are_torn_between_the_parts_end_the_call_and_tracks_that_begin_anew_do_not(tree: Path) -> None:
    for track, frame in ((0, 2), (1, 3)):
        path = tree / "other.ppm"
        write_image(path.with_name(f"{track}{frame}.ppm"), 1)
        add_test_image(tree, f"{track:05d}_{frame:05d}.ppm", path.with_name(f"{track}{frame}.ppm"), 1)
    with pytest.raises(
        DataError, match="by their names test images are frames of 2 training tracks, the first is 00000 of class 1"
    ):
        plan(config(tree))
    for track in (0, 1):  # a recording of its own, whose frames are counted from 0 as well
        write_image(tree / f"{track}.ppm", 1)
        add_test_image(tree, f"{track:05d}_00000.ppm", tree / f"{track}.ppm", 1)
    assert len(plan(config(tree)).items) == 18


def test_a_group_in_both_parts_ends_the_call(tree: Path) -> None:
    write_table(tree / TEST_TABLE, [[*good_row("00001.ppm", 1), "00001/00002"]], header=(*COLUMNS, "Group"))
    with pytest.raises(DataError, match="Group '00001/00002' stands in both parts"):
        plan(config(tree))


def test_tracks_of_one_image_each_are_noted(tree: Path) -> None:
    assert not any(item.notes for item in plan(config(tree)).items)
    for number in (1, 14):
        edit(table_of(tree, number), lambda rows: rows.__setitem__(slice(None), rows[::2]))
    assert {item.notes for item in plan(config(tree)).items} == {frozenset({"single-frame"})}


@pytest.mark.parametrize("beside", [".png", ".jpg"])
def test_the_file_that_the_table_names_is_read_also_beside_one_of_another_ending(tree: Path, beside: str) -> None:
    for path in list((tree / TRAINING / "00001").glob("*.ppm")):
        Image.new("RGB", (SIDE, SIDE)).save(path.with_suffix(beside))
    table_of(tree, 1).write_text(table_of(tree, 1).read_text().replace("00000_00000.ppm", f"00000_00000{beside}"))
    named = {item.source_file.rsplit("/", 1)[1] for item in plan(config(tree)).items if "/00001/" in item.source_file}
    assert named == {
        f"00000_00000{beside}",
        *(f"{track:05d}_0000{frame}.ppm" for track in range(3) for frame in range(2) if track + frame),
    }


@pytest.fixture(scope="module")
def real(gtsrb_mini: Path) -> Plan:
    return plan(GtsrbConfig(root=gtsrb_mini))


def test_files_and_labels_are_those_of_torchvision(real: Plan, gtsrb_mini: Path) -> None:
    from torchvision.datasets import GTSRB

    for part, splits in (("train", {"train", "val"}), ("test", {"test"})):
        theirs = {(Path(path).relative_to(gtsrb_mini).as_posix(), label) for path, label in GTSRB(gtsrb_mini, split=part)._samples}
        ours = {(item.source_file, item.class_number) for item in real.items if item.split in splits}
        assert ours == theirs
    assert not real.rejects


def test_the_real_set_is_split_by_track_with_every_class_in_every_split(real: Plan) -> None:
    tracks: dict[str, set[str]] = {}
    for item in real.items:
        tracks.setdefault(item.group, set()).add(item.split)
    assert all(len(splits) == 1 for splits in tracks.values())
    for split in ("train", "val", "test"):
        assert {item.class_number for item in real.items if item.split == split} == set(range(43))
    frames = Counter(item.group for item in real.items if item.split != "test")
    assert set(frames.values()) == {30}


def test_real_images_load_with_masks_that_lie_on_the_sign(real: Plan) -> None:
    samples = [sample for item in real.items[::130] for sample in real.load(item)]
    assert all(isinstance(sample, Sample) for sample in samples)
    recipes = Counter(sample.mask_recipe.split("-")[-1] for sample in samples if isinstance(sample, Sample))
    assert recipes["refined"] > 0.9 * len(samples)
    for sample in samples:
        assert isinstance(sample, Sample)
        assert 0.2 < sample.mask.mean() / 255 < 0.8, sample.sample_id
        assert sample.mask[14:18, 14:18].min() == 255, sample.sample_id
        assert sample.notes <= {"no-outline"}
    assert not note_lines(
        Counter(note for sample in samples if isinstance(sample, Sample) for note in sample.notes), len(samples), {}
    )
