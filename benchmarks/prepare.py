"""Speed and memory of ``foreguard prepare`` on real data, at one and ten times the number of images.

    .venv/bin/python benchmarks/prepare.py coco PATH/TO/coco-mini
    .venv/bin/python benchmarks/prepare.py gtsrb PATH/TO/gtsrb-mini

Memory is the highest sum of the resident sets of the command and its worker processes (shared pages counted in each of them, so the
true figure is lower), looked at twenty times a second. Ten times the images: the same files under ten names.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def enlarge_coco(root: Path, target: Path, times: int) -> None:
    """The official layout with every image ``times`` times, under new names and ids."""
    (target / "annotations").mkdir(parents=True)
    for folder in ("train2017", "val2017"):
        (target / folder).mkdir()
    for file in sorted((root / "annotations").glob("instances_*.json")):
        content = json.loads(file.read_text())
        folder = "val2017" if "val" in file.name else "train2017"
        images, annotations = [], []
        for copy in range(times):
            shift = copy * 10**7
            for image in content["images"]:
                name = f"{copy}_{image['file_name']}"
                link_or_copy(root / folder / image["file_name"], target / folder / name)
                images.append({**image, "id": image["id"] + shift, "file_name": name})
            for one in content["annotations"]:
                annotations.append({**one, "id": one["id"] + copy * 10**13, "image_id": one["image_id"] + shift})
        content.update(images=images, annotations=annotations)
        (target / "annotations" / file.name).write_text(json.dumps(content))


def enlarge_gtsrb(root: Path, target: Path, times: int) -> None:
    """The official layout with every training track ``times`` times, under new track numbers, and the test images once."""
    training = Path("gtsrb") / "GTSRB" / "Training"
    shutil.copytree(root / "gtsrb" / "GTSRB" / "Final_Test", target / "gtsrb" / "GTSRB" / "Final_Test")
    shutil.copy(root / "gtsrb" / "GT-final_test.csv", target / "gtsrb")
    for folder in sorted((root / training).iterdir()):
        made = target / training / folder.name
        made.mkdir(parents=True)
        with (folder / f"GT-{folder.name}.csv").open(newline="") as stream:
            rows = list(csv.reader(stream, delimiter=";"))
        lines = [rows[0]]
        for copy in range(times):
            for row in rows[1:]:
                track, frame = row[0].split("_")
                name = f"{int(track) + copy * 1000:05d}_{frame}"
                link_or_copy(folder / row[0], made / name)
                lines.append([name, *row[1:]])
        with (made / f"GT-{folder.name}.csv").open("w", newline="") as stream:
            csv.writer(stream, delimiter=";").writerows(lines)


def link_or_copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


def measure(source: str, root: Path, prepared: Path, extra: list[str]) -> tuple[float, int, float]:
    """Seconds, samples and highest memory in MiB of one call of the command."""
    words = [sys.executable, "-m", "pipeline", "prepare", f"data={source}", f"data.root={root}", f"prepared={prepared}", *extra]
    started, highest = time.monotonic(), 0
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            highest = max(highest, sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    if process.returncode:
        sys.exit(process.returncode)
    manifest = json.loads((prepared / "dataset.json").read_text())
    return time.monotonic() - started, manifest["num_samples"], highest / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["coco", "gtsrb"])
    parser.add_argument("root", type=Path)
    parser.add_argument("extra", nargs="*", help="further key=value words for foreguard prepare")
    arguments = parser.parse_args()
    enlarge = {"coco": enlarge_coco, "gtsrb": enlarge_gtsrb}[arguments.source]
    print(f"{'images':>8} {'samples':>8} {'seconds':>8} {'samples/s':>10} {'MiB, all processes':>19}")
    with tempfile.TemporaryDirectory() as scratch:
        for times in (1, 10):
            root = Path(scratch) / f"x{times}"
            enlarge(arguments.root, root, times)
            seconds, samples, memory = measure(arguments.source, root, Path(scratch) / f"set{times}", arguments.extra)
            print(f"{times:>7}x {samples:>8} {seconds:>8.1f} {samples / seconds:>10.0f} {memory:>19.0f}", flush=True)


if __name__ == "__main__":
    main()
