"""``foreguard predict`` on files that nobody has prepared."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.cli.main import main
from pipeline.config import to_plain
from pipeline.data.images import resize
from pipeline.evaluation.primary_comparison import primary_rank
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.prediction.choice import choose_system
from pipeline.prediction.predict import overlay
from pipeline.reporting.data import Condition
from pipeline.runs.checkpoints import weights_digest
from pipeline.runs.directory import RunDescription
from pipeline.runs.files import write_sealed
from pipeline.runs.provenance import provenance
from pipeline.system import TwoStage
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CLASSES = ("<b>one</b>", "two", "three")
SIZE = 32


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Path:
    """Stages with their initial weights; the classifier was "trained" on the oracle."""
    path = tmp_path_factory.mktemp("runs")
    config = {"masks": {"source": "oracle"}, "prepared": "nowhere", "segmenter_run": None}
    tiny.save_stages(path, config=config, classes=CLASSES, image_size=SIZE)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A wide, a tall, a grey and a small image, one that is broken, and a file that is none; names that nobody should trust."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name, shape in {
        "a.png": (40, 60, 3),
        "sub/<script>.png": (70, 50, 3),
        "b\n;rm -rf.png": (33, 33),
        "z.bmp": (5, 9, 3),
    }.items():
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    (folder / "c.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


def predict(runs: Path, pictures: Path, out: Path, *words: str) -> int:
    learned = ["masks.source=learned", f"segmenter_run={runs / 'segmenter'}"]
    common = [f"images={pictures}", f"run={runs / 'classifier'}", f"out={out}", "accelerator=cpu"]
    return main(["predict", *common, *(words or learned)])


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="ascii").splitlines()]


def test_a_broken_image_costs_its_own_line_and_no_other(runs: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    assert predict(runs, pictures, tmp_path / "out") == 0
    found = lines(tmp_path / "out")
    assert [line["file"] for line in found] == ["a.png", "b\n;rm -rf.png", "c.jpg", "sub/<script>.png", "z.bmp"]
    assert [line["file"] for line in found if "error" in line] == ["c.jpg"]
    shown = capsys.readouterr().out
    assert "4 of 5 images predicted, each cut to the largest centered square and resized to 32 x 32 pixels" in shown
    assert "not read: 'c.jpg'" in shown


def test_class_confidence_and_mask_are_those_of_the_system_on_the_centred_square(
    runs: Path, pictures: Path, tmp_path: Path
) -> None:
    predict(runs, pictures, tmp_path / "out", "masks.source=learned", f"segmenter_run={runs / 'segmenter'}", "batch_size=2")
    wide = np.asarray(Image.open(pictures / "a.png"))
    stored = resize(np.ascontiguousarray(wide[:, 10:50]), SIZE)
    image = torch.from_numpy(stored).permute(2, 0, 1)[None].float() / 255
    system = TwoStage(
        build_classifier(ClassifierConfig(width=4), num_classes=len(CLASSES), seed=0),
        masks=MaskConfig(source=MaskSource.LEARNED),
        segmenter=build_segmenter(SegmenterConfig(decoder_channels=(16, 8, 8)), seed=0),
    ).eval()
    with torch.no_grad():
        probabilities, mask = system(image).softmax(dim=1)[0], system.masks(image)[0, 0]
    line = lines(tmp_path / "out")[0]
    assert line["class"] == CLASSES[int(probabilities.argmax())]
    assert line["confidence"] == pytest.approx(probabilities.max().item(), abs=1e-5)
    assert line["mask_share"] == pytest.approx(mask.mean().item(), abs=1e-5)
    assert line["box"] == [10, 0, 50, 40]
    drawn = np.asarray(Image.open(tmp_path / "out" / str(line["mask"])))
    assert np.abs(drawn.astype(float) - mask.numpy() * 255).max() <= 0.5 + 1e-3
    assert np.asarray(Image.open(tmp_path / "out" / str(line["overlay"]))).shape == (256, 256, 3)


def arm(objective: str, segmenter: str | None, train_masks: str, test_masks: str) -> dict[str, object]:
    named = {"name": f"{objective} {segmenter} {train_masks} {test_masks}", "role": "main", "seed": 0, "evaluation": "evaluation"}
    named |= {"classifier_objective": objective, "segmenter_objective": segmenter, "classifier": "../classifier"}
    named |= {"train_masks": train_masks, "test_masks": test_masks, "segmenter": segmenter and "../segmenter"}
    return named | {"masks": to_plain(MaskConfig(source=MaskSource(test_masks)))}


def write_ablation(path: Path, arms: list[dict[str, object]], /, **changes: object) -> Path:
    path.mkdir(exist_ok=True)
    about = {"experiment": "by hand", "finished": True, "arms": arms, "config": {}} | changes
    write_sealed(path / "ablation.json", about, version=1)
    return path


def write_evaluation(path: Path, runs: Path, at: Path, **changes: object) -> Path:
    """An evaluation of the learned system, when its stages lay at ``at``."""
    path.mkdir(parents=True, exist_ok=True)
    config = {"classifier_run": str(at / "classifier"), "segmenter_run": str(at / "segmenter"), "masks": {"source": "learned"}}
    inputs = {"data set": "1", **{kind: weights_digest(runs / kind, kind) for kind in ("classifier", "segmenter")}}
    about = {"id": "0", "command": "evaluate", "algorithm": 1, "config": config, "inputs": inputs, "started_at": ""} | changes
    RunDescription(**about, provenance=provenance()).write(path / "run.json")
    return path


def test_an_ablation_stands_for_its_adversarially_trained_system_with_learned_masks(
    runs: Path, pictures: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(runs, pictures, tmp_path / "expected")
    monkeypatch.chdir(tmp_path)
    arms = [
        arm("natural", "natural", "learned", "learned"),
        arm("adversarial", None, "oracle", "oracle"),
        arm("adversarial", "adversarial", "learned-hard", "learned-hard"),
        arm("adversarial", "natural", "oracle", "learned"),
    ]
    ablation = write_ablation(runs / "ablation", arms)
    assert main(["predict", f"images={pictures}", f"run={ablation}"]) == 0
    assert "system: adversarial natural oracle learned (another one: run=" in capsys.readouterr().out
    assert lines(tmp_path / "predictions" / "pictures") == lines(tmp_path / "expected")
    named = f"arm='{arms[0]['name']}'"
    assert main(["predict", f"images={pictures}", f"run={ablation}", named, f"out={ablation / 'named'}", "accelerator=cpu"]) == 0
    assert f"system: {arms[0]['name']}, masks learned" in capsys.readouterr().out
    write_ablation(ablation, arms[1:2])
    assert main(["predict", f"images={pictures}", f"run={ablation}", f"out={tmp_path / 'none'}"]) == 2
    assert "no arm is finished that can see images without an oracle" in capsys.readouterr().err


@pytest.mark.parametrize("turn", [1, -1])
def test_of_several_learned_systems_an_ablation_stands_for_the_one_that_its_answer_is_about(tmp_path: Path, turn: int) -> None:
    """Whatever the order of the list: the oracle is the rule of the report, sentence by sentence."""
    systems = [
        ("adversarial", "adversarial", "learned", "learned"),
        ("adversarial", "natural", "learned", "learned"),
        ("adversarial", "trades", "learned", "learned"),
        ("adversarial", "adversarial", "oracle", "learned"),
        ("adversarial", "adversarial", "learned-hard", "learned-hard"),
        ("trades", "trades", "learned", "learned"),
        ("trades", "natural", "learned-hard", "learned-hard"),
        ("adversarial", None, "none", "none"),
    ]
    for number in range(len(systems)):
        listed = [arm(*system) for system in systems[number:]][::turn]
        chosen = choose_system(write_ablation(tmp_path / "ablation", listed), None, {})
        assert chosen.name.startswith(" ".join(str(part) for part in systems[number]))
        moving = [Condition(*system) for system in systems[number:] if system[0] == systems[number][0] and system[1]]
        if moving:
            primary = min(moving, key=primary_rank)
            assert chosen.name.startswith(" ".join(str(part) for part in primary[:4]))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": None}, "arms: input should be"),
        ({"arms": [{"name": "a"}]}, "arms.0.role: "),
        ({"arms": [{**arm("natural", None, "none", "none"), "classifier": None}]}, "arms.0.classifier: "),
        ({"arms": [{**arm("natural", None, "none", "none"), "test_masks": "lerned"}]}, "arms.0.test_masks: "),
        ({"arms": [{**arm("natural", None, "none", "none"), "masks": {"source": "none", "fil": 1}}]}, "arms.0.masks.fil: "),
        ({"config": []}, "config: "),
    ],
)
def test_a_damaged_list_of_arms_is_one_line(pictures: Path, tmp_path: Path, capsys, changes: dict[str, object], line: str) -> None:
    ablation = write_ablation(tmp_path / "ablation", [arm("natural", None, "none", "none")], **changes)
    assert main(["predict", f"images={pictures}", f"run={ablation}", f"out={tmp_path / 'out'}"]) == 2
    message = capsys.readouterr().err
    assert "ablation.json: " in message
    assert line in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"config": {}}, "config.classifier_run: field required"),
        ({"inputs": {}}, "inputs.classifier: field required"),
        ({"inputs": {"classifier": "0" * 64}}, "the classifier that was attacked is neither "),
        ({"config": {"classifier_run": "a", "segmenter_run": None, "masks": {"source": "lerned"}}}, "config.masks.source: "),
    ],
)
def test_a_damaged_evaluation_is_one_line(
    runs: Path, pictures: Path, tmp_path: Path, capsys, changes: dict[str, object], line: str
) -> None:
    evaluation = write_evaluation(tmp_path / "evaluation", runs, runs, **changes)
    assert main(["predict", f"images={pictures}", f"run={evaluation}", f"out={tmp_path / 'out'}"]) == 2
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1


def test_the_stages_of_an_evaluation_are_found_in_its_store_by_their_weights(runs: Path, pictures: Path, tmp_path: Path) -> None:
    store = tmp_path / "moved" / "store"
    for kind in ("classifier", "segmenter"):
        shutil.copytree(runs / kind, store / f"{kind}s" / "some-name")
        (store / f"{kind}s" / "another").mkdir()
    evaluation = write_evaluation(store / "evaluations" / "one", runs, Path("where/it/lay"))
    chosen = choose_system(evaluation, None, {})
    assert chosen.classifier_run == (store / "classifiers" / "some-name").resolve()
    assert chosen.segmenter_run == (store / "segmenters" / "some-name").resolve()
    predict(runs, pictures, tmp_path / "expected")
    assert main(["predict", f"images={pictures}", f"run={evaluation}", f"out={tmp_path / 'out'}"]) == 0
    assert lines(tmp_path / "out") == lines(tmp_path / "expected")


def test_stages_that_were_trained_together_are_found_in_the_store_too(runs: Path, tmp_path: Path) -> None:
    joint = tmp_path / "store" / "joints" / "some-name"
    for kind in ("classifier", "segmenter"):
        shutil.copytree(runs / kind, joint / kind)
    evaluation = write_evaluation(tmp_path / "store" / "evaluations" / "one", runs, Path("where/it/lay"))
    chosen = choose_system(evaluation, None, {})
    assert (chosen.classifier_run, chosen.segmenter_run) == (joint.resolve(), joint.resolve())


def test_an_evaluation_stands_for_the_system_that_was_attacked(runs: Path, pictures: Path, tmp_path: Path) -> None:
    predict(runs, pictures, tmp_path / "learned")
    predict(runs, pictures, tmp_path / "none", "masks.source=none")
    evaluation = write_evaluation(tmp_path / "evaluation", runs, runs)
    given = ["predict", f"images={pictures}", f"run={evaluation}"]
    assert main([*given, f"out={tmp_path / 'same'}"]) == 0
    assert lines(tmp_path / "same") == lines(tmp_path / "learned")
    # What is said on the command line counts more: without masks the evaluation's segmenter is not needed, and not an error.
    assert main([*given, f"out={tmp_path / 'changed'}", "masks.source=none"]) == 0
    assert lines(tmp_path / "changed") == lines(tmp_path / "none")


def test_no_file_name_reaches_the_disk(runs: Path, pictures: Path, tmp_path: Path) -> None:
    predict(runs, pictures, tmp_path / "out")
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    numbers = ("000001", "000002", "000004", "000005")
    assert written == {"predictions.jsonl", *(f"{kind}/{number}.png" for kind in ("masks", "overlays") for number in numbers)}


def test_without_overlays_the_rest_is_the_same_and_none_is_drawn(runs: Path, pictures: Path, tmp_path: Path) -> None:
    learned = ("masks.source=learned", f"segmenter_run={runs / 'segmenter'}")
    predict(runs, pictures, tmp_path / "with")
    predict(runs, pictures, tmp_path / "without", *learned, "overlays=false")
    drawn, plain = lines(tmp_path / "with"), lines(tmp_path / "without")
    assert plain == [line if "error" in line else line | {"overlay": None} for line in drawn]
    assert sorted(path.name for path in (tmp_path / "without").iterdir()) == ["masks", "predictions.jsonl"]
    masks = [line["mask"] for line in plain if "mask" in line]
    assert len(masks) == 4
    for mask in masks:
        assert (tmp_path / "without" / str(mask)).read_bytes() == (tmp_path / "with" / str(mask)).read_bytes()


def test_an_overlay_darkens_each_pixel_by_what_the_mask_leaves_out() -> None:
    random = np.random.default_rng(0)
    square = random.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    mask = random.uniform(0, 0.49, (256, 256)).astype(np.float32)  # nowhere one half: no outline
    left = 0.3 + 0.7 * mask.astype(np.float64)
    exact = square * left[:, :, None]
    assert np.abs(overlay(square, mask) - exact).max() <= 0.5 + 1e-4


def test_the_whole_image_can_be_padded_instead(runs: Path, pictures: Path, tmp_path: Path) -> None:
    predict(runs, pictures / "a.png", tmp_path / "out", "masks.source=none", "square=pad")
    (line,) = lines(tmp_path / "out")
    assert line["box"] == [0, -10, 60, 50]
    assert line["mask_share"] == 1


def test_nothing_is_overwritten(runs: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert predict(runs, pictures, out) == 2
    assert "exists already; choose another directory" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["masks.fill=black"], "masks.source: oracle masks are made from the data set's own, and your images have none"),
        (["masks.source=learned"], "needs a segmenter, and the classifier was trained without: say segmenter_run=..."),
        (["masks.source=none", "segmenter_run=somewhere"], "masks.source=none uses no segmenter"),
    ],
)
def test_masks_that_cannot_be_are_one_line(runs: Path, pictures: Path, tmp_path: Path, capsys, words: list[str], line: str) -> None:
    assert predict(runs, pictures, tmp_path / "out", *words) == 2
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_whatever_lies_in_a_folder_is_predicted_or_counted(runs: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    before = {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.*")} - {"notes.txt"}
    (pictures / "gone.png").symlink_to("nowhere.png")
    (pictures / "round.png").symlink_to("round.png")
    (pictures / "above").symlink_to("..")
    os.mkfifo(pictures / "pipe.png")
    (tmp_path / "next to it.png").write_bytes((pictures / "a.png").read_bytes())
    os.rename(pictures / "z.bmp", os.fsencode(pictures) + b"/\xff.bmp")  # not UTF-8
    assert predict(runs, pictures, tmp_path / "out") == 0
    assert "left alone, by ending: 1 .txt; 2 broken link; 1 no file\n" in capsys.readouterr().out
    expected = before - {"z.bmp"} | {"\udcff.bmp", "above/next to it.png"}
    assert {line["file"] for line in lines(tmp_path / "out")} == expected


def test_what_an_earlier_call_wrote_among_the_images_is_not_predicted(runs: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    assert predict(runs, pictures, pictures / "out") == 0
    capsys.readouterr()
    assert predict(runs, pictures, tmp_path / "again") == 0
    assert lines(tmp_path / "again") == lines(pictures / "out")
    assert "of an earlier predict" in capsys.readouterr().out


def test_how_pictures_were_changed_to_be_seen_is_counted(runs: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "own").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    Image.fromarray(picture[..., :3]).save(tmp_path / "own" / "plain.png")
    (turned := Image.Exif())[0x0112] = 6
    Image.fromarray(picture[..., :3]).save(tmp_path / "own" / "turned.png", exif=turned)
    Image.fromarray(picture).save(tmp_path / "own" / "clear.png")
    Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(tmp_path / "own" / "deep.png")
    (tmp_path / "own" / "none.png").write_bytes(b"")
    assert predict(runs, tmp_path / "own", tmp_path / "out") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    words = ("transparent pixels, which were laid on white", "more than 8 bits", "turned upright")
    assert [line.split(" pictures ")[0] for line in said] == ["note: 1 of 4"] * 3
    assert all(word in line for word, line in zip(words, said, strict=True))


def test_a_picture_that_is_refused_is_told_with_the_remedy(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    one, other = (Image.fromarray(np.full((40, 40, 3), value, np.uint8)) for value in (80, 90))
    one.save(tmp_path / "own" / "a.png")
    one.save(tmp_path / "own" / "b.tif", save_all=True, append_images=[other])
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(tmp_path / "own" / "c.png")
    Image.new("RGBA", (40, 40)).save(tmp_path / "own" / "d.png")
    Image.new("1", (15_000, 14_000)).save(tmp_path / "own" / "e.png")
    assert predict(runs, tmp_path / "own", tmp_path / "out") == 0
    remedies = ["save the page that", "save it with 8 bits", "save it without its alpha channel", "save it smaller, or as JPEG"]
    errors = [str(line["error"]) for line in lines(tmp_path / "out")[1:]]
    assert all(f"; {remedy}" in error for remedy, error in zip(remedies, errors, strict=True))


def test_a_system_of_the_zoo_is_named_with_its_masks_once(pictures: Path, tmp_path: Path, capsys) -> None:
    assert main(["predict", f"images={pictures / 'a.png'}", "run=zoo:quickstart-learned", f"out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "system: adversarial-oracle-seed0-8e67f383b8, masks learned"


def test_a_folder_without_images_and_one_without_readable_ones_are_mistakes(runs: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert predict(runs, tmp_path / "empty", tmp_path / "out") == 2
    assert "holds no image" in capsys.readouterr().err
    (tmp_path / "empty" / "a.png").write_bytes(b"nothing")
    assert predict(runs, tmp_path / "empty", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert "not one of the 1 images" in told.err
    assert "the first is a.png: " in told.err
    assert "predictions" not in told.out
    assert not (tmp_path / "out").exists()


def test_what_fails_on_the_way_leaves_no_directory_behind(runs: Path, pictures: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Image.Image, "save", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert predict(runs, pictures, tmp_path / "out") == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_fails_on_the_way_keeps_what_was_predicted(runs: Path, pictures: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    full, saved, save = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), [], Image.Image.save

    def until_it_is_full(image: Image.Image, *given: object, **named: object) -> None:
        saved.append(image)
        if len(saved) > 2:
            raise full
        save(image, *given, **named)

    monkeypatch.setattr(Image.Image, "save", until_it_is_full)
    assert predict(runs, pictures, tmp_path / "out", "masks.source=none", "batch_size=1", "overlays=false") == 2
    assert "No space left" in capsys.readouterr().err
    assert len([line for line in lines(tmp_path / "out") if "class" in line]) == 2
