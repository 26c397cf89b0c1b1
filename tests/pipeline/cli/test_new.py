"""``foreguard new``: data are looked at, and the file that is written runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from pipeline.ablation.config import AblateConfig
from pipeline.cli.composition import load_config
from pipeline.cli.groups import added_directory
from pipeline.cli.main import main
from pipeline.cli.new import proposal
from pipeline.data.look import Look, look, recognize
from pipeline.data.prepare import plan_of
from pipeline.data.sample import Sample
from pipeline.errors import DataError

CLASSES = {"cup": 12, "${oc.env:HOME}": 11, 'a "b": c': 10}
TINY = ["segmenter_trainer.epochs=1", "classifier_trainer.epochs=1", "attack.attacks={pgd: {kind: class, num_steps: 1}}"]
TINY += [
    "evaluation.sanity=null",
    "evaluation.max_images=4",
    "only_folds=[0]",
    "classifier_objectives=[natural]",
    "data.image_size=16",
]
TINY += ["segmenter.encoder_depth=3", "segmenter.decoder_channels=[8,8,8]", "classifier.width=4", "workers=0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of 40 px on noise, a folder a class. To be read only."""
    root, rng = tmp_path_factory.mktemp("data") / "my photos", np.random.default_rng(0)
    for kind in ("images", "masks"):
        for name in CLASSES:
            (root / kind / name).mkdir(parents=True)
    for name, count in CLASSES.items():
        for number in range(count):
            mask = np.zeros((40, 40), dtype=np.uint8)
            mask[8:24, 8:24] = 255
            picture = np.where(mask[..., None] > 0, 200, rng.integers(0, 255, (40, 40, 3))).astype(np.uint8)
            Image.fromarray(picture).save(root / "images" / name / f"{number}.png")
            Image.fromarray(mask).save(root / "masks" / name / f"{number}.png")
    return root


def test_a_folder_is_counted_and_what_is_written_is_planned(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert main(["new", "my-cups", f"root={photos}", f"out={out}", "--json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert {name: sum(of_class.values()) for name, of_class in answer["counts"].items()} == CLASSES
    assert answer["proposed"]["image_size"] == 32  # the largest that is not wider than the photos
    assert (answer["proposed"]["folds"], answer["proposed"]["epsilon"]) == (5, 2)
    assert "squares around objects: median 40 px" in captured.err
    text = (out / "experiment" / "my-cups.yaml").read_text()
    assert text.count("#") > 20
    for said in (captured.err, text):  # what prepare will say
        assert "note: in 33 of 33 masks the object is a filled box" in said
        assert "note: 33 of 33 pictures have a mask that is, to the byte, the one of another picture" in said
    assert OmegaConf.create(text).data.root == str(photos.resolve())
    with added_directory(out):
        config = load_config("ablate", AblateConfig, ["experiment=my-cups"])
    assert (config.experiment, config.data.source, config.folds) == ("my-cups", "folder", 5)
    assert config.attack.threat.epsilons == (1 / 255, 2 / 255, 4 / 255)
    assert main(["new", "my-cups", f"root={photos}", f"out={out}"]) == 2
    assert "there is an experiment of that name" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_written_runs_to_its_report(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "cups", f"root={photos}", f"out={tmp_path}"]) == 0
    where = ["--config-dir", str(tmp_path), "experiment=cups", f"run={tmp_path / 'run'}", f"prepared={tmp_path / 'set'}"]
    capsys.readouterr()
    assert main(["ablate", *where, "dry_run=true", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert {job["progress"] for job in plan} == {"new"}
    assert main(["ablate", *where, *TINY]) == 0
    assert (tmp_path / "run" / "report" / "index.html").is_file()


@pytest.mark.parametrize("split", [None, "test"])
def test_cocos_format_is_recognized_and_classes_with_few_objects_are_left_out(
    coco_mini: Path, tmp_path: Path, split: str | None
) -> None:
    """The listing counts what the rules on size and position let pass; against a plain count of what decoding gives."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    source = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    name = "test2017" if split else "some"
    (root / "annotations" / f"instances_{name}.json").write_text(json.dumps({**source, "images": source["images"][:25]}))
    (root / name).symlink_to(coco_mini / "val2017")
    config = recognize(root)
    assert (config.source, config.classes, [part.images for part in config.parts]) == ("coco", None, [name])
    every = plan_of(config)
    found = look(config)
    plan = plan_of(found.config)
    assert plan.classes == tuple(name for label, name in enumerate(every.classes) if label not in every.without_sample)
    decoded = [one for item in plan.items for one in plan.load(item) if isinstance(one, Sample)]
    assert found.sides == tuple(sorted(one.box[2] - one.box[0] for one in decoded))
    assert found.num_objects >= len(decoded) > 0
    large = [name for name, of_class in found.counts.items() if sum(of_class.values()) >= 20]
    assert proposal(found)["classes"] == (large if len(large) > 1 else list(found.counts))


@pytest.mark.parametrize(
    ("annotations", "pictures", "prefix", "folder"),
    [
        ("annotations/instances_val2017.json", "images/val2017", "", "images/val2017"),  # COCO for YOLO
        ("labels.json", "data", "", "data"),  # FiftyOne
        ("result.json", "images", "images\\", "."),  # Label Studio
        ("annotations.json", ".", "", "."),  # labelme2coco
        ("annotations/train.json", "images", "", "images"),
    ],
)
def test_the_pictures_of_an_annotation_file_are_found_where_programs_put_them(
    tmp_path: Path, annotations: str, pictures: str, prefix: str, folder: str
) -> None:
    images, objects = [], []
    for number in range(6):
        (path := tmp_path / pictures / f'p"{number}.png').parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(path)
        images.append({"id": number, "file_name": prefix + path.name, "width": 60, "height": 60})
        outline = [[10, 10, 50, 12, 48, 50, 12, 45]]
        objects.append({"id": number, "image_id": number, "category_id": number % 2, "segmentation": outline})
    categories = [{"id": 0, "name": "cup"}, {"id": 1, "name": "jug"}]
    (tmp_path / annotations).parent.mkdir(exist_ok=True)
    (tmp_path / annotations).write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    (tmp_path / annotations).with_name("captions_val2017.json" if "val" in annotations else "notes.txt").write_text("{}")
    found = look(recognize(tmp_path))
    assert [part.images for part in found.config.parts] == [folder]
    assert (found.num_objects, found.rejects) == (6, {})


@pytest.mark.parametrize("kept", ["masks", "nothing"])
def test_where_nothing_can_be_used_the_first_file_and_the_remedy_are_named(photos: Path, tmp_path: Path, kept: str) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    for path in (tmp_path / "photos" / "images").rglob("*.png"):
        path.write_bytes(b"") if kept == "masks" else path.unlink()
    with pytest.raises(DataError) as caught:
        look(recognize(tmp_path / "photos"))
    counted, rule = (
        ("33 unreadable-image", "the file is empty; save") if kept == "masks" else ("33 mask-without-image", "no file images/")
    )
    assert counted in str(caught.value)
    assert rule in str(caught.value)


@pytest.mark.slow
def test_gtsrb_is_recognized_with_its_own_test_split(gtsrb_mini: Path) -> None:
    found = look(recognize(gtsrb_mini))
    assert found.config.source == "gtsrb"
    assert found.of_split("test") > 0
    assert found.of_split("train") > found.of_split("val") > 0
    assert 10 < found.side < 200


@pytest.mark.parametrize(
    ("objects", "tested", "side", "expected"),
    [
        (400, 60, 200.0, {"image_size": 64, "folds": 5, "epsilon": 2}),
        (3_000, 700, 50.0, {"image_size": 48, "folds": None, "epsilon": 4}),
        (20_000, 4_000, 20.0, {"image_size": 32, "folds": None, "epsilon": 8}),
    ],
)
def test_what_is_proposed_follows_size_and_number(objects: int, tested: int, side: float, expected: dict[str, object]) -> None:
    of_class = {"train": (objects - tested) // 2, "test": tested // 2}
    found = Look(
        config=recognize_nothing(), counts={"a": of_class, "b": dict(of_class)}, groups=objects, sides=(side,),
        foreground=0.3, decoded=1, rejects={},
    )  # fmt: skip
    values = proposal(found)
    assert {key: values[key] for key in expected} == expected
    assert 6 <= values["epochs"] <= 40


@pytest.mark.parametrize(("smallest", "folds"), [(40, 5), (10, 5), (9, 4), (6, 3), (5, None)])
def test_of_few_images_as_many_folds_are_proposed_as_hold_two_of_every_class(smallest: int, folds: int | None) -> None:
    counts = {"a": {"train": 30, "test": 6}, "b": {"train": smallest - 1, "test": 1}}
    found = Look(
        config=recognize_nothing(), counts=counts, groups=36 + smallest, sides=(64.0,), foreground=0.3, decoded=1,
        rejects={},
    )  # fmt: skip
    assert proposal(found)["folds"] == folds


def recognize_nothing():
    from pipeline.data.config import FolderConfig

    return FolderConfig(root=Path())


@pytest.mark.parametrize("name", ["quickstart", "../x", "a b", ""])
def test_a_name_that_cannot_be_is_refused(name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", f"name='{name}'", f"root={photos}", f"out={tmp_path}"]) == 2
    assert "name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_a_layout_that_is_known_is_said_and_not_that_it_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1", "14"):
        (tmp_path / "GTSRB" / "Training" / name).mkdir(parents=True)
    assert main(["new", "signs", f"root={tmp_path}", f"out={tmp_path / 'mine'}"]) == 2
    assert "its folders of classes are named 00000 to 00042 in GTSRB, and none here is: '1'" in capsys.readouterr().err


def test_what_is_no_known_layout_says_which_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    assert main(["new", "mine", f"root={tmp_path}", f"out={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    for word in ("labels.csv", "images/CLASS/", "GTSRB", "COCO", "_annotations.coco.json"):
        assert word in said
