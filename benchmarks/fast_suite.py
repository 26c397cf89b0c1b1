"""The suite ``fast``, which attacks towards three classes, against what stood in the place of that attack before: two untargeted
runs, then ten steps towards each of five classes.

    foreguard prepare data=synthetic prepared=SET data.num_train=1500 data.num_classes=6
    foreguard train-classifier prepared=SET run=CLS objective=adversarial trainer.epochs=6
    .venv/bin/python benchmarks/fast_suite.py SET CLS

All sides evaluate the same images from nothing, in this process, by turns; time is processor time. The seed of the attacks is that
of the round. Beside the seconds stand the images that each side leaves standing: the lower figure is the truer one.
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
BEFORE: dict[str, dict[str, AttackSpec]] = {
    "untargeted": {
        "apgd-margin": ClassAttack(loss=ClassLoss.MARGIN, num_steps=20),
        "apgd-ce": ClassAttack(loss=ClassLoss.CROSS_ENTROPY, num_steps=20),
    },
    "five classes": {"apgd-targeted": ClassAttack(loss=ClassLoss.MARGIN, num_targets=5, num_steps=10)},
    "now": {},
}
"""What stood in the place of the targeted attack."""


def with_instead(instead: dict[str, AttackSpec]) -> dict[str, AttackSpec]:
    """The suite as it is, or with other attacks where the targeted one is."""
    attacks: dict[str, AttackSpec] = {}
    for name, spec in suites()["fast"].attacks.items():
        attacks |= instead if instead and name == "apgd-targeted" else {name: spec}
    return attacks


def measure(run: EvaluationRun, attacks: dict[str, AttackSpec], epsilon: float, seed: int) -> tuple[float, int]:
    """Processor seconds of one evaluation, and the images that stand."""
    run = replace(run, seed=seed, suite=AttackSuite(threat=ThreatModel(epsilons=(epsilon,)), attacks=attacks))
    run = replace(run, suite=applicable(run.suite, run.batch(run.rows[:1], CPU))[0])
    store, began = MemoryStore(), time.process_time()
    attack_images(run, store, device=CPU, advance=lambda _: None)
    return time.process_time() - began, int(robust_images(store.records(), epsilon)["robust"].sum())


def compare(run: EvaluationRun, epsilon: float, rounds: int) -> None:
    """Print all sides, round by round, and the medians of the ratios to the first."""
    ratios: dict[str, list[float]] = {name: [] for name in BEFORE}
    print(f"{len(run.rows)} images, {255 * epsilon:g}/255")
    for seed in range(rounds):
        first = None
        for name, instead in BEFORE.items():
            seconds, stand = measure(run, with_instead(instead), epsilon, seed)
            first = first or seconds
            ratios[name].append(seconds / first)
            print(f"round {seed}  {name:<14}{stand:>5} stand {seconds:>8.1f} s {ratios[name][-1]:>6.2f}", flush=True)
    print("ratios, medians: " + ", ".join(f"{name} {statistics.median(found):.2f}" for name, found in ratios.items()))


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
