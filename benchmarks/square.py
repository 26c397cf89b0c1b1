"""Square side by side against one image after the other, on the same images: processor seconds and verdicts.

    python benchmarks/square.py SET SYSTEM --images 16 --queries 500

``SET`` is a prepared data set, ``SYSTEM`` what ``load_system`` takes (an evaluation of an ablation, an export, ``zoo:NAME``). One
image after the other is pyautoattack's Square on batches of one, as its random numbers ask for; both sides take turns.
"""

import argparse
import statistics
import time
from fractions import Fraction
from pathlib import Path

import psutil
import torch
from torch import Tensor

from pipeline import load_system
from pipeline.attacks.autoattack import square
from pipeline.attacks.tracker import verdict
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import read_rows
from pipeline.evaluation.chunks import choose_rows
from pipeline.system import context_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("system")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--epsilon", type=Fraction, default=Fraction(4, 255))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    dataset, system = open_prepared(arguments.prepared, verify=False), load_system(arguments.system)
    read = read_rows(dataset, choose_rows(dataset, "test", arguments.images))
    context = context_of(read)
    seeds = torch.arange(len(read.labels))

    def attacked(rows: Tensor) -> Tensor:
        return square(
            system,
            read.images[rows],
            read.labels[rows],
            context.select(rows),
            norm="linf",
            epsilon=float(arguments.epsilon),
            seeds=seeds[rows],
            num_queries=arguments.queries,
        )

    sides = {"one by one": seeds.split(1), "side by side": (seeds,)}
    ratios = []
    for number in range(arguments.rounds):
        seconds, fooled = [], []
        for parts in sides.values():
            began = time.process_time()
            found = torch.cat([attacked(rows) for rows in parts])
            seconds.append(time.process_time() - began)
            fooled.append(verdict(system, found, read.labels, context).misclassified)
        ratios.append(seconds[0] / seconds[1])
        times = ", ".join(f"{name} {spent:.1f} s" for name, spent in zip(sides, seconds, strict=True))
        print(
            f"round {number}: {times}; {int((~fooled[0]).sum())} stand, {int((fooled[0] ^ fooled[1]).sum())} verdicts differ",
            flush=True,
        )
    print(f"one by one / side by side: {statistics.median(ratios):.2f} (load {psutil.getloadavg()[0]:.0f})")


if __name__ == "__main__":
    main()
