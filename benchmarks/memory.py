"""Memory of ``foreguard prepare`` and ``foreguard predict`` on large pictures: the peak of one process, resident and its own.

    .venv/bin/python benchmarks/memory.py

``folder`` and ``coco`` are two sources of ``prepare``. Made-up pictures: photographs of 48 megapixels (JPEG, 4:2:0), the same as
PNG, and strips of 20,000 x 200 pixels. ``predict`` runs with a classifier and a segmenter of random weights; ``prepare`` decodes in
the process itself (``workers=0``). ``own`` is what the process has allocated: without the pages of files, above all of torch's
libraries, which all processes share and the system drops when memory is short. The first line of each call, with small pictures,
is what the program takes without large ones.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.config import to_plain
from pipeline.runs.checkpoints import Checkpoint, save_checkpoint
from pipeline.runs.provenance import provenance
from segmenter.config import SegmenterConfig
from segmenter.model import build_segmenter

CLASSES = ("cup", "jug")
COCO = ["data=coco", "data.classes={cup:[cup],jug:[jug]}", "data.parts=[{annotations:instances.json,images:images}]", "workers=0"]
COCO += ["data.val_fraction=0.25", "data.test_fraction=0.25", "data.min_size=4"]


def photograph(width: int, height: int) -> Image.Image:
    """Smooth colors with fine noise, so that a JPEG of it is as large as one of a camera."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (height // 50 + 1, width // 50 + 1, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    noise = Image.fromarray(random.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)).resize((width, height))
    return Image.blend(image, noise, 0.05)


def make_folder(root: Path, size: tuple[int, int], ending: str, count: int) -> None:
    """``count`` pictures in two classes with masks; all but the first are links to it."""
    image, mask = photograph(*size), Image.new("L", size)
    mask.paste(255, (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    for number in range(count):
        for kind, drawn, suffix in (("images", image, ending), ("masks", mask, ".png")):
            path = root / kind / CLASSES[number % 2] / f"{number:03}{suffix}"
            first = root / kind / CLASSES[0] / f"000{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if number:
                os.link(first, path)
            else:
                drawn.save(path)


def make_coco(root: Path, size: tuple[int, int], ending: str, count: int) -> None:
    """The same pictures as COCO has them: an annotation file, and in each picture one object as wide as a quarter of it."""
    width, height = size
    left, top, right, bottom = width // 4, height // 4, width // 2, height // 2
    outline = {
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        "bbox": [left, top, right - left, bottom - top],
    }
    content = {
        "images": [
            {"id": n, "file_name": f"{CLASSES[n % 2]}/{n:03}{ending}", "width": width, "height": height} for n in range(count)
        ],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 2 + 1, "iscrowd": 0, **outline} for n in range(count)],
        "categories": [{"id": 1 + n, "name": name} for n, name in enumerate(CLASSES)],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances.json").write_text(json.dumps(content))


def make_stages(path: Path) -> None:
    stages = {
        "segmenter": (SegmenterConfig(), build_segmenter(SegmenterConfig(), seed=0)),
        "classifier": (ClassifierConfig(), build_classifier(ClassifierConfig(), num_classes=len(CLASSES), seed=0)),
    }
    for kind, (config, module) in stages.items():
        checkpoint = Checkpoint(
            kind=kind,
            architecture=to_plain(config),
            config={"masks": {"source": "none"}},
            classes=CLASSES,
            image_size=64,
            data_fingerprint="0" * 64,
            mean_color=(0.5, 0.5, 0.5),
            provenance=provenance(),
            step=0,
            epoch=0,
            metrics={},
        )
        save_checkpoint(path / kind / "checkpoints", "best", checkpoint, module.state_dict())


def peak(words: list[str]) -> tuple[float, float, float]:
    """Seconds, the highest resident set and the highest part of it that is the process's own, MiB, looked at 100 times a second."""
    began, resident, own = time.monotonic(), 0, 0
    process = subprocess.Popen([sys.executable, "-m", "pipeline", *words], stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = watched.memory_info()
            resident, own = max(resident, memory.rss), max(own, memory.rss - memory.shared)
        time.sleep(0.01)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - began, resident / 2**20, own / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64, help="pictures of each kind")
    count = parser.parse_args().count
    print(f"{'call':<9}{'pictures':<44}{'seconds':>9}{'MiB':>7}{'own':>7}")
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        make_stages(here)
        kinds = [
            ("small", (80, 60), ".jpg"),
            ("photographs of 48 megapixels, JPEG", (8000, 6000), ".jpg"),
            ("photographs of 48 megapixels, PNG", (8000, 6000), ".png"),
            ("strips of 20,000 x 200 pixels, PNG", (20000, 200), ".png"),
        ]
        for number, (name, size, ending) in enumerate(kinds):
            root = here / str(number)
            make_folder(root, size, ending, count)
            make_coco(root, size, ending, count)
            learned = ["masks.source=learned", f"segmenter_run={here / 'segmenter'}", "square=pad", "accelerator=cpu"]
            calls = {
                "folder": ["prepare", "data=folder", f"data.root={root}", f"prepared={here / f'set{number}'}", "workers=0"],
                "coco": ["prepare", f"data.root={root}", f"prepared={here / f'coco{number}'}", *COCO],
                "predict": [
                    "predict",
                    f"images={root / 'images'}",
                    f"run={here / 'classifier'}",
                    f"out={here / f'out{number}'}",
                    *learned,
                ],
            }
            for call, words in calls.items():
                seconds, resident, own = peak(words)
                print(f"{call:<9}{f'{count} {name}':<44}{seconds:>9.1f}{resident:>7.0f}{own:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
