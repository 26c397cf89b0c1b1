"""Robust-accuracy evaluation that drops misclassified images and refills the batch, against the same without dropping.

    foreguard prepare data=synthetic prepared=SET data.num_train=1200
    foreguard train-segmenter prepared=SET run=SEG trainer.epochs=4
    foreguard train-classifier prepared=SET run=CLS masks.source=learned segmenter_run=SEG trainer.epochs=8
    .venv/bin/python benchmarks/dropping.py SET CLS

Both sides attack the same correctly classified images of the test split end to end by PGD with restarts, from the same starting
points. Each measurement is a process of its own, so that its peak memory is its own; rounds alternate. The verdicts are compared
image by image. ``pgd`` leaves the batch at any step, ``apgd`` between restarts.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.attacks.specs import ClassAttack, ClassLoss
from pipeline.attacks.suite import AttackSuite
from pipeline.data.dataset import open_prepared
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.evaluator import EvaluationRun, attack_again
from pipeline.evaluation.loading import load_from_runs

SIDES = ("without", "dropping")


def measure(arguments: argparse.Namespace, side: str) -> dict[str, object]:
    """One evaluation: seconds, peak memory and the verdict of every image."""
    dataset, device = open_prepared(arguments.prepared, verify=False), torch.device("cpu")
    loaded = load_from_runs(
        classifier_run=arguments.classifier_run,
        segmenter_run=None,
        masks={},
        dataset=dataset,
        allow_other_data=False,
        device=device,
    )
    rows = choose_rows(dataset, "test", arguments.images)
    spec = ClassAttack(search=arguments.search, loss=ClassLoss.MARGIN, num_steps=arguments.steps, restarts=arguments.restarts)
    run = EvaluationRun(
        system=loaded.system,
        system_id=loaded.system_id,
        suite=AttackSuite(attacks={"benchmark": spec}),
        seed=0,
        batch_size=arguments.batch_size,
        attack_all=side != "dropping",
        save_images=False,
        dataset=dataset,
        rows=rows,
        chunk_size=len(rows),
    )
    chunk = run.chunk(rows, device)
    batch = chunk.batch.select(chunk.to_attack(attack_all=True))
    began = time.perf_counter()
    found = attack_again(run, "benchmark", arguments.epsilon / 255, batch)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "misclassified": found.misclassified.int().tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("classifier_run", type=Path)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--search", choices=["pgd", "apgd"], default="pgd")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--epsilon", type=float, default=8, help="in 255ths")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments, arguments.side)))
        return
    results: dict[str, list[dict[str, object]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            done = subprocess.run([sys.executable, *sys.argv, "--side", side], stdout=subprocess.PIPE, text=True, check=True)
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
    verdicts = [np.array(result["misclassified"], dtype=bool) for side in SIDES for result in results[side]]
    different = int(np.any([verdict != verdicts[0] for verdict in verdicts], axis=0).sum())
    print(
        f"{arguments.search}-{arguments.steps}, {arguments.restarts} restarts, {arguments.epsilon:g}/255,"
        f" {len(verdicts[0])} images, batches of {arguments.batch_size}, {arguments.rounds} rounds,"
        f" {torch.get_num_threads()} threads"
    )
    print(f"{verdicts[0].sum()} images are misclassified; verdicts that differ: {different}")
    print(f"{'':<12}{'seconds':>10}{'peak MiB':>10}")
    for side in SIDES:
        seconds = statistics.median(float(str(result["seconds"])) for result in results[side])
        peak = max(float(str(result["peak_mib"])) for result in results[side])
        print(f"{side:<12}{seconds:>10.1f}{peak:>10.0f}")
    ratios = [
        float(str(one["seconds"])) / float(str(other["seconds"]))
        for one, other in zip(results["without"], results["dropping"], strict=True)
    ]
    print(f"ratio, median of the rounds: {statistics.median(ratios):.1f} x")


if __name__ == "__main__":
    main()
