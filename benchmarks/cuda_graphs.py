"""The suite `fast` on a GPU, from a copy whose passes are CUDA graphs, as shipped, and from one that launches kernel by kernel.

    python benchmarks/cuda_graphs.py --state state.pt

Every side attacks the same images with the same seeds, one attack after the other, and drops what each fells. Building the copy and
recording its passes is part of its time, as in an evaluation. Wall-clock time; the sides take turns in one process, and a first
round warms up.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from pgd_sides import Task, images_and_labels, train, trained_system
from torch import Tensor

from pipeline.arithmetic import tf32_disabled
from pipeline.attacks.acceleration import Precision, attacked_copy
from pipeline.attacks.cuda_graphs import Graphed
from pipeline.attacks.runner import run_attack, skipped_attacks
from pipeline.attacks.shipped import suites
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.suite import AttackSuite
from pipeline.config import parse_number
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage

SIDES: dict[str, tuple[Precision, bool]] = {
    f"{precision}, {'graphs' if graphs else 'kernel by kernel'}": (precision, graphs)
    for precision in ("float32", "bf16")
    for graphs in (True, False)
}


def misclassified(
    batch: AttackBatch, suite: AttackSuite, epsilon: float, precision: Precision, graphs: bool, batch_size: int
) -> Tensor:
    """Which of the images an attack of the suite fells, or are misclassified as they are."""
    assert isinstance(batch.system, TwoStage)
    copy = attacked_copy(batch.system, batch.images, precision=precision)
    if not graphs:
        assert isinstance(copy, TwoStage)
        copy.map_stages(lambda stage: stage.stage if isinstance(stage, Graphed) else stage)
    skipped, robust = skipped_attacks(suite, batch), torch.arange(len(batch), device=batch.labels.device)
    for name, spec in suite.attacks.items():
        if name not in skipped:
            found = run_attack(
                name, spec, batch.select(robust), threat=suite.threat, epsilon=epsilon, run_seed=0, batch_size=batch_size, copy=copy
            )
            robust = robust[~found.misclassified]
    return torch.ones(len(batch), dtype=torch.bool, device=robust.device).index_fill(0, robust, False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=64, help="side of the images, pixels")
    parser.add_argument("--epsilon", default="4/255")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda", help="cpu tries the script: there are no graphs then")
    parser.add_argument(
        "--state", type=Path, required=True, help="weights of the trained system: read if there, else trained and written"
    )
    parser.add_argument("--train-steps", type=int, default=150)
    arguments = parser.parse_args()
    epsilon = parse_number(arguments.epsilon)
    task = Task(
        device=arguments.device, size=arguments.size, batch=64, steps=0, epsilon=epsilon, step_size=epsilon, state=arguments.state
    )
    if not task.state.exists():
        print(f"trained: {train(task, arguments.train_steps):.1%} right on clean images", flush=True)
    images, masks, labels = (part.to(task.device) for part in images_and_labels(task.size, "test", 0, arguments.images))
    seeds = torch.arange(len(images), device=task.device)
    batch = AttackBatch(
        system=trained_system(task),
        images=images,
        labels=labels,
        context=MaskContext(oracle_masks=masks, sample_seeds=seeds),
        seeds=seeds,
    )
    named = suites()["fast"]
    suite = replace(named, threat=replace(named.threat, epsilons=(epsilon,)))
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(arguments.rounds + 1):
        verdicts = {}
        for name, (precision, graphs) in SIDES.items():
            began = time.perf_counter()
            with tf32_disabled(torch.device(task.device)):
                verdicts[name] = misclassified(batch, suite, epsilon, precision, graphs, arguments.batch).cpu()
            spent = time.perf_counter() - began
            if number:
                seconds[name].append(spent)
            first = next(iter(verdicts.values()))
            differ = int((verdicts[name] != first).sum())
            print(f"round {number}: {name}: {spent:.2f} s, {int(verdicts[name].sum())} fall, {differ} verdicts differ", flush=True)
    slow = seconds["float32, kernel by kernel"]
    for name, spent in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(slow, spent, strict=True))
        print(f"| {name} | {statistics.median(spent):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
