"""What the live laboratory takes: the attack under three systems with every frame drawn, and the first frame in a browser.

    python benchmarks/lab.py [--side 64] [--steps 20] [--rounds 5] [--page http://127.0.0.1:7860]

Untrained stages on random images. With ``--page`` of a laboratory that is running on this machine, Chromium opens it as often, each
time with an empty cache. Wall-clock times are a quiet machine's only where the load beside them is small; processor seconds count
what was done.
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command has it, before torch is imported

import psutil
import torch

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.lab.arms import Arm
from pipeline.lab.bench import Bench, Sample
from pipeline.lab.config import Settings
from pipeline.lab.scene import scene
from pipeline.lab.trial import prepare, run
from pipeline.masks.config import MaskSource
from pipeline.prediction.choice import ChosenSystem
from pipeline.system import TwoStage
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

STAGES = {
    "the default stages": (SegmenterConfig(), ClassifierConfig()),
    "U-Net on ResNet-18, ResNet-18": (
        SegmenterConfig(encoder="resnet18", encoder_depth=5, decoder_channels=(256, 128, 64, 32, 16)),
        ClassifierConfig(architecture="resnet18", stem="imagenet"),
    ),
}
CLASSES = tuple("abcdef")


def bench(segmenter: SegmenterConfig, classifier: ClassifierConfig, side: int) -> Bench:
    """No mask, the oracle's and a learned one."""
    arms, systems = [], {}
    for source in (MaskSource.NONE, MaskSource.ORACLE, MaskSource.LEARNED):
        arms.append(Arm(name=source.value, source=source, detail="", chosen=ChosenSystem(source.value, Path(), None, {})))
        stage = build_segmenter(segmenter, seed=0) if source.needs_segmenter else None
        system = TwoStage(build_classifier(classifier, num_classes=len(CLASSES), seed=0), masks=source, segmenter=stage)
        # A new system comes in training mode; the laboratory loads systems that are in eval mode and frozen.
        systems[source.value] = system.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    about = {"run": Path(), "shown": (), "dataset": None, "rows": (), "notices": (), "device": torch.device("cpu")}
    return Bench(arms=tuple(arms), classes=CLASSES, image_size=side, _systems=systems, **about)


def attack(made: Bench, steps: int, seed: int) -> None:
    """One attack as the page runs it."""
    image, mask = torch.rand(1, 3, made.image_size, made.image_size), torch.zeros(1, 1, made.image_size, made.image_size)
    mask[..., 8:-8, 8:-8] = 1
    sample = Sample(name="random", image=image, label=0, mask=mask)
    for trial in run(*prepare(made, made.arms, sample, Settings(steps=steps, seed=seed))):
        scene(trial)


def first_frame(page: str) -> None:
    """Open the page until its first frame is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"], timeout=0
        )
        tab = browser.new_page()
        server, visitor = [_serving(page)], psutil.Process().children(recursive=True)
        began, spent = time.monotonic(), [_processor_s(server), _processor_s(visitor)]
        tab.goto(page, timeout=0)
        tab.wait_for_selector(".lab-card", timeout=0)
        wall, of_server, of_browser = time.monotonic() - began, _processor_s(server) - spent[0], _processor_s(visitor) - spent[1]
        load = psutil.getloadavg()[0]
        print(f"| first frame | {wall:.2f} | {of_server:.2f} server, {of_browser:.2f} browser | {load:.1f} |")
        browser.close()


def _serving(page: str) -> psutil.Process:
    """The process that listens at the page's port."""
    port = int(page.rstrip("/").rpartition(":")[2])
    return next(
        psutil.Process(one.pid)
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    )


def _processor_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def report(name: str, action: Callable[[int], None], rounds: int) -> None:
    """Medians of wall-clock and processor time, the first round dropped."""
    wall, processor = [], []
    for number in range(rounds + 1):
        began, spent = time.monotonic(), time.process_time()
        action(number)
        wall.append(time.monotonic() - began)
        processor.append(time.process_time() - spent)
    load = psutil.getloadavg()[0]
    print(f"| {name} | {statistics.median(wall[1:]):.2f} | {statistics.median(processor[1:]):.2f} | {load:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("side", 64), ("steps", 20), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--page")
    words = parser.parse_args()
    print("| what | wall, s | processor, s | load |\n|---|---:|---:|---:|")
    for name, (segmenter, classifier) in STAGES.items():
        made = bench(segmenter, classifier, words.side)
        report(name, lambda seed, made=made: attack(made, words.steps, seed), words.rounds)
    for _ in range(words.rounds if words.page else 0):
        first_frame(words.page)


if __name__ == "__main__":
    main()
