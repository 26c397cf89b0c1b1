"""The writer is atomic, deterministic, and refuses what cannot be learned from."""

import csv
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree

import numpy as np
import polars as pl
import psutil
import pytest
from PIL import Image

from pipeline.config import validate
from pipeline.data import builder as writer
from pipeline.data.builder import partial_directory, write_prepared
from pipeline.data.config import PrepareConfig
from pipeline.data.dataset import FILES, MANIFEST, open_prepared
from pipeline.data.prepare import prepare
from pipeline.data.rules import note_lines
from pipeline.data.sample import Plan, Reject, Sample
from pipeline.data.store import sync
from pipeline.data.synthetic import source as synthetic
from pipeline.errors import DataError, OccupiedError
from pipeline.runs.locking import locked, wait_until_free

SIDE = 8


def made_sample(number: int, *, label: int = 0, split: str = "train", **changes: object) -> Sample:
    rng = np.random.default_rng(number)
    values: dict[str, object] = {
        "sample_id": f"s{number}",
        "source_file": f"{number}.png",
        "group": f"g{number}",
        "label": label,
        "split": split,
        "box": (0.0, 0.0, 8.0, 8.0),
        "mask_recipe": "exact",
        "image": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "mask": rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8),
    }
    return Sample(**{**values, **changes})  # type: ignore[arg-type]


def made_plan(samples: list[Sample | Reject], *, classes: tuple[str, ...] = ("cat",), files: tuple[Path, ...] = ()) -> Plan:
    return Plan(classes=classes, recipe={"version": 1}, files=files, items=samples, load=lambda item: [item])


def write(plan: Plan, target: Path, *, root: Path | None = None):
    return write_prepared(plan, target, name="folder", image_size=SIDE, root=root, workers=0)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


SAMPLES = [made_sample(0), made_sample(1), made_sample(2, split="val"), made_sample(3, split="test")]


def test_what_is_read_back_is_what_was_written(tmp_path):
    write(made_plan(SAMPLES), tmp_path / "set")
    opened = open_prepared(tmp_path / "set")
    assert np.array_equal(opened.images, np.stack([sample.image for sample in SAMPLES]))
    assert np.array_equal(opened.masks, np.stack([sample.mask for sample in SAMPLES]))
    assert opened.samples["sample_id"].to_list() == ["s0", "s1", "s2", "s3"]
    assert opened.indices("val").tolist() == [2]
    train = np.stack([sample.image for sample in SAMPLES[:2]]) / 255
    assert opened.mean == pytest.approx(train.mean(axis=(0, 1, 2)), abs=1e-6)
    shares = [sample.mask.mean() / 255 for sample in SAMPLES]
    assert opened.samples["foreground_share"].to_list() == pytest.approx(shares)


def test_the_arrays_are_plain_npy_files_with_the_recorded_checksum(tmp_path):
    write(made_plan(SAMPLES), tmp_path / "set")
    manifest = json.loads((tmp_path / "set" / "dataset.json").read_text())
    for name, recorded in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "set" / name).read_bytes()).hexdigest() == recorded["sha256"]
    assert np.load(tmp_path / "set" / "images.npy").shape == (4, SIDE, SIDE, 3)


def test_a_second_call_finds_the_set_unchanged_and_writes_nothing(tmp_path):
    write(made_plan(SAMPLES), tmp_path / "set")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    assert write(made_plan(SAMPLES), tmp_path / "set").unchanged
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == before


def test_another_recipe_is_refused_and_named(tmp_path):
    write(made_plan(SAMPLES), tmp_path / "set")
    other = Plan(classes=("cat",), recipe={"version": 2}, files=(), items=SAMPLES, load=lambda item: [item])
    with pytest.raises(DataError, match=r"recipe\.version \(1, now 2\)"):
        write(other, tmp_path / "set")


def test_a_source_file_that_changed_is_noticed(tmp_path):
    source = tmp_path / "0.png"
    source.write_bytes(b"one")
    plan = made_plan(SAMPLES, files=(source,))
    write(plan, tmp_path / "set", root=tmp_path)
    assert write(plan, tmp_path / "set", root=tmp_path).unchanged
    source.write_bytes(b"three")
    with pytest.raises(DataError, match="changed source files"):
        write(plan, tmp_path / "set", root=tmp_path)


def test_rejects_are_counted_by_rule_and_logged_one_by_one(tmp_path):
    reject = Reject(source_file="x, y.jpg", item="x", rule="too-small", detail='side 3, "least" 8')
    outcome = write(made_plan([*SAMPLES, reject, reject]), tmp_path / "set")
    assert outcome.rejects == {"too-small": 2}
    with (tmp_path / "set" / "rejects.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [{"rule": "too-small", "source_file": "x, y.jpg", "item": "x", "detail": 'side 3, "least" 8'}] * 2


@pytest.mark.parametrize(
    ("samples", "classes", "message"),
    [
        ([], ("cat",), "no sample was left"),
        (
            [Reject(source_file="a", item="a#1", rule="crowd", detail="many", label=0)],
            ("cat",),
            "left to prepare: 1 crowd; the first is a#1: many; regions of many objects",
        ),
        ([made_sample(0)], ("cat",), "class 'cat' has 1 sample"),
        ([*SAMPLES, made_sample(4, label=1, split="val")], ("cat", "dog"), "'dog' has 1 sample.*, 0 of them for training"),
        (SAMPLES, ("cat", "dog"), "class 'dog' has no sample: the source holds none"),
        (
            [*SAMPLES, Reject(source_file="d", item="d#2", rule="too-small", detail="3 pixels", label=1)],
            ("cat", "dog"),
            "class 'dog' has no sample: 1 too-small; the first is d#2: 3 pixels; lower data.min_size",
        ),
        ([*SAMPLES, made_sample(0)], ("cat",), "'s0' occurs more than once"),
    ],
)
def test_a_set_that_cannot_be_learned_from_is_refused_and_leaves_the_rejects_alone(tmp_path, samples, classes, message):
    with pytest.raises(DataError, match=message):
        write(made_plan(samples, classes=classes), tmp_path / "set")
    assert names(tmp_path) == {".set.lock", "set"}
    with (tmp_path / "set" / "rejects.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == sum(isinstance(sample, Reject) for sample in samples)
    with pytest.raises(DataError, match="left no usable sample"):
        open_prepared(tmp_path / "set")
    write(made_plan(SAMPLES), tmp_path / "set")
    assert names(tmp_path / "set") == {*FILES, MANIFEST}


def test_a_set_for_testing_has_no_mean_and_cannot_be_trained_on(tmp_path):
    tests = [made_sample(number, split="test") for number in range(3)]
    write(made_plan(tests), tmp_path / "set")
    opened = open_prepared(tmp_path / "set")
    assert opened.mean is None
    assert opened.indices("test").tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="a set for testing"):
        opened.train_mean()


def test_notes_are_counted_over_the_samples(tmp_path):
    noted = [made_sample(4, notes=frozenset({"turned", "border-foreground"})), made_sample(5, notes=frozenset({"turned"}))]
    outcome = write(made_plan([*SAMPLES, *noted]), tmp_path / "set")
    assert outcome.notes == {"border-foreground": 1, "turned": 2}
    assert note_lines(outcome.notes, outcome.num_samples, {}) == ["2 of 6 pictures were turned upright by their EXIF orientation"]
    for count in (4, 3, 2):  # half a set drawn the other way round too
        assert note_lines({"border-foreground": count}, 6, {})[0].startswith(f"in {count} of 6 masks the border is foreground")


def test_a_failure_in_the_middle_leaves_nothing(tmp_path):
    def load(number):
        if number == 2:
            raise OSError(28, "No space left on device")
        return [made_sample(number)]

    plan = Plan(classes=("cat",), recipe={}, files=(), items=[0, 1, 2, 3], load=load)
    with pytest.raises(DataError, match="No space left on device"):
        write(plan, tmp_path / "set")
    assert names(tmp_path) == {".set.lock"}


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write(made_plan(SAMPLES), tmp_path / "file" / "set")


def test_an_existing_directory_that_is_no_prepared_set_is_kept(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a prepared data set"):
        write(made_plan(SAMPLES), tmp_path / "set")
    assert (tmp_path / "set" / "thesis.txt").read_text() == "years of work"


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from pipeline.data.synthetic import source as synthetic
from pipeline.data.store import sync
from pipeline.data.builder import write_prepared

plan = synthetic.plan(synthetic.SyntheticConfig())

def load(item):
    if item == plan.items[5]:
        os.kill(os.getpid(), signal.SIGKILL)
    return plan.load(item)

write_prepared(replace(plan, load=load), Path(sys.argv[1]), name="synthetic", image_size=32, root=None, workers=0)
"""


def test_the_leftovers_of_a_killed_run_do_not_matter(tmp_path):
    target, partial = tmp_path / "set", tmp_path / ".set.partial"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {"images.npy", "rejects.csv"} <= names(partial)
    (partial / "lock").touch()
    write(made_plan(SAMPLES), target)
    assert names(tmp_path) == {"set", ".set.lock"}
    assert names(target) == {*FILES, MANIFEST}
    assert np.array_equal(open_prepared(target).images, np.stack([sample.image for sample in SAMPLES]))


def test_a_set_that_another_process_is_writing_is_left_to_it(tmp_path):
    partial, lock = tmp_path / ".set.partial", tmp_path / ".set.lock"
    partial.mkdir()
    (partial / "images.npy").write_bytes(b"half")
    with (
        locked(lock, busy="-"),
        pytest.raises(OccupiedError, match="set: another process is preparing it right now") as raised,
    ):
        write(made_plan(SAMPLES), tmp_path / "set")
    assert raised.value.lock == lock
    assert (partial / "images.npy").read_bytes() == b"half"


def test_who_comes_while_a_set_is_put_in_its_place_waits_or_finds_it_whole(tmp_path, monkeypatch):
    """The second one comes inside each fsync of the first: before the rename, and after it."""
    met = []

    def come(path):
        monkeypatch.setattr(writer, "sync", sync)
        try:
            met.append(write(made_plan(SAMPLES), tmp_path / "set").unchanged)
        except OccupiedError as busy:
            met.append(busy.lock)
        monkeypatch.setattr(writer, "sync", come)
        sync(path)

    monkeypatch.setattr(writer, "sync", come)
    assert not write(made_plan(SAMPLES), tmp_path / "set").unchanged
    assert met == [tmp_path / ".set.lock", True]
    assert np.array_equal(open_prepared(tmp_path / "set").images, np.stack([sample.image for sample in SAMPLES]))
    wait_until_free(tmp_path / ".set.lock")


def test_who_comes_while_a_failed_set_is_cleared_away_waits(tmp_path, monkeypatch):
    met = []

    def come(path, **options):
        with pytest.raises(OccupiedError) as raised:
            write(made_plan(SAMPLES), tmp_path / "set")
        met.append(raised.value.lock)
        rmtree(path, **options)

    monkeypatch.setattr(writer.shutil, "rmtree", come)
    with pytest.raises(DataError, match="no sample was left"):
        write(made_plan([]), tmp_path / "set")
    assert met == [tmp_path / ".set.lock"]
    assert names(tmp_path) == {".set.lock", "set"}


def test_a_set_that_another_process_finishes_at_the_last_moment_is_not_made_again(tmp_path, monkeypatch):
    """Between the look at the target and the lock, which is where the other one's rename is put."""

    write(made_plan(SAMPLES), tmp_path / "other")

    def finish_first(lock, *, busy):
        (tmp_path / "other").rename(tmp_path / "set")
        return locked(lock, busy=busy)

    monkeypatch.setattr(writer, "locked", finish_first)
    with pytest.raises(OccupiedError, match="another process is preparing it"):
        write(made_plan(SAMPLES), tmp_path / "set")
    assert write(made_plan(SAMPLES), tmp_path / "set").unchanged
    assert not (tmp_path / ".set.partial").exists()


def test_the_number_of_processes_changes_no_byte(tmp_path):
    plan = synthetic.plan(synthetic.SyntheticConfig(num_train=200, num_val=20, num_test=20))
    for workers in (0, 2):
        write_prepared(plan, tmp_path / str(workers), name="synthetic", image_size=32, root=None, workers=workers)
    first, second = (open_prepared(tmp_path / str(workers)) for workers in (0, 2))
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.images, second.images)
    assert first.samples.equals(second.samples)


def test_the_fingerprint_tells_a_changed_label_and_ignores_the_path(tmp_path):
    write(made_plan(SAMPLES, classes=("cat",)), tmp_path / "a")
    write(made_plan(SAMPLES), tmp_path / "elsewhere")
    moved = [*SAMPLES[:3], made_sample(3, split="val")]
    write(made_plan(moved), tmp_path / "c")
    prints = [open_prepared(tmp_path / name).fingerprint for name in ("a", "elsewhere", "c")]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.EACCES])
def test_a_file_elsewhere_that_cannot_be_read_is_not_said_to_be_a_set_that_cannot_be_written(tmp_path, number):
    elsewhere = str(tmp_path / "source" / "photo.png")
    with pytest.raises(OSError, match=r"photo\.png") as raised, partial_directory(tmp_path / "set"):
        raise OSError(number, os.strerror(number), elsewhere)
    assert not isinstance(raised.value, DataError)
    assert names(tmp_path) == {".set.lock"}


@pytest.mark.parametrize("inside", [True, False])
def test_a_disk_that_is_full_is_said_to_be(tmp_path, inside):
    with (
        pytest.raises(DataError, match=r"set: cannot be written .*No space left"),
        partial_directory(tmp_path / "set") as directory,
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([str(directory / "images.npy")] if inside else []))
    assert names(tmp_path) == {".set.lock"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_workers_of_a_killed_call_end_with_it(warm, tmp_path, number):
    words = ["prepare", "data=synthetic", f"prepared={tmp_path / 'set'}", "workers=2", "data.num_train=200000"]
    process = warm.start(words)
    parent, partial = psutil.Process(process.pid), tmp_path / ".set.partial" / "images.npy"
    while not (partial.exists() and partial.stat().st_size > 1e6):
        assert process.poll() is None
        time.sleep(0.05)
    workers = parent.children(recursive=True)
    assert len(workers) >= 2
    os.kill(process.pid, number)
    process.communicate()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert len(gone) == len(workers)


@pytest.mark.slow
def test_ctrl_c_in_the_middle_leaves_nothing_and_the_same_command_works_again(warm, tmp_path):
    words = ["prepare", "data=synthetic", f"prepared={tmp_path / 'set'}", "workers=2"]
    process = warm.start([*words, "data.num_train=200000"])
    partial = tmp_path / ".set.partial" / "images.npy"
    while not (partial.exists() and partial.stat().st_size > 1e6):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert names(tmp_path) == {".set.lock"}
    again = warm.start([*words, "data.num_train=100", "data.num_val=20", "data.num_test=20"])
    said = again.communicate()
    assert again.returncode == 0, said
    assert pl.read_parquet(tmp_path / "set" / "samples.parquet").height == 140


@pytest.mark.parametrize("split", ["val", "test"])
def test_prepare_says_that_a_split_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str) -> None:
    for name in "abcdefgh":
        for kind in ("images", "masks"):
            (path := tmp_path / kind / ("even" if name in "aceg" else "odd") / f"{name}.png").parent.mkdir(
                parents=True, exist_ok=True
            )
            Image.fromarray(np.tri(40, dtype=np.uint8) * (255 if kind == "masks" else ord(name))).save(path)
    for fraction, said in ((0.25, False), (0.0, True)):
        values = {"source": "folder", "root": tmp_path, f"{split}_fraction": fraction}
        prepare(validate(PrepareConfig, {"data": values, "prepared": tmp_path / f"made-{fraction}", "workers": 0}))
        assert (f"note: the split {split} is empty" in capsys.readouterr().out) == said
    for kind in ("images", "masks"):
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / kind).rename(tmp_path / "test" / kind)
    values = {"source": "folder", "root": tmp_path}
    prepare(validate(PrepareConfig, {"data": values, "prepared": tmp_path / "made-test", "workers": 0}))
    assert "note: the split train is empty: this is a set for testing" in capsys.readouterr().out


def test_prepare_says_which_classes_the_test_split_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["image,mask,label,split"]
    for place, (label, split) in enumerate(
        [("a", "train"), ("a", "test"), ("b", "train"), ("b", "train"), ("c", "train"), ("c", "val")]
    ):
        for kind in ("image", "mask"):
            picture = np.tri(40, dtype=np.uint8) * (255 if kind == "mask" else 50 + place)
            Image.fromarray(picture).save(tmp_path / f"{kind}{place}.png")
        rows.append(f"image{place}.png,mask{place}.png,{label},{split}")
    for lacking in (True, False):
        said = "note: the split test has no image of 2 of 3 classes (b, c)"
        values = {"source": "folder", "root": tmp_path}
        if not lacking:
            rows[3:] = [row.replace("val", "test") for row in (rows[3].replace("train", "test"), *rows[4:])]
        (tmp_path / "labels.csv").write_text("\n".join(rows))
        prepare(validate(PrepareConfig, {"data": values, "prepared": tmp_path / f"made-{lacking}", "workers": 0}))
        assert (said in capsys.readouterr().out) == lacking
