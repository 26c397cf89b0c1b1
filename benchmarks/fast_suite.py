"""The suite ``fast``, which attacks towards five classes, against the same with untargeted restarts in their place, as it once was.

    foreguard prepare data=synthetic prepared=SET data.num_train=1500 data.num_classes=6
    foreguard train-classifier prepared=SET run=CLS objective=adversarial trainer.epochs=6
    .venv/bin/python benchmarks/fast_suite.py SET CLS

Both sides evaluate the same images from nothing, in this process, by turns; time is processor time. The seed of the attacks is that
of the round. Beside the ratio stand the images that each side leaves standing: the lower figure is the truer one.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.attacks.shipped import suites
from pipeline.attacks.specs import AttackSpec, ClassAttack, ClassLoss
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import ThreatModel
from pipeline.data.dataset import open_prepared
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.evaluator import EvaluationRun, applicable, attack_images
from pipeline.evaluation.loading import load_from_runs
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.records import MemoryStore

CPU = torch.device("cpu")
UNTARGETED = {
    "apgd-margin": ClassAttack(loss=ClassLoss.MARGIN, num_steps=20),
    "apgd-ce": ClassAttack(loss=ClassLoss.CROSS_ENTROPY, num_steps=20),
}


def as_it_was(now: dict[str, AttackSpec]) -> dict[str, AttackSpec]:
    """The suite with the two untargeted attacks where the targeted one is."""
    before: dict[str, AttackSpec] = {}
    for name, spec in now.items():
        before |= UNTARGETED if name == "apgd-targeted" else {name: spec}
    return before


def measure(run: EvaluationRun, attacks: dict[str, AttackSpec], epsilon: float, seed: int) -> tuple[float, int]:
    """Processor seconds of one evaluation, and the images that stand."""
    run = replace(run, seed=seed, suite=AttackSuite(threat=ThreatModel(epsilons=(epsilon,)), attacks=attacks))
    run = replace(run, suite=applicable(run, device=CPU)[0])
    store, began = MemoryStore(), time.process_time()
    attack_images(run, store, device=CPU, advance=lambda _: None)
    return time.process_time() - began, int(robust_images(store.records(), epsilon)["robust"].sum())


def compare(run: EvaluationRun, epsilon: float, rounds: int) -> None:
    """Print both sides, round by round, and the median of the ratios."""
    now = dict(suites()["fast"].attacks)
    ratios = []
    print(f"{len(run.rows)} images, {255 * epsilon:g}/255\nround  before: standing, seconds   now: standing, seconds   ratio")
    for seed in range(rounds):
        (before, stood), (after, stands) = (measure(run, side, epsilon, seed) for side in (as_it_was(now), now))
        ratios.append(after / before)
        print(f"{seed:<7}{stood:>16} {before:>8.1f}{stands:>16} {after:>8.1f}{ratios[-1]:>8.2f}", flush=True)
    print(f"ratio, median of the rounds: {statistics.median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("classifier_run", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epsilon", type=float, default=8, help="in 255ths")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    dataset = open_prepared(arguments.prepared, verify=False)
    loaded = load_from_runs(
        classifier_run=arguments.classifier_run,
        segmenter_run=None,
        masks={},
        dataset=dataset,
        allow_other_data=False,
        device=CPU,
    )
    run = EvaluationRun(
        system=loaded.system,
        system_id=loaded.system_id,
        suite=suites()["fast"],
        seed=0,
        batch_size=50,
        attack_all=False,
        save_images=False,
        dataset=dataset,
        rows=choose_rows(dataset, "test", arguments.images),
        chunk_size=256,
    )
    compare(run, arguments.epsilon / 255, arguments.rounds)


if __name__ == "__main__":
    main()
