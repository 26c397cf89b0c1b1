"""Seconds and peak memory of prepare, evaluate and report for 1, 4 and 16 times as many images: whole commands, in turn.

    python benchmarks/scaling.py [--images 1024] [--factors 1 4 16] [--rounds 1]

Synthetic signs; a small untrained classifier whose every image is attacked to the end (``attack_all``), so that the work is that of
the images; one process each. Where the cost is linear, the step from 4 to 16 times the images is four times that from 1 to 4.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

COMMANDS = ("prepare", "evaluate", "report")


def system() -> Any:
    """What is attacked: ``system=scaling:system``. Nothing of it is imported here: a command begins with the memory of this one."""
    from classifier.config import ClassifierConfig
    from classifier.model import build_classifier

    # As somebody hands over a trained classifier: an attack sets the mode itself, and so would give the same.
    return build_classifier(ClassifierConfig(width=8), num_classes=10, seed=0).eval()


class Cost(NamedTuple):
    """Of one command."""

    wall_s: float
    processor_s: float
    peak_mib: float


def cost(words: list[str]) -> Cost:
    """Run one command of foreguard, in one process."""
    began = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", *words]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, cwd=Path(__file__).parent, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode())
    return Cost(wall_s=time.monotonic() - began, processor_s=usage.ru_utime + usage.ru_stime, peak_mib=usage.ru_maxrss / 1024)


def costs(directory: Path, images: int) -> dict[str, Cost]:
    """Of all three commands, for so many test images."""
    prepared, run, out = directory / "prepared", directory / "run", directory / "report"
    for path in (prepared, run, out):
        shutil.rmtree(path, ignore_errors=True)
    counts = ["data.num_train=10", "data.num_val=10", f"data.num_test={images}"]
    attack = "attack.attacks={pgd: {kind: class, search: pgd, num_steps: 10}}"
    words = {
        "prepare": ["data=synthetic", *counts, f"prepared={prepared}", "workers=0"],
        "evaluate": [f"prepared={prepared}", "system=scaling:system", f"run={run}", "accelerator=cpu", "attack_all=true", attack],
        "report": [f"run={run}", f"out={out}"],
    }
    return {command: cost([command, *words[command]]) for command in COMMANDS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for factor in chosen.factors:
            images = factor * chosen.images
            rounds = [costs(Path(directory), images) for _ in range(chosen.rounds)]
            page = (Path(directory) / "report" / "index.html").stat().st_size / 1024
            for command in COMMANDS:
                wall, processor, peak = (
                    statistics.median(values) for values in zip(*(one[command] for one in rounds), strict=True)
                )
                size = f", page {page:.0f} KiB" if command == "report" else ""
                print(f"{images:>6} images, {command:<8}: {wall:6.1f} s ({processor:.1f} of processor), {peak:.0f} MiB{size}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
