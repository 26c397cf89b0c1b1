"""Images a second that the synthetic source draws in one process: the median of repeats, with the slowest and the fastest.

``prepare`` runs one such process per core. Usage: ``python benchmarks/synthetic.py [--repeats 7] [--images 1024]``
"""

import argparse
from statistics import median
from time import perf_counter, process_time

from pipeline.data.config import SyntheticConfig
from pipeline.data.synthetic.source import plan


def rates(config: SyntheticConfig) -> tuple[float, float]:
    """Images per second of wall-clock time and of processor time, over the training split."""
    planned = plan(config)
    items = [item for item in planned.items if item[0] == "train"]
    wall, processor = perf_counter(), process_time()
    num_images = sum(len(planned.load(item)) for item in items)
    return num_images / (perf_counter() - wall), num_images / (process_time() - processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--images", type=int, default=1024)
    arguments = parser.parse_args()
    sizes = (32, 64, 224)
    configs = [SyntheticConfig(image_size=size, num_train=max(64, arguments.images * 32**2 // size**2)) for size in sizes]
    for config in configs:
        rates(config)  # warm-up
    # Interleaved, so that a busy moment of the machine falls on all sizes.
    repeats = [[rates(config) for config in configs] for _ in range(arguments.repeats)]
    print(f"{'side':>5} {'images':>7} {'images/s':>9} {'slowest':>8} {'fastest':>8} {'images/cpu-s':>13}")
    for config, results in zip(configs, zip(*repeats, strict=True), strict=True):
        wall, processor = zip(*results, strict=True)
        row = f"{config.image_size:>5} {config.num_train:>7} {median(wall):>9.0f} {min(wall):>8.0f} {max(wall):>8.0f}"
        print(f"{row} {median(processor):>13.0f}")


if __name__ == "__main__":
    main()
