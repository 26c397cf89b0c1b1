"""Commands that real signals stop at random moments: continued, they end as if there had been none, and leave no process behind."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.records import read_records

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
STOPS = 5
"""Of each of the four commands: 20 moments."""
TRAINER = ["epochs=12", "batch_size=16", "ema_decay=0.9", "trackers=[]", "accelerator=cpu", "num_workers=1"]
TINY = [
    "data.image_size=16",
    "data.num_train=24",
    "data.num_val=12",
    "data.num_test=12",
    "data.num_classes=3",
    "workers=0",
    "segmenter.decoder_channels=[8,8,8]",
    "classifier.width=4",
    "masks=[{train: none, test: none}, {train: learned, test: learned}]",
    "classifier_objectives=[natural]",
    "segmenter_trainer.epochs=2",
    "classifier_trainer.epochs=2",
    "attack.attacks.pgd.num_steps=2",
    "attack.attacks.apgd.num_steps=2",
    "evaluation.max_images=12",
    "evaluation.part_size=6",
    "evaluation.sanity=null",
    "degradation=null",
    "decomposition=null",
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


def start(words: list[str]) -> subprocess.Popen[str]:
    """A command as the first of its process group, to which a terminal or SLURM sends its signals."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


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


def stop_somewhere(words: list[str], begun: Path, how: signal.Signals, luck: random.Random) -> bool:
    """Run a command and stop its whole group at a random moment after its run has begun; False where it had ended before."""
    process = start(words)
    while not begun.exists() and process.poll() is None:
        time.sleep(0.02)
    try:
        process.wait(luck.uniform(0, 4))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, how)
    _, said = process.communicate()
    for _ in range(100):  # workers look for their parent every half second
        if not processes_of_group(process.pid):
            break
        time.sleep(0.1)
    assert processes_of_group(process.pid) == []
    if process.returncode == 0:
        return False
    assert process.returncode in (128 + how, -how), said
    if process.returncode > 0:
        assert said.splitlines()[-1].startswith("foreguard: interrupted by ")
        assert "Traceback" not in said
    return True


def to_the_end(words: list[str]) -> None:
    process = start(words)
    _, said = process.communicate()
    assert process.returncode == 0, said


def weights(run: Path) -> Any:
    return [json.loads((run / "checkpoints" / f"{name}.json").read_text())["sha256"] for name in ("best", "last")]


def records(run: Path) -> Any:
    order = ["sample_id", "attack", "epsilon"]
    return read_records(run).drop("seconds").sort(order).to_dicts()


def ablation(run: Path) -> Any:
    about = json.loads((run / "ablation.json").read_text())
    arms = {arm["name"]: records(run / arm["evaluation"]) for arm in about["arms"]}
    return arms, about["finished"], about["silhouette"]


@pytest.fixture(scope="module")
def stages(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier to attack."""
    run = tmp_path_factory.mktemp("stages") / "classifier"
    to_the_end(["train-classifier", f"prepared={synthetic_set}", f"run={run}", "trainer.epochs=1", "trainer.trackers=[]"])
    return run


def words_of(command: str, data: Path, stages: Path, directory: Path) -> list[str]:
    run = f"run={directory / 'run'}"
    if command == "ablate":
        return [command, run, f"prepared={directory / 'prepared'}", f"store={directory / 'store'}", "resume=true", *TINY]
    given = [command, f"prepared={data}", run, "resume=true"]
    if command == "evaluate":
        return [*given, f"classifier_run={stages}", "accelerator=cpu", "part_size=4", "attack=fast", "gallery_images=0"]
    return [*given, *(f"trainer.{word}" for word in TRAINER)]


OUTCOMES: dict[str, Callable[[Path], Any]] = {
    "train-segmenter": weights,
    "train-classifier": weights,
    "evaluate": records,
    "ablate": ablation,
}


@pytest.mark.parametrize("command", OUTCOMES)
def test_a_command_stopped_at_random_moments_ends_as_if_it_had_not_been(command, synthetic_set, stages, tmp_path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    to_the_end(words_of(command, synthetic_set, stages, whole))
    luck, begun, stops = random.Random(command), stopped / "run" / "run.json", 0
    for how in itertools.islice(itertools.cycle(SIGNALS), STOPS):
        stops += stop_somewhere(words_of(command, synthetic_set, stages, stopped), begun, how, luck)
    to_the_end(words_of(command, synthetic_set, stages, stopped))
    assert stops > 0
    assert OUTCOMES[command](whole / "run") == OUTCOMES[command](stopped / "run")
