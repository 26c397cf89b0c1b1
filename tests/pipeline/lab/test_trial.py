"""Several systems side by side, from runs of every kind, finished or not; what is handed on of what was seen."""

import base64
import dataclasses
import io
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.attacks import specs
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import read_rows
from pipeline.errors import CheckpointError, ConfigError, InputError, RunError
from pipeline.lab.bench import Bench, open_bench
from pipeline.lab.config import Settings
from pipeline.lab.scene import describe, scene, spoken
from pipeline.lab.snapshot import animation, program, write_snapshot
from pipeline.lab.trial import Trial, prepare, run
from pipeline.runs.checkpoints import read_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench(runs: Path, synthetic_set: Path) -> Bench:
    return open_bench(runs / "classifier", prepared=synthetic_set, segmenter_run=None, device=CPU)


@pytest.fixture(scope="module")
def trial(bench: Bench) -> Trial:
    begun, subjects = prepare(bench, bench.arms, bench.test_image(3), Settings(epsilon=0.05, steps=2))
    assert len(list(run(begun, subjects))) == 4  # the start, two steps and the result
    return begun


def test_the_stages_of_a_run_stand_behind_every_mask_that_they_allow(bench: Bench) -> None:
    assert [(arm.title, arm.detail) for arm in bench.arms] == [
        ("No mask", "the same classifier"),
        ("Oracle mask", "the same classifier"),
        ("Learned mask", "as it was trained"),
    ]
    assert bench.shown == ("none", "oracle", "learned")
    assert bench.notices == ()
    assert len(bench.rows) == 32


def test_a_system_that_is_gone_since_a_page_was_opened_is_a_message(bench: Bench) -> None:
    with pytest.raises(InputError, match="there is no system 'joint' any more"):
        bench.arm("joint")


def test_an_image_of_the_list_is_that_image_of_the_test_split(bench: Bench, synthetic_set: Path) -> None:
    dataset = open_prepared(synthetic_set)
    assert {dataset.samples["split"][row] for row in bench.rows} == {"test"}
    sample, stored = bench.test_image(7), read_rows(dataset, np.array([bench.rows[7]]))
    assert torch.equal(sample.image, stored.images)
    assert sample.mask is not None
    assert torch.equal(sample.mask, stored.masks)
    assert sample.name == f"8. {dataset.classes[sample.label]} ({dataset.samples['sample_id'][bench.rows[7]]})"
    with pytest.raises(InputError, match="no image 32"):
        bench.test_image(32)


def test_systems_are_attacked_in_turn_and_each_comes_to_its_own_result(trial: Trial, bench: Bench) -> None:
    image, label = trial.sample.image, torch.tensor([trial.sample.label])
    for view in trial.views:
        system = bench.system(view.arm)
        expected = pipeline.attack(system, image, label, trial.settings.spec, epsilon=0.05, masks=trial.sample.mask)
        assert view.finished
        assert torch.equal(view.frames[-1].image[None], expected)
    assert trial.num_frames == 5


def test_an_attack_that_says_nothing_about_a_system_is_a_note_beside_those_that_are_attacked(bench: Bench) -> None:
    begun, subjects = prepare(bench, bench.arms, bench.test_image(0), Settings(attack="collapse", steps=1))
    list(run(begun, subjects))
    assert [view.note for view in begun.views[:2]] == [
        "Not attacked: the attacker cannot move the mask of the source none.",
        "Not attacked: the attacker cannot move the mask of the source oracle.",
    ]
    assert [len(view.frames) for view in begun.views] == [1, 1, 4]
    assert "the attacker cannot move" in scene(begun)


def test_leaving_an_attack_ends_its_threads(bench: Bench) -> None:
    running = run(*prepare(bench, bench.arms, bench.test_image(0), Settings(steps=50)))
    next(running)
    running.close()
    assert [thread for thread in threading.enumerate() if thread.name == "attack"] == []


def test_a_photo_is_cut_as_predict_cuts_it_and_has_no_oracle(bench: Bench, tmp_path: Path) -> None:
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[:, 16:80] = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    sample = bench.photo(tmp_path / "wide.png")
    assert torch.equal((sample.image[0] * 255).byte().permute(1, 2, 0), torch.from_numpy(pixels[::2, 16:80:2]))
    begun, _ = prepare(bench, bench.arms, sample, Settings())
    assert [view.note for view in begun.views] == [None, "Its mask is the data set's own, and this picture has none.", None]
    begun, _ = prepare(bench, bench.arms, sample, Settings(region="background"))
    assert all("choose everywhere" in str(view.note) for view in (begun.views[0], begun.views[2]))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_a_bad_photo_is_one_sentence(bench: Bench, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=r"^bad\.png: .*choose another picture$"):
        bench.photo(tmp_path / "bad.png")


def test_one_to_four_systems_are_shown(bench: Bench) -> None:
    for arms in ([], [bench.arms[0]] * 5):
        with pytest.raises(ConfigError, match="choose one to 4"):
            prepare(bench, arms, bench.test_image(0), Settings())


def test_a_run_that_is_being_written_says_so_and_when_to_look_again(
    tmp_path: Path, runs: Path, synthetic_set: Path, begin: Callable[[Path, str], Path]
) -> None:
    def look(run: Path) -> Bench:
        return open_bench(run, prepared=synthetic_set, segmenter_run=None, device=CPU)

    with pytest.raises(RunError, match="no system of it is finished yet; look again"):
        look(begin(tmp_path / "ablation", "ablate"))
    with pytest.raises(RunError, match="has no checkpoint yet; look again"):
        look(begin(tmp_path / "training", "train-classifier"))
    with pytest.raises(RunError, match="is a segmenter"):
        look(begin(tmp_path / "segmenter", "train-segmenter"))
    (tmp_path / "training" / "checkpoints").symlink_to(runs / "classifier" / "checkpoints")
    found = look(tmp_path / "training")
    assert "This training is not finished" in found.notices[-1]
    (tmp_path / "training" / "result.json").write_text("{}")
    assert not any("not finished" in notice for notice in look(tmp_path / "training").notices)


def test_without_a_segmenter_or_data_it_says_what_is_missing_and_shows_the_rest(
    tmp_path: Path, runs: Path, synthetic_set: Path
) -> None:
    moved = tmp_path / "moved"
    for file in (runs / "classifier" / "checkpoints").iterdir():
        target = moved / "checkpoints" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    dataclasses.replace(read_checkpoint(moved, "classifier"), segmenter=None).write(moved / "checkpoints" / "best.json")
    alone = open_bench(moved, prepared=synthetic_set, segmenter_run=None, device=CPU)
    assert [arm.title for arm in alone.arms] == ["No mask", "Oracle mask"]
    assert "has no segmenter" in alone.notices[0]
    joined = open_bench(moved, prepared=synthetic_set, segmenter_run=runs / "segmenter", device=CPU)
    assert [arm.title for arm in joined.arms] == ["No mask", "Oracle mask", "Learned mask"]
    photos = open_bench(runs / "classifier", prepared=None, segmenter_run=None, device=CPU)
    assert [arm.title for arm in photos.arms] == ["No mask", "Learned mask"]
    assert "say prepared=" in photos.notices[-1]
    with pytest.raises(CheckpointError):
        open_bench(tmp_path, prepared=synthetic_set, segmenter_run=None, device=CPU)


def test_a_scene_shows_every_system_with_text_for_those_who_do_not_see_it(trial: Trial) -> None:
    html = scene(trial)
    assert html.count("<article") == 3
    assert all(f"<h3>{title}</h3>" in html for title in ("No mask", "Oracle mask", "Learned mask"))
    assert len(re.findall(r'<img src="data:image/png;base64,[^"]+" alt="[^"]+">', html)) == html.count("<img") == 2 + 4 + 4
    assert html.count('role="img" aria-label="') == 1 + 2 + 2
    assert spoken(trial).startswith("The attack is over. No mask: ")
    assert "Step 1 of 2" in scene(trial, 2)
    assert "Clean image" in scene(trial, 0)
    assert "Result" in scene(trial, 99)


def test_of_few_pixels_it_is_said_that_the_search_begins_in_larger_balls(bench: Bench) -> None:
    begun, subjects = prepare(bench, bench.arms[:1], bench.test_image(3), Settings(norm="l1", epsilon=6.0, steps=10))
    assert len(list(run(begun, subjects))) == 1 + 4 + 1
    said = [re.search(r'lab-moment"><b>([^<]*)', scene(begun, at))[1] for at in (1, 2, 5)]
    assert said == ["Start, after 6 steps in larger balls", "Step 7 of 10", "Step 10 of 10"]
    first, *_, last = (frame.image for frame in begun.views[0].frames)
    magnified = float(re.search("change \N{MULTIPLICATION SIGN}([0-9.]+)<", scene(begun))[1])
    assert magnified == pytest.approx(0.5 / float((last - first).abs().max()), abs=0.05)


def test_a_second_start_is_no_step(bench: Bench) -> None:
    """Of two phases: as many steps are counted as the settings beside them say."""
    learned = next(arm for arm in bench.arms if arm.source.is_learned)
    begun, subjects = prepare(bench, [learned], bench.test_image(3), Settings(attack="guided-collapse", steps=3))
    assert len(list(run(begun, subjects))) == 6
    said = [re.search(r'lab-moment"><b>([^<]*)', scene(begun, at))[1] for at in range(1, 6)]
    assert said == ["Random start", "Step 1 of 3", "Step 2 of 3", "Start of the second phase", "Step 3 of 3"]
    assert "3 steps" in scene(begun)


def test_the_pictures_of_a_scene_are_those_of_the_attack(trial: Trial) -> None:
    uris = re.findall(r"data:image/png;base64,([^\"]+)", scene(trial))
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]
    none, oracle, learned = trial.views
    for image, view in ((shown[0], none), (shown[2], oracle), (shown[6], learned)):
        assert np.array_equal(image, (view.frames[-1].image * 255).round().byte().permute(1, 2, 0).numpy())
    change = (learned.frames[-1].image - learned.frames[0].image).permute(1, 2, 0).numpy()
    assert np.abs(shown[7] / 255 - (0.5 + change * 0.5 / 0.05)).max() < 1 / 255
    assert np.array_equal(shown[9], (learned.frames[-1].mask * 255).round().byte().numpy())


def test_what_is_shared_opens_alone_and_its_program_makes_the_same_image(trial: Trial, bench: Bench, tmp_path: Path) -> None:
    page, moving = write_snapshot(trial, tmp_path)
    text = page.read_text()
    assert "default-src 'none'" in text
    assert re.findall(r"(?:src|href)=\"(?!data:)[^\"]*", text) == []
    assert "<script" not in text
    assert str(bench.run) not in text  # a path of this machine
    with Image.open(moving) as animated:
        assert animated.n_frames == trial.num_frames
    learned = trial.views[2]
    names = {"system": bench.system(learned.arm), "images": trial.sample.image, "masks": trial.sample.mask}
    names |= {"labels": torch.tensor([trial.sample.label]), "attack": pipeline.attack, "ThreatModel": pipeline.ThreatModel}
    exec(program(trial), {**vars(specs), **names}, names)
    assert torch.equal(names["adversarial"], learned.frames[-1].image[None])
    assert describe(trial.settings) in text


def test_an_animation_keeps_within_its_lines_whatever_the_names(trial: Trial, bench: Bench) -> None:
    classes = tuple("a very long name of a class " * 9 for _ in bench.classes)
    named = Trial(
        bench=dataclasses.replace(bench, classes=classes), sample=trial.sample, settings=trial.settings, views=trial.views
    )
    with Image.open(io.BytesIO(animation(named))) as animated, Image.open(io.BytesIO(animation(trial))) as plain:
        assert animated.size == plain.size


def test_an_ablation_shows_one_system_of_each_kind_and_says_when_it_is_not_finished(
    tmp_path: Path, runs: Path, synthetic_set: Path, sealed_ablation: Callable[..., Path]
) -> None:
    path = sealed_ablation(tmp_path / "ablation", runs, finished=False)
    found = open_bench(path, prepared=synthetic_set, segmenter_run=None, device=CPU)
    assert found.shown == tuple(f"adversarial {mask}" for mask in ("none", "oracle", "learned"))
    assert "adversarial random" not in {arm.name for arm in found.arms}
    assert "This ablation is not finished: 4 of its systems are" in found.notices[0]
    assert found.arm("adversarial learned").detail == "adversarial classifier, natural segmenter"
    with pytest.raises(ConfigError, match="segmenter_run"):
        open_bench(path, prepared=synthetic_set, segmenter_run=runs / "segmenter", device=CPU)
