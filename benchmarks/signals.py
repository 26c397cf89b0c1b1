"""How commands end when they are told to: seconds from a signal to the exit, exit code, last line, and if they go on to the same.

    python benchmarks/signals.py [--commands evaluate report] [--moments 0.3 0.7]

Every command runs once to its end, and then, for SIGTERM, SIGINT and SIGHUP and for each moment, in a place of its own: the signal
is sent to its process group, as terminals and job systems do, after that share of the undisturbed run's time, and the same command
is said again. What both runs leave is compared: weights, records and prepared data to the bit, predictions and pages by file.
Predict overwrites nothing, so it is said again for a new directory.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipeline.evaluation.records import read_records

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TRAINER = ["trainer.epochs=3", "trainer.batch_size=32", "trainer.trackers=[]", "trainer.accelerator=cpu", "trainer.num_workers=1"]
ROBUST = ["objective=adversarial", "objective.attack.num_steps=3"]
TINY = [
    *("experiment=quickstart", "data.image_size=16", "data.num_train=48", "data.num_val=12", "data.num_test=24"),
    *("data.num_classes=3", "workers=0", "segmenter.encoder_depth=3", "segmenter.decoder_channels=[8,8,8]", "classifier.width=4"),
    *("masks=[{train: none, test: none}, {train: oracle, test: learned}]", "classifier_objectives=[natural]"),
    *("segmenter_trainer.epochs=2", "classifier_trainer.epochs=2", "evaluation.max_images=24", "evaluation.part_size=6"),
    *("evaluation.sanity=null", "degradation=null", "decomposition=null"),
]


class Call(NamedTuple):
    """A command, and where it writes."""

    words: list[str]
    out: Path
    outcome: Callable[[Path], Any]


def digests(path: Path) -> dict[str, str]:
    """Of every file that a directory holds."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def prepared(path: Path) -> Any:
    return {name: digest for name, digest in digests(path).items() if name != "dataset.json"}  # which says how long it took


def weights(path: Path) -> Any:
    return {file.name: file.read_bytes() for file in path.rglob("*.safetensors")}


def records(path: Path) -> Any:
    order = ["sample_id", "attack", "epsilon"]
    return read_records(path).drop("seconds").sort(order).to_dicts()


def ablation(path: Path) -> Any:
    about = json.loads((path / "ablation.json").read_text())
    return about["finished"], {arm["name"]: records(path / arm["evaluation"]) for arm in about["arms"]}


def calls(made: Path, out: Path) -> dict[str, Call]:
    """Every command, writing below ``out`` from what ``setup`` has made."""
    data, stages = f"prepared={made / 'set'}", [f"segmenter_run={made / 'segmenter'}", f"classifier_run={made / 'classifier'}"]
    run = [f"run={out / 'run'}", "resume=true"]
    attacked = ["accelerator=cpu", "part_size=4", "attack=fast", "gallery_images=4", "max_images=16", "sanity=false"]
    tiny = [f"run={out / 'run'}", f"prepared={out / 'prepared'}", f"store={out / 'store'}", *TINY]
    return {
        "prepare": Call(
            ["prepare", "data=synthetic", "data.num_train=3000", f"prepared={out / 'set'}", "workers=2"], out / "set", prepared
        ),
        "train-segmenter": Call(["train-segmenter", data, *run, *TRAINER], out / "run", weights),
        "train-classifier": Call(["train-classifier", data, *run, *TRAINER, *ROBUST], out / "run", weights),
        "train-joint": Call(["train-joint", data, *run, *stages, *TRAINER], out / "run", weights),
        "evaluate": Call(["evaluate", data, *run, stages[1], *attacked], out / "run", records),
        "ablate": Call(["ablate", *tiny], out / "run", ablation),
        "predict": Call(
            ["predict", f"images={made / 'photos'}", f"run={made / 'classifier'}", f"out={out / 'new'}", "batch_size=8"],
            out / "new",
            digests,
        ),
        "report": Call(["report", f"run={made / 'evaluation'}", f"out={out / 'page'}"], out / "page", digests),
    }


def run(words: list[str], **options: Any) -> subprocess.Popen[str]:
    """A command as the first of its process group. What starts this script may ignore SIGINT; the command must not inherit that."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def finish(words: list[str]) -> float:
    """Seconds to the end."""
    began, process = time.monotonic(), run(words)
    said = process.communicate()[1]
    if process.returncode:
        sys.exit(f"{shlex.join(words)}\n{said}")
    return time.monotonic() - began


def setup(made: Path) -> None:
    """A data set, a segmenter, a classifier, its evaluation and some photos."""
    data = f"prepared={made / 'set'}"
    finish(["prepare", "data=synthetic", "data.num_train=256", "data.num_val=64", "data.num_test=64", data, "workers=0"])
    for stage in ("segmenter", "classifier"):
        finish(
            [f"train-{stage}", data, f"run={made / stage}", "trainer.epochs=1", "trainer.trackers=[]", "trainer.accelerator=cpu"]
        )
    evaluated = [f"classifier_run={made / 'classifier'}", f"run={made / 'evaluation'}", "attack=fast", "accelerator=cpu"]
    finish(["evaluate", data, *evaluated, "gallery_images=8"])
    (made / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(200):
        Image.fromarray(random.integers(0, 256, (600, 800, 3), dtype=np.uint8)).save(made / "photos" / f"{number:03}.png")


def measure(name: str, made: Path, moments: list[float]) -> None:
    """Lines of the table."""
    with tempfile.TemporaryDirectory() as directory:
        whole = calls(made, Path(directory))[name]
        spent, expected = finish(whole.words), whole.outcome(whole.out)
    for number in SIGNALS:
        for share in moments:
            with tempfile.TemporaryDirectory() as directory:
                disturbed = calls(made, Path(directory))[name]
                process = run(disturbed.words)
                try:
                    process.communicate(timeout=share * spent)
                except subprocess.TimeoutExpired:
                    sent = time.monotonic()
                    os.killpg(process.pid, number)
                    last = process.communicate()[1].strip().splitlines()[-1:]
                    seconds = time.monotonic() - sent
                    if name == "predict":
                        shutil.rmtree(disturbed.out, ignore_errors=True)
                    finish(disturbed.words)
                    same = "same" if disturbed.outcome(disturbed.out) == expected else "**other**"
                    line = " ".join(last).replace(directory, "DIR").replace(str(made), "DIR")
                    row = [name, number.name, f"{share:.0%} of {spent:.0f} s", f"{seconds:.2f}"]
                    row += [str(process.returncode), same, line]
                    print(f"| {' | '.join(row)} |", flush=True)
                else:
                    print(f"| {name} | {number.name} | {share:.0%} | had ended | {process.returncode} | | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=sorted(calls(Path(), Path())), default=list(calls(Path(), Path())))
    parser.add_argument("--moments", nargs="+", type=float, default=[0.3, 0.7])
    chosen = parser.parse_args()
    print("| command | signal | sent after | seconds | code | said again | last line |")
    print("|---|---|---|---:|---:|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        setup(Path(directory))
        for name in chosen.commands:
            measure(name, Path(directory), chosen.moments)
    print(f"load of this machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
