"""``foreguard evaluate shared=true``: real processes, one of which is killed, against one process that does it all."""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from pipeline.cli.composition import load_config
from pipeline.cli.main import main
from pipeline.data.builder import write_prepared
from pipeline.data.sample import Plan, Sample
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.devices import choose_device, part_takers
from pipeline.evaluation.evaluator import EvaluationRun, attack_images, missing_chunks, missing_records
from pipeline.evaluation.gallery import read_gallery
from pipeline.evaluation.measuring import read_observations
from pipeline.evaluation.records import RECORDS, RecordStore, read_records
from pipeline.runs.sharing import Together

TESTS = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": str(TESTS.parents[1])}
CPU = torch.device("cpu")
SUITE = (
    "~attack.attacks",
    "+attack.attacks={pgd: {kind: class, search: pgd, loss: margin, num_steps: 3},"
    " collapse: {kind: mask, goal: collapse, num_steps: 2}, square: {kind: square, num_queries: 30},"
    " autoattack: {kind: autoattack, attacks: [apgd-ce], num_queries: 5}}",
    "+attack.measurements={backgrounds: {kind: backgrounds}, nearest: {kind: minimum-norm, num_steps: 3, epsilons: [8/255]}}",
    "attack.threat.epsilons=[0, 2/255, 8/255]",
)
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
PARTS = 5


@pytest.fixture(scope="module")
def words(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The small system of ``small.py`` as somebody's own, on its images, which it gets right but for three."""
    dataset = small.dataset(small.system())
    samples = [
        Sample(
            sample_id=row["sample_id"],
            source_file="",
            group=row["group"],
            label=int(dataset.labels[number]),
            split="test",
            box=(0.0, 0.0, 1.0, 1.0),
            mask_recipe="",
            image=dataset.images[number],
            mask=dataset.masks[number],
        )
        for number, row in enumerate(dataset.samples.to_dicts())
    ]
    plan = Plan(classes=dataset.classes, recipe={}, files=(), items=samples, load=lambda sample: [sample])
    prepared = tmp_path_factory.mktemp("prepared") / "small"
    write_prepared(plan, prepared, name="folder", image_size=small.SIDE, root=None, workers=0)
    given = [f"prepared={prepared}", "system=small:system", "accelerator=cpu", "part_size=4", "batch_size=3"]
    return [*given, *SUITE, "sanity=true", "sanity_images=4", "gallery_images=2"]


@pytest.fixture(scope="module")
def by_one(words: list[str], start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("by_one") / "run"
    process = start(words, run)
    said = process.communicate()
    assert process.returncode == 0, said
    return run


@pytest.fixture(scope="module")
def start(warm: Any) -> Callable[..., Any]:
    """Starts an evaluation of these and more words into a run."""
    return lambda words, run, *more: warm.start(["evaluate", *words, f"run={run}", *more], cwd=TESTS)


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def taken(run: Path) -> set[int]:
    """Parts that somebody is at."""
    held = set()
    for path in (run / ".claims" / "attack").glob("*.lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.add(int(path.stem))
    return held


def parts(run: Path) -> set[int]:
    """The parts that are complete: four attacks at three epsilons."""
    names = [path.name.split("-")[0] for path in (run / RECORDS).glob("*.parquet")]
    return {int(name) for name in names if names.count(name) == 12}


def records_of(run: Path) -> pl.DataFrame:
    return read_records(run).sort("sample_id", "epsilon", "attack").drop("seconds")


def figures_of(path: Path) -> dict[str, Any]:
    """A file of results without times, and without the checksum that they are part of."""

    def untimed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in pairs if key not in ("seconds", "checksum")}

    figures: dict[str, Any] = json.loads(path.read_text(), object_pairs_hook=untimed)
    assert figures
    return figures


def assert_same(run: Path, expected: Path, *, shared: bool = True) -> None:
    """To the bit, but for the time that it took."""
    assert_frame_equal(records_of(run), records_of(expected), check_exact=True)
    observed, wanted = read_observations(run), read_observations(expected)
    assert observed is not None
    assert wanted is not None
    assert_frame_equal(observed.drop("seconds"), wanted.drop("seconds"), check_exact=True)
    for name in ("summary.json", "sanity.json", "measurements.json"):
        assert figures_of(run / name) == figures_of(expected / name)
    kept, shown = read_gallery(run), read_gallery(expected)
    assert kept is not None
    assert shown is not None
    assert len(kept) == len(shown) > 0
    assert all((kept.__dict__[name] == values).all() for name, values in shown.__dict__.items())
    more = [run / ".claims"] if shared else []
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in [*expected.iterdir(), *more])
    assert list((run / "images").iterdir()) == []


@pytest.mark.slow
def test_three_processes_of_which_one_is_killed_find_what_one_finds(
    words: list[str], by_one: Path, start: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = start(words, run, "shared=true")
    wait_for(lambda: any((run / RECORDS).glob("*.parquet")), first)
    first.send_signal(signal.SIGSTOP)  # in its first part, which nobody else may take as long as it lives
    others = [start(words, run, "shared=true") for _ in range(2)]
    wait_for(lambda: len(parts(run)) == PARTS - 1, others[0])
    time.sleep(1.0)
    assert [one.poll() for one in others] == [None, None]
    assert parts(run) == set(range(1, PARTS))
    assert not (run / "summary.json").exists()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    printed = [one.communicate() for one in others]
    assert [one.returncode for one in others] == [0, 0], printed
    assert sum("clean accuracy" in out for out, _ in printed) == 1  # one sums up
    assert sum("PASS" in out for out, _ in printed) == 1
    assert all(out.endswith(f"records, summary and how they were made: {run}\n") for out, _ in printed)
    for process, (_, err) in zip(others, printed, strict=True):
        assert err.startswith(f"process {process.pid} on ")
        assert f"takes parts of {run}\n" in err
    assert_same(run, by_one)


@pytest.mark.slow
def test_torchrun_starts_two_that_share_and_train_nothing(words: list[str], by_one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipeline"]
    command = [*torchrun, "evaluate", *words, f"run={run}", "shared=true"]
    ended = subprocess.run(command, cwd=TESTS, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("clean accuracy") == 1
    assert ended.stderr.count(f"takes parts of {run}\n") == 2
    assert_same(run, by_one)


@pytest.mark.slow
def test_srun_starts_two_that_share(words: list[str], by_one: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    run = tmp_path / "run"
    command = ["srun", "-n", "2", sys.executable, "-m", "pipeline", "evaluate", *words, f"run={run}", "shared=true"]
    ended = subprocess.run(command, cwd=TESTS, env=slurm | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("clean accuracy") == 1
    assert ended.stderr.count(f"takes parts of {run}\n") == 2
    assert_same(run, by_one)


@pytest.mark.slow
def test_a_job_that_slurm_requeues_and_preempts_goes_on_and_finds_what_one_finds(
    words: list[str], by_one: Path, tmp_path: Path, slurm: dict[str, str], tiny: ModuleType
) -> None:
    """A batch job, whose command shares nothing and does not say resume=true."""
    run, said = tmp_path / "run", tmp_path / "said"
    command = shlex.join([sys.executable, "-m", "pipeline", "evaluate", *words, f"run={run}"])
    submit = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={said}", f"--wrap={command}"]
    job = subprocess.run(submit, cwd=TESTS, env=slurm | ENVIRONMENT, check=True, text=True, **PIPES).stdout.strip()
    tiny.taken_away_twice(slurm, job, said, lambda: set((run / RECORDS).glob("*.parquet")))
    lines = said.read_text()
    assert lines.count("this job is run once more, so its run is continued") == 2, lines
    assert "DUE TO JOB REQUEUE" in lines
    assert "DUE TO PREEMPTION" in lines
    assert_same(run, by_one, shared=False)


@pytest.mark.slow
def test_several_devices_are_one_command_and_find_what_one_finds(
    words: list[str], by_one: Path, start: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(words, run, "devices=2")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("clean accuracy") == 1
    assert "process" not in err
    assert_same(run, by_one)
    while alive(process.pid):  # what Python starts beside its processes ends a moment later
        time.sleep(0.05)


def other_devices(command: int) -> list[int]:
    """The processes that a command has started to take parts."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "ppid=,pid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(pid) for parent, pid, arguments in rows if int(parent) == command and "spawn_main" in arguments]


@pytest.mark.slow
def test_what_a_killed_process_of_a_command_leaves_is_done_by_the_command(
    words: list[str], by_one: Path, start: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(words, run, "devices=2")
    wait_for(lambda: len(other_devices(process.pid)) == 1, process)
    (other,) = other_devices(process.pid)
    os.kill(other, signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("clean accuracy") == 1
    assert err.endswith("process 2 of 2 ended with exit code -9; the others did its parts\n")
    assert_same(run, by_one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "devices"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 2), (signal.SIGKILL, -9, 3)]
)
def test_several_devices_end_together_however_the_command_ends(
    words: list[str], start: Callable[..., Any], tmp_path: Path, number: signal.Signals, code: int, devices: int
) -> None:
    run = tmp_path / "run"
    process = start(words, run, "++attack.attacks.pgd.num_steps=20000", f"devices={devices}")
    wait_for(lambda: len(taken(run)) == devices, process)
    process.send_signal(number) if number == signal.SIGKILL else os.killpg(process.pid, number)
    process.communicate()
    while alive(process.pid):
        time.sleep(0.05)
    _, err = process.communicate()  # with all that any of them has said
    assert process.returncode == code, err
    if number != signal.SIGKILL:
        assert err.strip().count("\n") == 0, err
        assert "records to go, none lost; continue with resume=true" in err


@pytest.mark.slow
def test_those_who_come_late_or_with_another_configuration_change_nothing(
    words: list[str], by_one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TESTS)
    run = tmp_path / "run"
    shutil.copytree(by_one, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["evaluate", *words, f"run={run}", "shared=true"]) == 0
    assert "clean accuracy" not in capsys.readouterr().out
    assert main(["evaluate", *words, f"run={run}", "shared=true", "seed=1"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "was begun with seed=0, not 1" in line
    assert {path: path.read_bytes() for path in before} == before


def test_the_records_of_chunks_that_several_make_are_those_of_one(small: ModuleType, tmp_path: Path) -> None:
    only = {"pgd": small.ATTACKS["pgd"]}
    stores = [RecordStore(tmp_path / name) for name in ("one", "shared")]
    # Made here, one after the other: they draw from torch's one generator.
    evaluation, *same = [small.evaluation_run(chunk_size=7, epsilons=(0.01,), attacks=only) for _ in range(3)]
    attack_images(evaluation, stores[0], device=CPU, advance=lambda _: None)
    made: list[set[str]] = []

    def take_part(own: EvaluationRun) -> None:
        mine: list[int] = []
        turns = Together(tmp_path / "claims", tmp_path / "shared" / RECORDS, waiting=lambda: None)
        attack_images(own, stores[1], device=CPU, advance=mine.append, turns=turns)
        made.append(set(map(str, mine)))

    threads = [threading.Thread(target=take_part, args=(own,)) for own in same]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert missing_chunks(evaluation, stores[1]) == []
    assert missing_records(evaluation, stores[1]) == 0
    one, shared = records_of(tmp_path / "one"), records_of(tmp_path / "shared")
    assert_frame_equal(shared, one, check_exact=True)


@pytest.mark.parametrize(
    ("variables", "index"),
    [({}, 0), ({"LOCAL_RANK": "1", "RANK": "5", "WORLD_SIZE": "8"}, 1), ({"SLURM_LOCALID": "3", "SLURM_PROCID": "7"}, 1)],
)
def test_processes_that_share_take_the_gpu_of_their_number(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], index: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", shared=True, variables=variables) == torch.device("cuda", index)
    assert choose_device("auto", variables=variables) == torch.device("cuda")
    assert choose_device("cpu", shared=True, variables=variables) == CPU


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_processes_of_torchrun_or_srun_do_not_start_more_of_them_each(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    words = ["prepared=p", "run=r", "system=my_package:build", "attack=quickstart"]
    several, one = (load_config("evaluate", EvaluateConfig, [*words, f"devices={number}"]) for number in (2, 1))
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=rf"devices=2: {name}=1 says that torchrun or srun has started several"):
        part_takers(several, CPU, lambda _: None).__enter__()
    with part_takers(one, CPU, lambda _: None):  # as those are that the command itself has started
        pass
