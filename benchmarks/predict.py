"""What ``foreguard predict`` costs with and without overlays, and where the time goes.

    python benchmarks/predict.py RUN --images 2000 --rounds 3

``RUN`` is what ``predict`` takes: an ablation, an evaluation, a classifier's run. The images are generated signs of 64 pixels, half
PNG, half JPEG. Every side is the whole command in a process of its own, on one image as well: that is its start. The split is
measured in this process, over at most 200 of the images.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.config import SyntheticConfig
from pipeline.data.sample import Sample
from pipeline.data.synthetic.source import load
from pipeline.prediction.predict import _save, cut_square, overlay

SIZE = 64


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for number, sample in enumerate(load(SyntheticConfig(image_size=SIZE), ("test", 0, count))):
        assert isinstance(sample, Sample)
        Image.fromarray(sample.image).save(folder / f"{number:06d}.{'png' if number % 2 else 'jpg'}")


def command_s(*words: str) -> float:
    """Processor seconds of a command and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "pipeline", "predict", *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def split_ms(images: Path, scratch: Path) -> dict[str, float]:
    """Processor milliseconds an image of what is done beside the stages."""
    files = sorted(images.iterdir())[:200]
    mask = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    spent = dict.fromkeys(("read, cut and resize", "draw the overlay", "write the overlay", "write the mask"), 0.0)
    for path in files:
        marks = [time.process_time()]
        square = cut_square(1, path.name, path, 32)
        marks.append(time.process_time())
        assert square.shown is not None
        drawn = overlay(square.shown, mask)
        marks.append(time.process_time())
        _save(drawn, scratch / "overlay.png")
        marks.append(time.process_time())
        _save(np.rint(mask * 255).astype(np.uint8), scratch / "mask.png")
        marks.append(time.process_time())
        for name, begun, ended in zip(spent, marks[:-1], marks[1:], strict=True):
            spent[name] += 1000 * (ended - begun) / len(files)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        write_images(scratch / "images", arguments.images)
        write_images(scratch / "one", 1)
        sides = {"one image": ("one", "true"), "without overlays": ("images", "false"), "with overlays": ("images", "true")}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(arguments.rounds):
            for name, (images, overlays) in sides.items():
                words = [f"images={scratch / images}", f"out={scratch / f'{name} {number}'}", f"overlays={overlays}"]
                seconds[name].append(command_s(*words, f"run={arguments.run}"))
        print(f"\n| {arguments.images} images | processor seconds |\n|---|---:|")
        for name, values in seconds.items():
            print(f"| {name} | {statistics.median(values):.1f} |")
        print("\n| part | processor ms an image |\n|---|---:|")
        for name, value in split_ms(scratch / "images", scratch).items():
            print(f"| {name} | {value:.2f} |")


if __name__ == "__main__":
    main()
