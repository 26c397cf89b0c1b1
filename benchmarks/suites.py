"""Whole suites on a trained system: ``fast`` against a loop by hand, ``standard`` against its attacks one by one.

    python benchmarks/suites.py fast SET SYSTEM --epsilon 8/255
    python benchmarks/suites.py standard SET SYSTEM --images 8

``SET`` is a prepared data set, ``SYSTEM`` what ``load_system`` takes (an evaluation of an ablation, an export, ``zoo:NAME``);
``fast`` wants one with learned masks. Both sides attack the same images, take turns in this process, and are timed from the
images to the verdict of every image; time is processor time.

``fast``: the attacks of the suite as one writes them without this project: adversarial-library's PGD on the margin and its targeted
Auto-PGD, as many steps and targets, and for the two attacks on the mask, which no library has, the loop of PGD by hand. The system
is as its users have it. ``standard``: each attack as an evaluation of its own, which knows nothing of what the others felled, of
their clean scores, nor of what was found at smaller epsilons; "one by one" drops an image as soon as it falls, "to the
end" attacks every image that is right clean to the last step, as most libraries do.
"""

import argparse
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from pipeline import load_system
from pipeline.attacks.acceleration import Precision
from pipeline.attacks.objectives import margin
from pipeline.attacks.shipped import suites
from pipeline.attacks.suite import AttackSuite
from pipeline.config import parse_number
from pipeline.data.dataset import PreparedDataset, open_prepared
from pipeline.data.loader import read_rows
from pipeline.errors import ConfigError
from pipeline.evaluation.chunks import choose_rows
from pipeline.evaluation.evaluate import guide_masks
from pipeline.evaluation.evaluator import EvaluationRun, applicable, attack_images
from pipeline.evaluation.metrics import robust_images
from pipeline.evaluation.records import MemoryStore
from pipeline.system import TwoStage

CPU = torch.device("cpu")
Standing = set[str]
"""Ids of the images that no attack turned."""
Score = Callable[[Tensor], Tensor]


def all_at_once(
    suite: AttackSuite,
    system: TwoStage,
    dataset: PreparedDataset,
    images: int,
    *,
    precision: Precision = "float32",
    attack_all: bool = False,
) -> Standing:
    """The suite as the command runs it, at its largest epsilon."""
    run = EvaluationRun(
        system=system,
        system_id="",
        suite=suite,
        seed=0,
        batch_size=64,
        attack_all=attack_all,
        save_images=False,
        guides=guide_masks(dataset, CPU),
        precision=precision,
        dataset=dataset,
        rows=choose_rows(dataset, "test", images),
        chunk_size=256,
    )
    run = replace(run, suite=applicable(run.suite, run.batch(run.rows[:1], CPU))[0])
    store = MemoryStore()
    attack_images(run, store, device=CPU, advance=lambda _: None)
    return set(robust_images(store.records(), suite.threat.epsilons[-1]).filter("robust")["sample_id"])


def one_by_one(
    suite: AttackSuite, system: TwoStage, dataset: PreparedDataset, images: int, *, attack_all: bool = False
) -> Standing:
    """Every attack of the suite that says something about the system, at every epsilon from nothing."""
    left: list[Standing] = []
    for name, spec in suite.attacks.items():
        for epsilon in suite.threat.epsilons:
            alone = replace(suite, threat=replace(suite.threat, epsilons=(epsilon,)), attacks={name: spec})
            try:
                left.append(all_at_once(alone, system, dataset, images, attack_all=attack_all))
            except ConfigError:  # says nothing about this system
                break
    return set.intersection(*left)


def by_hand(suite: AttackSuite, system: TwoStage, dataset: PreparedDataset, images: int) -> Standing:
    """The attacks of ``fast`` on a system with learned masks, each on every image, in batches of 64."""
    rows = choose_rows(dataset, "test", images)
    read = read_rows(dataset, rows)
    # As the loop by hand would find it: its user has called eval(), and nobody has frozen the weights.
    system.eval().requires_grad_(True)
    fooled = torch.cat(
        [
            _fooled(system, *parts, suite.threat.epsilons[-1])
            for parts in zip(read.images.split(64), read.labels.split(64), read.masks.split(64), strict=True)
        ]
    )
    ids = dataset.samples["sample_id"].gather(rows).to_list()
    return {name for name, falls in zip(ids, fooled.tolist(), strict=True) if not falls}


def _fooled(system: TwoStage, images: Tensor, labels: Tensor, oracle: Tensor, epsilon: float) -> Tensor:
    # Its plotting package, of which the attacks use nothing, no longer builds; an empty one lets the library be imported.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    from adv_lib.attacks import apgd_targeted, pgd_linf

    def missed(points: Tensor) -> Tensor:
        return margin(system(points), labels)

    def likeness(points: Tensor, target: Tensor) -> Tensor:
        logits = system.mask_logits(points)
        return -functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2, 3))

    def joint(points: Tensor) -> Tensor:
        return missed(points) + likeness(points, 1 - oracle)

    collapsed = _climbed(lambda points: likeness(points, torch.zeros_like(oracle)), images, epsilon, steps=10)
    found = [
        images,
        pgd_linf(system, images, labels, epsilon, steps=20, loss_function="dl", absolute_step_size=epsilon / 8),
        apgd_targeted(system, images, labels, epsilon, norm=float("inf"), n_iter=20, num_targets=3),
        _climbed(missed, images, epsilon, steps=10, start=collapsed),
        _climbed(joint, images, epsilon, steps=20),
    ]
    with torch.no_grad():
        return torch.stack([system(points).argmax(dim=1) != labels for points in found]).any(dim=0)


def _climbed(score: Score, images: Tensor, epsilon: float, *, steps: int, start: Tensor | None = None) -> Tensor:
    points = images + torch.empty_like(images).uniform_(-epsilon, epsilon) if start is None else start
    for _ in range(steps):
        points = points.clamp(0, 1).detach().requires_grad_()
        gradients = torch.autograd.grad(score(points).sum(), points)[0]
        moved = points.detach() + 2.5 * epsilon / steps * gradients.sign() - images
        points = images + moved.clamp(-epsilon, epsilon)
    return points.clamp(0, 1).detach()


def compare(sides: dict[str, Callable[[], Standing]], rounds: int) -> None:
    """Print every round, and for each side the median of the rounds' ratios of the last side to it."""
    ratios: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        seconds, left = [], []
        for side in sides.values():
            began = time.process_time()
            left.append(side())
            seconds.append(time.process_time() - began)
        for name, spent, ids in zip(sides, seconds, left, strict=True):
            ratios[name].append(seconds[-1] / spent)
            print(f"round {number}: {name} {spent:.1f} s, {len(ids)} stand, {len(ids ^ left[0])} verdicts differ", flush=True)
    for name, values in ratios.items():
        print(f"{list(sides)[-1]} / {name}: {statistics.median(values):.2f} (load {psutil.getloadavg()[0]:.0f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["fast", "standard"])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("system")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--epsilon", nargs="+", default=["8/255"], help="rising; the verdict is that at the last")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    dataset = open_prepared(arguments.prepared, verify=False)
    system = load_system(arguments.system)
    named = suites()[arguments.suite]
    epsilons = tuple(float(parse_number(text)) for text in arguments.epsilon)
    given = (replace(named, threat=replace(named.threat, epsilons=epsilons)), system, dataset, arguments.images)
    sides: dict[str, Callable[[], Standing]] = {"the suite": lambda: all_at_once(*given)}
    if arguments.suite == "fast":
        sides |= {"the suite in bf16": lambda: all_at_once(*given, precision="bf16"), "by hand": lambda: by_hand(*given)}
    else:
        sides |= {"one by one": lambda: one_by_one(*given), "to the end": lambda: one_by_one(*given, attack_all=True)}
    compare(sides, arguments.rounds)


if __name__ == "__main__":
    main()
