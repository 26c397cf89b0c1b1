"""``foreguard list``: every run below a directory in a line, finished or not, damaged ones too."""

from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.runs.directory import open_run
from pipeline.training.result import TrainingResult


def begin(path: Path, command: str) -> Path:
    with open_run(path, command=command, config={}, inputs={}, resume=False):
        return path


@pytest.fixture
def runs(tmp_path: Path, simulated) -> Path:
    """An evaluation, a training that is done and one that is not, a run inside of a run, a damaged one."""
    simulated.write_ablation(tmp_path / "simulated", num_images=20, seeds=(0,), arms=simulated.ARMS[:1], with_gallery=False)
    done = begin(tmp_path / "deep" / "er" / "trained", "train-classifier")
    scores = {"accuracy": 0.75, "loss": 1.0}
    TrainingResult(
        checkpoint="c",
        epoch=1,
        selected_by="loss",
        selected_value=1.0,
        val=scores,
        ended_by="epochs",
        epochs=1,
        steps=1,
        seconds=12.0,
    ).write(done / "result.json")
    begin(tmp_path / "begun", "train-segmenter")
    begin(done / "store" / "inside", "evaluate")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    assert main(["list", *words]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "begun (UTC)"
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_every_run_has_a_line_and_what_it_found(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {Path(line[3]).name: line for line in listed(capsys, f"path={runs}")}
    assert set(found) == {"evaluation-00-seed0", "trained", "begun", "broken"}
    assert found["trained"][1:3] == ["train-classifier", "finished"]
    assert found["trained"][4] == "val accuracy 0.750, 12 s"
    assert found["begun"][1:3] == ["train-segmenter", "unfinished"]
    assert found["evaluation-00-seed0"][:3] == ["2025-01-01 00:00", "evaluate", "finished"]
    assert found["evaluation-00-seed0"][4].startswith("clean ")
    assert found["broken"][2] == "damaged"
    assert "run.json: damaged (no JSON" in found["broken"][4]


def test_runs_inside_of_runs_are_listed_where_they_are_asked_for(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [Path(line[3]).name for line in listed(capsys, f"path={runs}", "inner=true")]
    assert "inside" in names
    assert "trained" in names


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no such directory"), ("", "holds no run"), ("file", "no directory;")])
def test_where_there_is_no_run_it_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    (tmp_path / "file").touch()
    assert main(["list", f"path={tmp_path / name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert main(["list", str(tmp_path / name)]) == 2  # the key of the first word may be left out
    assert capsys.readouterr().err.splitlines() == [line]
