"""``foreguard ablate`` as a user meets it: planned, killed, interrupted, continued."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.cli import main
from pipeline.evaluation.outcomes import read_records

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
TINY = [
    "data.num_train=64",
    "data.num_val=24",
    "data.num_test=24",
    "data.num_classes=4",
    "workers=0",
    "masks=[{train: none, test: none}, {train: oracle, test: oracle}, {train: oracle, test: learned}]",
    "classifier_objectives=[adversarial]",
    "classifier_trainer.epochs=2",
    "segmenter_trainer.epochs=2",
    "evaluation.max_images=12",
    "evaluation.part_size=6",
    "evaluation.sanity=null",
    "degradation={kinds: [eroded], pixels: [1]}",
]


def words(directory: Path, *more: str) -> list[str]:
    return ["ablate", f"run={directory / 'run'}", f"prepared={directory / 'prepared'}", *TINY, *more]


def start(directory: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", *words(directory)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes)


def stop_somewhere(process: subprocess.Popen[str], luck: random.Random, how: signal.Signals) -> bool:
    """Stop an ablation in one of its next pieces, before or after something was finished; True if it came to its end."""
    said, begun = [], 0
    with process:
        for line in process.stdout:
            said.append(line)
            begun += line.startswith("[")
            if begun == 1 + luck.randrange(3):
                time.sleep(luck.uniform(0, 3))
                process.send_signal(how)
                break
        said += process.stdout.readlines()
    if process.returncode == 0:
        return True
    if how is signal.SIGINT:
        assert process.returncode == 130, "".join(said)
        assert said[-1].startswith("foreguard: interrupted")
        assert "Traceback" not in "".join(said)
    return False


def test_a_dry_run_says_everything_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "dry_run=true")) == 0
    shown = capsys.readouterr().out
    assert "quickstart: 4 systems of 3 trained stages, 1 seed" in shown
    for title in (
        "prepare",
        "segmenter, natural, seed 0",
        "masks oracle to learned natural segmenter",
        "eroded 1 px",
        "silhouettes",
    ):
        assert title in shown
    assert "time unknown, nothing of the kind was measured here yet" in shown
    assert list(tmp_path.iterdir()) == []


def test_data_prepared_otherwise_are_refused_by_the_key_that_differs(
    tmp_path: Path, synthetic_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["ablate", f"run={tmp_path / 'run'}", f"prepared={synthetic_set}", "dry_run=true"]
    same = ["data.num_train=96", "data.num_val=32", "data.num_test=32", "data.num_classes=10"]
    assert main([*given, *same]) == 0
    capsys.readouterr()
    assert main([*given, *same, "data.light=0.1"]) == 2
    assert "was made with data.light=0.3, not 0.1" in capsys.readouterr().err


def outcomes(directory: Path) -> pl.DataFrame:
    """All records of an ablation, arm by arm, but for what a clock decides."""
    about = json.loads((directory / "run" / "ablation.json").read_text())
    tables = [read_records(directory / "run" / arm["evaluation"]).with_columns(arm=pl.lit(arm["name"])) for arm in about["arms"]]
    return pl.concat(tables).drop("seconds").sort("arm", "epsilon", "attack", "sample_id")


@pytest.mark.slow
def test_an_ablation_killed_again_and_again_ends_as_if_it_had_never_been(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start(whole)
    shown = reference.communicate()[0]
    assert reference.returncode == 0, shown
    assert "report: " in shown
    luck = random.Random(5)
    kills = 0
    while (process := start(killed)) and not stop_somewhere(process, luck, signal.SIGKILL if kills % 2 else signal.SIGINT):
        kills += 1
        assert kills < 60
    assert kills > 2
    assert_frame_equal(outcomes(whole), outcomes(killed))
    rows = [pl.read_parquet(path / "run" / "decomposition.parquet") for path in (whole, killed)]
    assert_frame_equal(*rows)
    abouts = [json.loads((path / "run" / "ablation.json").read_text()) for path in (whole, killed)]
    for about in abouts:
        assert about["finished"]
        assert about["format"] == 1
        assert {arm["role"] for arm in about["arms"]} == {"main", "degradation"}
        assert len({arm["name"] for arm in about["arms"]}) == len(about["arms"]) == 4
    assert abouts[0]["silhouette"] == abouts[1]["silhouette"]
    assert abouts[0]["silhouette"][0]["n"] == 24
    # Once more: nothing is left to do, and nothing is made again.
    before = {path: path.stat().st_mtime_ns for path in (killed / "run" / "store").rglob("*") if path.is_file()}
    again = start(killed)
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert "to do: 0 of 11 pieces; nothing is left to do" in said
    assert {path: path.stat().st_mtime_ns for path in (killed / "run" / "store").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_is_continued_as_what_it_was_begun_as_and_a_shared_store_trains_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"store={tmp_path / 'store'}"
    assert main(words(tmp_path, store)) == 0
    capsys.readouterr()
    assert main(words(tmp_path, store, "classifier_trainer.epochs=3")) == 2
    assert "was begun with classifier_trainer.epochs=2, not 3" in capsys.readouterr().err
    assert main(words(tmp_path, store, "resume=false")) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (
        main([*words(tmp_path, store), f"run={tmp_path / 'other'}", "classifier_objectives=[natural,adversarial]", "dry_run=true"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "train    reused     segmenter, natural, seed 0" in shown
    assert "train    reused     classifier, adversarial, masks oracle, seed 0" in shown
    assert "train    new        classifier, natural, masks oracle, seed 0" in shown
