"""One evaluation by one process with all threads, and by several with a share of them each: whole commands, in turn.

    python benchmarks/sharing.py [--processes 2] [--rounds 3] [--images 96] [--side 32] [--steps 10]

ResNet-18 behind a U-Net, untrained, on random images whose labels are what it says; PGD run to its end on all of them
(``attack_all``), so that both do the same work. The records of both have to be the same to the bit.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from polars.testing import assert_frame_equal
from torch import nn

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.data.builder import write_prepared
from pipeline.data.sample import Plan, Sample
from pipeline.evaluation.records import read_records
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.system import TwoStage
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

CLASSES = 4


def system() -> TwoStage:
    """What is attacked: ``system=sharing:system``."""
    classifier = build_classifier(ClassifierConfig(), num_classes=CLASSES, seed=0)
    segmenter = build_segmenter(SegmenterConfig(), seed=0)
    joined = TwoStage(classifier, masks=MaskConfig(source=MaskSource.LEARNED), segmenter=segmenter).eval()
    last = [module for module in classifier.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= joined(torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))).mean(dim=0)  # all classes occur
    return joined


def prepare(path: Path, num_images: int, side: int) -> None:
    """Random images, each of the class that the system says."""
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, side, side, 3), dtype=np.uint8)
    with torch.no_grad():
        labels = system()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).argmax(dim=1).tolist()
    samples = [
        Sample(
            sample_id=f"{number:05d}",
            source_file="",
            group=f"{number:05d}",
            label=label,
            split="test",
            box=(0.0, 0.0, 1.0, 1.0),
            mask_recipe="",
            image=image,
            mask=np.full((side, side), 255, dtype=np.uint8),
        )
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    classes = tuple(f"class {number}" for number in range(CLASSES))
    plan = Plan(classes=classes, recipe={}, files=(), items=samples, load=lambda sample: [sample])
    write_prepared(plan, path, name="folder", image_size=side, root=None, workers=0)


class Seconds(NamedTuple):
    """What one command took, with the processes that it started."""

    wall: float
    processor: float


def seconds(words: list[str], threads: int) -> Seconds:
    """Run ``foreguard evaluate``."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "pipeline", "evaluate", *words]
    subprocess.run(command, cwd=Path(__file__).parent, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Seconds(wall=time.monotonic() - began, processor=spent)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("processes", 2), ("rounds", 3), ("images", 96), ("side", 32), ("steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        prepared, runs = Path(directory) / "prepared", Path(directory)
        prepare(prepared, chosen.images, chosen.side)
        common = [f"prepared={prepared}", "system=sharing:system", "accelerator=cpu", "attack_all=true", "gallery_images=0"]
        common += [
            f"attack.attacks={{pgd: {{kind: class, search: pgd, num_steps: {chosen.steps}}}}}",
            "batch_size=16",
            "part_size=16",
        ]
        pairs = []
        for number in range(chosen.rounds):
            one = seconds([*common, f"run={runs}/one{number}"], chosen.processes)
            shared = seconds([*common, f"run={runs}/shared{number}", f"devices={chosen.processes}"], chosen.processes)
            tables = [read_records(runs / f"{name}{number}").drop("seconds") for name in ("one", "shared")]
            assert_frame_equal(*tables, check_exact=True)
            pairs.append((one, shared))
            print(f"round {number + 1}: one process {one}, shared {shared}; records equal to the bit", flush=True)
        for kind in Seconds._fields:
            ratios = [getattr(one, kind) / getattr(shared, kind) for one, shared in pairs]
            print(f"{kind} seconds, one process / {chosen.processes} processes: median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
