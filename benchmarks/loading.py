"""Training from the prepared data set against decoding the original files in every epoch.

    .venv/bin/python benchmarks/loading.py coco PATH/TO/coco-mini
    .venv/bin/python benchmarks/loading.py gtsrb PATH/TO/gtsrb-mini

Both sides run in one process and yield batches of float images and masks with labels; rounds alternate. The decoding side reads
each file once for all the objects cut from it, which favours it: a map-style data set over objects would read it once an object.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.cli.composition import load_config
from pipeline.data.coco import source as coco
from pipeline.data.config import AugmentConfig, PrepareConfig
from pipeline.data.dataset import open_prepared
from pipeline.data.gtsrb import source as gtsrb
from pipeline.data.loader import Loader
from pipeline.data.prepare import prepare
from pipeline.data.sample import Plan, Sample

AUGMENT = AugmentConfig(shift=0.08, scale=0.1, rotation=10, brightness=0.2, contrast=0.2)


def decode_epoch(plan: Plan, batch_size: int, num_samples: int) -> int:
    """Decode original files until ``num_samples`` samples were batched."""
    waiting: list[Sample] = []
    batches = 0
    order = np.random.default_rng(0).permutation(len(plan.items))
    for index in order:
        waiting += [result for result in plan.load(plan.items[index]) if isinstance(result, Sample) and result.split == "train"]
        while len(waiting) >= batch_size:
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
            torch.from_numpy(np.stack([sample.image for sample in batch])).permute(0, 3, 1, 2).float().div_(255)
            torch.from_numpy(np.stack([sample.mask for sample in batch])).unsqueeze(1).float().div_(255)
            torch.tensor([sample.label for sample in batch])
            batches += 1
            if batches * batch_size >= num_samples:
                return batches
    return batches


def rate(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    return work() / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["coco", "gtsrb"])
    parser.add_argument("root", type=Path)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=960, help="samples decoded in each round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        words = [
            f"data={'coco_mini' if arguments.source == 'coco' else arguments.source}",
            f"data.root={arguments.root}",
            f"prepared={scratch}/set",
        ]
        config = load_config("prepare", PrepareConfig, words)
        prepare(config)
        plan = {"coco": coco.plan, "gtsrb": gtsrb.plan}[arguments.source](config.data)
        dataset = open_prepared(config.prepared)

        def read(augment: AugmentConfig | None) -> Callable[[], int]:
            loader = Loader(
                dataset,
                "train",
                batch_size=arguments.batch_size,
                seed=0,
                augment=augment,
                shuffle=True,
                drop_last=True,
                num_workers=0,
            )
            return lambda: sum(1 for _ in loader.epoch(0))

        sides = {
            "decoding the files": lambda: decode_epoch(plan, arguments.batch_size, arguments.samples),
            "prepared": read(None),
            "prepared, augmented": read(AUGMENT),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for round_number in range(arguments.rounds + 1):
            for name, work in sides.items():
                measured = rate(work)
                if round_number:
                    rates[name].append(measured)
    base = rates["decoding the files"]
    print(
        f"\nbatches of {arguments.batch_size}, {dataset.image_size} px, {arguments.rounds} rounds, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'':<22}{'batches/s':>10}{'ratio':>8}")
    for name, values in rates.items():
        ratio = statistics.median(one / other for one, other in zip(values, base, strict=True))
        print(f"{name:<22}{statistics.median(values):>10.1f}{ratio:>8.1f}")


if __name__ == "__main__":
    main()
