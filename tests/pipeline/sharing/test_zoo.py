"""Systems behind published figures: pinned, small, and scored again."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline import load_system
from pipeline.cli.main import main
from pipeline.data.dataset import read_manifest
from pipeline.masks.context import MaskContext
from pipeline.runs import zoo
from pipeline.runs.checkpoints import read_checkpoint
from pipeline.sharing.zoo import check_sizes

NAMES = list(zoo.read_index())


@pytest.mark.parametrize("name", NAMES)
def test_every_system_of_the_index_lies_in_the_repository_whole_and_as_it_was_pinned(name: str) -> None:
    path, entry = zoo.find(f"zoo:{name}")
    system = load_system(f"zoo:{name}")
    assert read_checkpoint(path, "classifier").data_fingerprint == entry.data_fingerprint
    context = MaskContext(oracle_masks=torch.ones(2, 1, 32, 32))
    assert system(torch.rand(2, 3, 32, 32), context).isfinite().all()
    rights = [one.right for one in entry.figures]
    assert rights == sorted(rights, reverse=True)
    assert [one.epsilon for one in entry.figures] == [0.0, *entry.attack["threat"]["epsilons"]]


def test_each_is_small_and_all_together_are() -> None:
    assert NAMES
    check_sizes(zoo.zoo_directory(), NAMES)
    assert {path.name for path in zoo.zoo_directory().iterdir() if path.is_dir()} == set(NAMES)


def test_the_list_says_what_there_is_and_whether_it_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["list", "zoo"]) == 0
    shown = capsys.readouterr().out
    assert all(f"zoo:{name}" in shown for name in NAMES)
    assert main(["list", "zoo", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["zoo"]) == set(NAMES)
    monkeypatch.setenv("FOREGUARD_ZOO", str(tmp_path))
    assert main(["list", "zoo"]) == 0
    assert " yes " not in capsys.readouterr().out


def test_what_is_not_there_or_is_another_one_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["export", f"out={tmp_path / 'out'}", "files=[]"]
    assert main([*words, "run=zoo:no-such"]) == 2
    assert f"zoo:no-such: is not in the zoo; it has {', '.join(NAMES)}" in capsys.readouterr().err
    monkeypatch.setenv("FOREGUARD_ZOO", str(tmp_path / "zoo"))
    assert main([*words, f"run=zoo:{NAMES[0]}"]) == 2
    assert "come with the repository" in capsys.readouterr().err
    monkeypatch.delenv("FOREGUARD_ZOO")
    shutil.copytree(zoo.zoo_directory() / NAMES[0], tmp_path / "zoo" / NAMES[0])
    monkeypatch.setenv("FOREGUARD_ZOO", str(tmp_path / "zoo"))
    described = tmp_path / "zoo" / NAMES[0] / "system.json"
    described.write_text(described.read_text() + " ")
    assert main([*words, f"run=zoo:{NAMES[0]}"]) == 2
    assert "is not the one that was published" in capsys.readouterr().err


@pytest.mark.slow
def test_a_published_figure_comes_out_again_on_data_that_are_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quickstart's data are a function of their recipe. Another processor rounds otherwise, which may turn one image."""
    entry = zoo.read_index()["quickstart-learned"]
    recipe = [f"data.{key}={value}" for key, value in entry.recipe.items() if key not in ("version", "source")]
    assert main(["prepare", f"data={entry.data}", *recipe, f"prepared={tmp_path / 'set'}", "workers=0"]) == 0
    assert read_manifest(tmp_path / "set")["fingerprint"] == entry.data_fingerprint
    words = ["system=zoo:quickstart-learned", f"prepared={tmp_path / 'set'}", "attack=quickstart", f"max_images={entry.max_images}"]
    epsilons = ",".join(map(str, entry.attack["threat"]["epsilons"]))
    words += [f"attack.threat.epsilons=[{epsilons}]", f"run={tmp_path / 'run'}", "gallery_images=0", "accelerator=cpu"]
    assert main(["evaluate", *words, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("published, ") == len(entry.figures)
    summary = json.loads(captured.out.splitlines()[-1])["summary"]
    found = [summary["clean_accuracy"], *(point["robust_accuracy"] for point in summary["curve"])]
    assert [round(one["value"] * one["n"]) for one in found] == pytest.approx([one.right for one in entry.figures], abs=1)
