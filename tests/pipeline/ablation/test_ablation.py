"""``foreguard ablate`` as a user meets it: planned, killed, interrupted, continued, over a store that is shared."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from runpy import run_path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.cli.main import main
from pipeline.evaluation.records import read_records
from pipeline.runs.directory import fingerprint_of, open_run
from pipeline.runs.locking import locked

TINY = [
    *run_path(str(Path(__file__).parents[1] / "tiny.py"))["WORDS"],
    "masks=[{train: none, test: none}, {train: oracle, test: oracle}, {train: oracle, test: learned}]",
    "classifier_objectives=[adversarial]",
    "adversarial.validation.max_images=12",
    "segmenter_trainer.epochs=2",
    "classifier_trainer.epochs=2",
    "attack.threat.epsilons=[4/255,8/255]",
    "primary_epsilon=null",
    "attack.attacks.pgd.num_steps=2",
    "attack.attacks.apgd-targeted.num_steps=2",
    "attack.attacks.joint-collapse.num_steps=2",
    "evaluation.part_size=6",
    "evaluation.sanity=null",
    "degradation={kinds: [eroded], pixels: [1]}",
    "decomposition.num_steps=3",
]
JOBS = 12
"""Three stages, four arms, three attacks along both paths or one, their decomposition, silhouettes."""


def words(directory: Path, *more: str) -> list[str]:
    return ["ablate", f"run={directory / 'run'}", f"prepared={directory / 'prepared'}", *TINY, *more]


class Foreguard:
    """Commands, each in a process of its own (see ``warm.py``)."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def run(self, command: list[str], on_line: Callable[[int, str], None] = lambda _pid, _line: None) -> tuple[int, str]:
        """Exit code, and all that was printed. ``on_line`` is told the process and each line."""
        said = ""
        reading, writing = os.pipe()
        process = self._server.start(command, output=writing)
        os.close(writing)
        with open(reading) as lines:
            for line in lines:
                said += line
                on_line(process.pid, line)
        process.communicate()
        return process.returncode, said

    def stop_somewhere(self, command: list[str], luck: random.Random, how: signal.Signals) -> tuple[int, str]:
        """Run a command and stop it in one of its next jobs, begun or just finished."""
        lines_left = 1 + luck.randrange(3)

        def stop(pid: int, line: str) -> None:
            nonlocal lines_left
            lines_left -= line.startswith("[")
            if lines_left == 0:
                lines_left = -1
                time.sleep(luck.uniform(0, 0.5))
                os.kill(pid, how)  # a process that has ended waits until its code is asked for

        return self.run(command, stop)


@pytest.fixture(scope="module")
def foreguard(warm: Any) -> Foreguard:
    return Foreguard(warm)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, foreguard: Foreguard) -> Path:
    """An ablation that nobody disturbed, to be read only."""
    directory = tmp_path_factory.mktemp("whole")
    code, said = foreguard.run(words(directory))
    assert code == 0, said
    assert f"to do: {JOBS} of {JOBS} jobs" in said
    assert said.endswith(f"report: {directory / 'run' / 'report' / 'index.html'}\n")
    return directory


def read_manifest(directory: Path) -> dict[str, object]:
    return json.loads((directory / "run" / "ablation.json").read_text())


def outcomes(directory: Path) -> pl.DataFrame:
    """All records of an ablation, arm by arm, but for what a clock decides."""
    arms = read_manifest(directory)["arms"]
    tables = [read_records(directory / "run" / arm["evaluation"]).with_columns(arm=pl.lit(arm["name"])) for arm in arms]
    return pl.concat(tables).drop("seconds").sort("arm", "epsilon", "attack", "sample_id")


def files(directory: Path) -> dict[Path, int]:
    """When each file was last written."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


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
    assert f"to do: {JOBS} of {JOBS} jobs; at most " in shown
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_continued_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    other = tmp_path / "other"
    with open_run(other, command="evaluate", config={}, inputs={}, resume=False):
        pass
    for run, line in ((file, "is a file; expected the directory of a run"), (other, "is a run of evaluate, not of ablate")):
        for dry in ("false", "true"):
            assert main([*words(tmp_path), f"run={run}", f"dry_run={dry}"]) == 2
            shown = capsys.readouterr()
            assert line in shown.err
            assert shown.out == ""
    assert not (tmp_path / "prepared").exists()


def test_data_prepared_otherwise_are_refused_by_the_key_that_differs(
    tmp_path: Path, synthetic_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["ablate", f"run={tmp_path / 'run'}", f"prepared={synthetic_set}", "dry_run=true"]
    same = ["data.num_train=96", "data.num_val=32", "data.num_test=32", "data.num_classes=10"]
    assert main([*given, *same]) == 0
    capsys.readouterr()
    assert main([*given, *same, "data.light=0.1"]) == 2
    assert "was made with data.light=0.3, not 0.1" in capsys.readouterr().err


@pytest.mark.slow
def test_an_ablation_stopped_again_and_again_ends_as_if_it_had_never_been(
    tmp_path: Path, foreguard: Foreguard, whole: Path
) -> None:
    luck, stops = random.Random(5), 0
    for stops in range(60):
        how = (signal.SIGINT, signal.SIGKILL)[stops % 2]
        code, said = foreguard.stop_somewhere(words(tmp_path), luck, how)
        if code == 0:
            break
        assert code == (130 if how is signal.SIGINT else -signal.SIGKILL), said
        if how is signal.SIGINT:
            assert said.splitlines()[-1].startswith("foreguard: interrupted")
            assert "Traceback" not in said
    assert code == 0, said
    assert stops > 4
    assert_frame_equal(outcomes(whole), outcomes(tmp_path), check_exact=True)
    rows = [pl.read_parquet(path / "run" / "decomposition.parquet") for path in (whole, tmp_path)]
    assert_frame_equal(*rows, check_exact=True)
    untouched, stopped = read_manifest(whole), read_manifest(tmp_path)
    for about in (untouched, stopped):
        assert about["finished"]
        assert {arm["role"] for arm in about["arms"]} == {"main", "degradation"}
        assert len({arm["name"] for arm in about["arms"]}) == 4
    for key in ("arms", "silhouette"):
        assert untouched[key] == stopped[key]
    assert stopped["silhouette"][0]["n"] == 12


@pytest.mark.slow
def test_a_cross_validation_stopped_again_and_again_ends_as_if_it_had_never_been(tmp_path: Path, foreguard: Foreguard) -> None:
    few = ["folds=2", "masks=[{train: none, test: none}]", "degradation=null", "decomposition=null", "silhouette=false"]
    directories = [tmp_path / name for name in ("whole", "stopped")]
    code, said = foreguard.run(words(directories[0], *few))
    assert code == 0, said
    luck, stops = random.Random(3), 0
    for stops in range(40):
        how = (signal.SIGINT, signal.SIGKILL)[stops % 2]
        code, said = foreguard.stop_somewhere(words(directories[1], *few), luck, how)
        if code == 0:
            break
    assert code == 0, said
    assert stops > 2
    assert_frame_equal(*(outcomes(directory) for directory in directories), check_exact=True)


@pytest.mark.slow
def test_what_is_finished_is_never_made_again_neither_here_nor_by_another_ablation_of_the_same_store(
    tmp_path: Path, foreguard: Foreguard, whole: Path
) -> None:
    store = whole / "run" / "store"
    before = files(store)
    code, said = foreguard.run(words(whole))
    assert code == 0, said
    assert f"to do: 0 of {JOBS} jobs; nothing is left to do" in said
    assert not any(line.startswith("[") for line in said.splitlines())
    shared = [*words(whole), f"store={store}", f"run={tmp_path / 'run'}"]
    code, said = foreguard.run([*shared, "classifier_objectives=[natural,adversarial]", "dry_run=true"])
    assert code == 0, said
    assert "train    reused     segmenter, natural, seed 0" in said
    assert "train    reused     classifier, adversarial, masks oracle, seed 0" in said
    assert "train    new        classifier, natural, masks oracle, seed 0" in said
    code, said = foreguard.run(shared)
    assert code == 0, said
    assert files(store) == before
    assert_frame_equal(outcomes(whole), outcomes(tmp_path), check_exact=True)


@pytest.mark.slow
def test_what_another_process_is_at_is_waited_for_and_not_made_again(tmp_path: Path, foreguard: Foreguard, whole: Path) -> None:
    """The other process is this one: it prepares the data and attacks an arm, by bringing back what it took away before."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    arm = next(arm for arm in read_manifest(whole)["arms"] if arm["test_masks"] == "learned")
    attacked = (tmp_path / "run" / arm["evaluation"]).resolve()
    before = files(tmp_path / "run" / "store")
    moved = {tmp_path / "prepared": tmp_path / "away", attacked / "summary.json": tmp_path / "summary.json"}
    for path, away in moved.items():
        path.rename(away)
    waited = []
    with ExitStack() as preparing, ExitStack() as attacking:
        preparing.enter_context(locked(tmp_path / ".prepared.lock", busy="-"))
        attacking.enter_context(locked(attacked / ".lock", busy="-"))

        def finish(_pid: int, line: str) -> None:
            for what, path, lock in (
                ("to prepare", tmp_path / "prepared", preparing),
                ("to attack", attacked / "summary.json", attacking),
            ):
                if line.startswith(f"waiting for another process {what}"):
                    waited.append(what)
                    moved[path].rename(path)
                    lock.close()

        code, said = foreguard.run(words(tmp_path), finish)
    assert code == 0, said
    assert waited == ["to prepare", "to attack"]
    assert files(tmp_path / "run" / "store") == before
    assert_frame_equal(outcomes(whole), outcomes(tmp_path), check_exact=True)


@pytest.mark.slow
def test_jobs_of_a_sweep_run_beside_each_other_and_their_work_is_put_together_afterwards(
    tmp_path: Path, foreguard: Foreguard
) -> None:
    """Three jobs in two processes of joblib that begin with nothing and share everything; the last one is a mistake."""
    store = tmp_path / "store"
    both = [*words(tmp_path), f"store={store}", "masks=[{train: oracle, test: oracle}]", "degradation=null", "decomposition=null"]
    sweep = [*both, "--multirun", "seeds=[0],[1],[1,1]", f"run={tmp_path}/run-${{seeds}}"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", *sweep, *launcher]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "foreguard: seeds: names the same thing twice"
    assert "Traceback" not in done.stderr
    for seed in (0, 1):
        assert (tmp_path / f"run-[{seed}]" / "report" / "index.html").is_file()
    assert {json.loads(line)["fingerprint"] for line in (store / "timings.jsonl").read_text().splitlines()} == {
        fingerprint_of(path.parent) for path in store.glob("*/*/run.json")
    }
    before = files(store)
    code, said = foreguard.run([*both, "seeds=[0,1]"])
    assert code == 0, said
    assert "to do: 0 of 6 jobs; nothing is left to do" in said
    assert files(store) == before
    assert {arm["seed"] for arm in read_manifest(tmp_path)["arms"]} == {0, 1}


@pytest.mark.slow
def test_an_ablation_is_continued_only_as_what_it_was_begun_as(foreguard: Foreguard, whole: Path) -> None:
    code, said = foreguard.run(words(whole, "classifier_trainer.epochs=3"))
    assert code == 2
    assert "was begun with classifier_trainer.epochs=2, not 3" in said
    code, said = foreguard.run(words(whole, "resume=false"))
    assert code == 2
    assert "holds a run already" in said
