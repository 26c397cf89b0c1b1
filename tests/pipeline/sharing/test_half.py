"""Weights in half precision: the same answers from files of half the size, or none."""

import dataclasses
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from pipeline import load_system, predict
from pipeline.cli.main import main
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import read_rows
from pipeline.evaluation.records import read_records
from pipeline.runs import zoo
from pipeline.runs.checkpoints import read_checkpoint, save_checkpoint
from pipeline.sharing.zoo import enter

pytestmark = pytest.mark.slow
ATTACK = ["attack=quickstart", "attack.threat.epsilons=[8/255]", "gallery_images=0", "max_images=8", "accelerator=cpu"]


def weights(directory: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors of a stage, and the size of their file."""
    (path,) = directory.glob("checkpoints/best-*.safetensors")
    return load_file(path), path.stat().st_size


def images_right(run: Path, epsilon: float) -> set[str]:
    """Right without attack, and under every attack up to that epsilon."""
    lost = (pl.col("epsilon") <= epsilon) & (pl.col("adversarial_prediction") != pl.col("label"))
    wrong = ((pl.col("clean_prediction") != pl.col("label")) | lost).any()
    verdicts = read_records(run).group_by("sample_id").agg(right=~wrong)
    return set(verdicts.filter("right")["sample_id"])


@pytest.fixture(scope="module")
def halved(runs: Path, synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two stages of the runs in half precision. To be read only."""
    out = tmp_path_factory.mktemp("halved") / "system"
    assert main(["export", f"run={runs / 'classifier'}", f"out={out}", f"prepared={synthetic_set}", "files=[]", "half=true"]) == 0
    return out


@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_the_files_have_half_the_size_and_hold_the_weights_of_the_runs_rounded_once(halved: Path, runs: Path, stage: str) -> None:
    (whole, size), (half, half_size) = weights(runs / stage), weights(halved / stage)
    assert half.keys() == whole.keys()
    for name, value in whole.items():
        rounded = value.half() if value.is_floating_point() else value
        assert half[name].dtype == rounded.dtype
        assert torch.equal(half[name], rounded), name
    assert 0.5 <= half_size / size < 0.6  # names and shapes stand in both
    assert read_checkpoint(halved, stage).precision == "float16"


def test_it_computes_in_single_precision_and_predicts_what_the_runs_predict(halved: Path, runs: Path, synthetic_set: Path) -> None:
    dataset = open_prepared(synthetic_set)
    images = read_rows(dataset, dataset.indices("test")).images
    whole, half = load_system(runs / "classifier"), load_system(halved)
    assert {value.dtype for value in half.parameters()} == {torch.float32}
    expected, found = predict(whole, images), predict(half, images)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.confidences, expected.confidences, atol=0.01, rtol=0)
    torch.testing.assert_close(found.masks, expected.masks, atol=0.01, rtol=0)


def test_a_system_whose_answers_live_on_what_is_rounded_off_is_not_kept(
    runs: Path, synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its classes differ by 1e-4 around 1, where half precision has steps of 1e-3."""
    checkpoint = read_checkpoint(runs / "classifier", "classifier")
    state, _ = weights(runs / "classifier")
    weight, bias = [name for name in state if state[name].shape[:1] == (len(checkpoint.classes),)][-2:]
    state |= {weight: torch.zeros_like(state[weight]), bias: torch.ones_like(state[bias])}
    state[bias][1] += 1e-4
    described = dataclasses.replace(checkpoint, config={"masks": {"source": "none"}}, segmenter=None)
    save_checkpoint(tmp_path / "run" / "checkpoints", "best", described, state)
    words = [f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", f"prepared={synthetic_set}", "files=[]"]
    assert main(["export", *words, "half=true"]) == 2
    assert "half: 32 of 32 test images get another prediction in half precision" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", *words]) == 0


def test_in_the_zoo_every_image_keeps_the_verdict_that_was_published(
    runs: Path, synthetic_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"prepared={synthetic_set}", f"classifier_run={runs / 'classifier'}", f"run={tmp_path / 'published'}", *ATTACK]
    assert main(["evaluate", *words]) == 0
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "zoo"))
    monkeypatch.setattr(zoo, "INDEX", tmp_path / "zoo.json")
    zoo.ZooIndex(systems={}).write(zoo.INDEX)
    entry = enter(tmp_path / "published", "small", prepared=synthetic_set, half=True, scratch=tmp_path / "again")
    assert [figure.images for figure in entry.figures] == [8, 8]
    for figure in entry.figures:
        right = images_right(tmp_path / "published", figure.epsilon)
        assert images_right(tmp_path / "again", figure.epsilon) == right
        assert len(right) == figure.right
    assert read_checkpoint(zoo.find("zoo:small")[0], "classifier").precision == "float16"
    assert load_system("zoo:small").mask_config == load_system(tmp_path / "published").mask_config
