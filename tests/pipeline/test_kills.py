"""Commands that real signals stop at random moments: continued, they end as if there had been none, and leave no process behind."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import pytest

from pipeline.data.dataset import FILES, read_manifest
from pipeline.evaluation.records import read_records

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
"""Each of them stops each of the five commands: 20 moments."""
TRAINER = ["epochs=12", "batch_size=16", "ema_decay=0.9", "trackers=[]", "accelerator=cpu", "num_workers=1"]
NARROW = {"train-segmenter": ["segmenter.decoder_channels=[16,8,8]"], "train-classifier": ["classifier.width=4"]}
TINY = [
    *run_path(str(Path(__file__).with_name("tiny.py")))["WORDS"],
    "masks=[{train: none, test: none}, {train: learned, test: learned}]",
    "classifier_objectives=[natural]",
    "segmenter_trainer.epochs=2",
    "classifier_trainer.epochs=2",
    "attack.attacks.pgd.num_steps=2",
    "attack.attacks.apgd-targeted.num_steps=2",
    "evaluation.part_size=6",
    "evaluation.sanity=null",
    "degradation=null",
    "decomposition=null",
]

Start = Callable[[list[str]], Any]
"""Begins a command (``warm.py``)."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@pytest.fixture(scope="module")
def start(warm: Any) -> Start:
    """Starts a command as the first of its process group, to which a terminal or SLURM sends its signals."""
    return partial(warm.start, cwd=ROOT)


def processes_of_group(group: int) -> list[str]:
    """Those that still run, by what they were started as."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (path / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


class Spent(NamedTuple):
    """Seconds of an undisturbed call, on this machine as busy as it is."""

    until_begun: float
    at_work: float

    def moment(self, luck: random.Random) -> float:
        """Seconds since the work has begun, in the first part of it, so that something is left for the next call; below 0: since
        the process has started."""
        return luck.uniform(-0.2 * self.until_begun, 0.4 * self.at_work)


def wait_for(begun: Path, process: Any) -> None:
    """Until a path is there, or the process has ended."""
    while not begun.exists() and process.poll() is None:
        time.sleep(0.02)


def to_the_end(start: Start, words: list[str], begun: Path) -> Spent:
    """Run a command to its end. ``begun`` is the path that is there once its work has begun."""
    since, process = time.monotonic(), start(words)
    wait_for(begun, process)
    until_begun = time.monotonic() - since
    _, said = process.communicate()
    assert process.returncode == 0, said
    return Spent(until_begun, time.monotonic() - since - until_begun)


def stopped(start: Start, call: "Call", how: signal.Signals, moment: float, *, alone: bool) -> bool:
    """Run a command and stop its whole group, or the first process alone, at a moment (``Spent.moment``).

    False where it had come to its end before.
    """
    process = start(call.words)
    if moment > 0:
        wait_for(call.begun, process)
    try:
        _, said = process.communicate(timeout=abs(moment))
    except subprocess.TimeoutExpired:
        return ended(process, how, alone=alone)
    assert process.returncode == 0, said
    return False


def ended(process: Any, how: signal.Signals, *, alone: bool) -> bool:
    """Stop a process, or its whole group, and see that all of it ends, with one line; False where it had come to its end before."""
    (os.kill if alone else os.killpg)(process.pid, how)
    _, said = process.communicate()
    for _ in range(300):  # workers look for their parent every half second
        if not processes_of_group(process.pid):
            break
        time.sleep(0.1)
    assert processes_of_group(process.pid) == []
    assert process.returncode in (0, -how, 128 + how), said
    if process.returncode > 0:  # not a KILL, nor one that came before there was a handler
        assert said.splitlines()[-1].startswith("foreguard: interrupted by ")
        assert "Traceback" not in said
    return process.returncode != 0


def weights(run: Path) -> Any:
    return [json.loads((run / "checkpoints" / f"{name}.json").read_text())["sha256"] for name in ("best", "last")]


def records(run: Path) -> Any:
    order = ["sample_id", "attack", "epsilon"]
    return read_records(run).drop("seconds").sort(order).to_dicts()


def ablation(run: Path) -> Any:
    about = json.loads((run / "ablation.json").read_text())
    arms = {arm["name"]: records(run / arm["evaluation"]) for arm in about["arms"]}
    return arms, about["finished"], about["silhouette"]


def prepared(directory: Path) -> Any:
    manifest = read_manifest(directory)
    return [manifest[key] for key in ("fingerprint", "counts", "recipe")], [(directory / name).read_bytes() for name in FILES]


OUTCOMES: dict[str, Callable[[Path], Any]] = {
    "prepare": prepared,
    "train-segmenter": weights,
    "train-classifier": weights,
    "evaluate": records,
    "ablate": ablation,
}


@pytest.fixture(scope="module")
def stages(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """A trained classifier to attack."""
    run = tmp_path_factory.mktemp("stages") / "classifier"
    words = [f"prepared={synthetic_set}", f"run={run}", "trainer.epochs=1", "trainer.trackers=[]", *NARROW["train-classifier"]]
    to_the_end(start, ["train-classifier", *words], run)
    return run


class Call(NamedTuple):
    """What is said, what it makes, and the path that is there once its work has begun."""

    words: list[str]
    result: Path
    begun: Path


def call(command: str, data: Path, stages: Path, directory: Path) -> Call:
    """A call of a command that puts everything into a directory."""
    result = directory / "run"
    if command == "prepare":
        return Call(
            [command, "data=synthetic", "data.num_train=600", f"prepared={result}", "workers=2"], result, directory / ".run.partial"
        )
    if command == "ablate":
        own = [f"prepared={directory / 'prepared'}", f"store={directory / 'store'}", *TINY]
        return Call([command, f"run={result}", *own], result, directory / "prepared")
    given = [command, f"prepared={data}", f"run={result}", "resume=true"]
    own = [*(f"trainer.{word}" for word in TRAINER), *NARROW.get(command, [])]
    if command == "evaluate":
        own = [f"classifier_run={stages}", "accelerator=cpu", "part_size=4", "attack=fast", "gallery_images=0"]
    return Call([*given, *own], result, result / "run.json")


def assert_unharmed(
    start: Start, whole: Call, disturbed: Call, stops: list[tuple[signal.Signals, bool]], outcome: Callable[[Path], Any]
) -> None:
    """Run a call undisturbed, and another one stopped again and again before it may come to its end: they come to the same."""
    spent = to_the_end(start, whole.words, whole.begun)
    expected, luck = outcome(whole.result), random.Random(whole.words[0])
    for how, alone in stops:
        for missed in range(8):  # earlier after a miss: the machine may be less busy than it was in the undisturbed call
            if stopped(start, disturbed, how, spent.moment(luck) * 0.5**missed, alone=alone):
                break
            assert outcome(disturbed.result) == expected  # it had ended: once more from its beginning
            shutil.rmtree(disturbed.result.parent)
        else:
            pytest.fail(f"it always ended before {how.name}")
    to_the_end(start, disturbed.words, disturbed.begun)
    assert outcome(disturbed.result) == expected


@pytest.mark.parametrize("command", OUTCOMES)
def test_a_command_stopped_at_random_moments_ends_as_if_it_had_not_been(command, synthetic_set, stages, tmp_path, start) -> None:
    whole, disturbed = (call(command, synthetic_set, stages, tmp_path / name) for name in ("whole", "disturbed"))
    assert_unharmed(start, whole, disturbed, [(how, False) for how in SIGNALS], OUTCOMES[command])


def test_two_processes_end_together_and_go_on_where_they_were(synthetic_set, stages, tmp_path, start) -> None:
    """By a signal to both, as a terminal sends it, and to the first alone."""
    whole, disturbed = (call("train-classifier", synthetic_set, stages, tmp_path / name) for name in ("whole", "disturbed"))
    for one in (whole, disturbed):
        one.words.extend(["trainer.devices=2", "trainer.num_workers=0"])
    stops = [(signal.SIGTERM, False), (signal.SIGKILL, True), (signal.SIGINT, False), (signal.SIGHUP, True)]
    assert_unharmed(start, whole, disturbed, stops, weights)


@pytest.mark.parametrize(("how", "alone"), [(signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, False)])
def test_the_processes_of_a_sweep_end_with_it(tmp_path, how, alone, start) -> None:
    """joblib's own stay for minutes when the process that started them is killed."""
    jobs = [f"prepared={tmp_path / 'prepared'}", f"store={tmp_path / 'store'}", "run=" + str(tmp_path / "run-${seeds[0]}"), *TINY]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = start(["ablate", "--multirun", "seeds=[0],[1]", *jobs, *launcher])
    wait_for(tmp_path / "prepared", process)
    assert len(processes_of_group(process.pid)) > 2
    assert ended(process, how, alone=alone)
