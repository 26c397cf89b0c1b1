"""Minimum-norm attacks and patches against the libraries that have them, on one two-stage system, by turns in one process.

    foreguard ablate experiment=quickstart run=RUN
    .venv/bin/python benchmarks/threats.py PREPARED CLASSIFIER_RUN SEGMENTER_RUN --images 32 --steps 50 --rounds 3

Time is processor time, from the images to the verdict of the system itself in float32. A library that is not installed is left out
(see ``pgd.py`` for how to install those that the project does not need).

Minimum norm: the same algorithm and as many steps. "Nearer" is the median over images of our distance over theirs, the verdict of
an image whether it is robust at the median of all distances. Patches: descent with as many steps inside the same squares of the
same images. The library runs every square to its end; ours drops an image at its first success.
"""

import argparse
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.attacks.acceleration import copy_to_search
from pipeline.attacks.allocator import keep_freed_pages
from pipeline.attacks.measurements import MinimumNorm
from pipeline.attacks.measuring import Donors, MeasuredBatch
from pipeline.attacks.norms import length
from pipeline.attacks.patch_attack import PatchAttack, patch_side
from pipeline.attacks.patches import allowed_corners, patch_masks, promising_corners
from pipeline.attacks.runner import run_attack
from pipeline.attacks.start import AttackBatch
from pipeline.attacks.threat import Norm, ThreatModel
from pipeline.attacks.tracker import verdict
from pipeline.attacks.two_stage import SystemObjective
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import read_rows
from pipeline.evaluation.chunks import attack_batch, choose_rows
from pipeline.evaluation.loading import load_from_runs
from pipeline.masks.context import MaskContext
from pipeline.system import attacked

CPU = torch.device("cpu")
Side = Callable[[AttackBatch], Tensor]
"""A batch to one value an image: a distance (infinite where nothing was found), or 1 where a patch was found and else 0."""


def our_distances(batch: AttackBatch, norm: Norm, steps: int) -> Side:
    copy = copy_to_search(batch.system, batch.images, batch.context)  # once for an evaluation, so not timed

    def side(batch: AttackBatch) -> Tensor:
        context = batch.context
        assert context is not None
        none = Donors(images=batch.images, masks=batch.images[:, :1], found=batch.labels < 0)
        measured = MeasuredBatch(
            system=batch.system,
            images=batch.images,
            labels=batch.labels,
            context=context,
            seeds=batch.seeds,
            donors=lambda _: none,
            copy=copy,
        )
        spec = MinimumNorm(norm=norm, num_steps=steps)
        return spec.observe(measured, *spec.conditions()).values

    return side


def distances_of(batch: AttackBatch, points: Tensor, norm: Norm) -> Tensor:
    wrong = verdict(batch.system, points, batch.labels, batch.context).misclassified
    return torch.where(wrong, length(points.double() - batch.images.double(), norm), torch.inf)


def foolbox_distances(_: AttackBatch, norm: Norm, steps: int) -> Side:
    import foolbox

    search = {"linf": foolbox.attacks.LInfFMNAttack, "l2": foolbox.attacks.L2FMNAttack, "l1": foolbox.attacks.L1FMNAttack}[norm]

    def side(batch: AttackBatch) -> Tensor:
        assert isinstance(batch.system, nn.Module)
        # foolbox warns of a module in training mode; ours is attacked in eval mode in any case
        model = foolbox.PyTorchModel(batch.system.eval(), bounds=(0, 1), device="cpu")
        return distances_of(batch, search(steps=steps).run(model, batch.images, batch.labels), norm)

    return side


def adversarial_library_distances(_: AttackBatch, norm: Norm, steps: int) -> Side:
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # its plotting package, of which the attack uses nothing
    from adv_lib.attacks import fmn

    def side(batch: AttackBatch) -> Tensor:
        points = fmn(batch.system, batch.images, batch.labels, norm={"linf": torch.inf, "l2": 2, "l1": 1}[norm], steps=steps)
        return distances_of(batch, points, norm)

    return side


def our_patches(batch: AttackBatch, share: float, places: int, steps: int) -> Side:
    copy = copy_to_search(batch.system, batch.images, batch.context)

    def side(batch: AttackBatch) -> Tensor:
        spec = PatchAttack(num_promising=places, num_random=0, num_steps=steps)
        threat = ThreatModel(norm="patch", epsilons=(share,))
        return run_attack("patch", spec, batch, threat=threat, epsilon=share, run_seed=0, copy=copy).misclassified.double()

    return side


def art_patches(_: AttackBatch, share: float, places: int, steps: int) -> Side:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    def side(batch: AttackBatch) -> Tensor:
        shape = (batch.images.shape[2], batch.images.shape[3])
        height = patch_side(share, *shape)
        allowed = allowed_corners(height, shape, None, len(batch))
        climbed = SystemObjective(system=batch.system, labels=batch.labels, context=batch.context)
        found = torch.zeros(len(batch), dtype=torch.bool)
        assert isinstance(batch.system, nn.Module)
        classes = batch.system(batch.images[:1]).shape[1]
        wrapped = PyTorchClassifier(
            model=batch.system,
            loss=nn.CrossEntropyLoss(),
            input_shape=(3, *shape),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        search = ProjectedGradientDescentPyTorch(
            wrapped, eps=1.0, eps_step=2.5 / steps, max_iter=steps, num_random_init=0, batch_size=len(batch), verbose=False
        )
        for rank in range(places):
            with attacked(batch.system):
                corners = promising_corners(climbed, batch.images, allowed, side=height, rank=rank)
            mask = patch_masks(corners, height, shape).expand_as(batch.images).numpy().astype(np.float32)
            points = search.generate(batch.images.numpy(), y=batch.labels.numpy(), mask=mask)
            found |= verdict(batch.system, torch.from_numpy(points), batch.labels, batch.context).misclassified
        return found.double()

    return side


def compare(title: str, sides: dict[str, Callable[[], Side]], batch: AttackBatch, rounds: int, *, distances: bool) -> None:
    """Print one table: ours first, every library by turns with it."""
    built: dict[str, Side] = {}
    for name, build in sides.items():
        try:
            built[name] = build()
        except ImportError as error:
            print(f"{title}: {name} left out: {error}")
    seconds: dict[str, list[float]] = {name: [] for name in built}
    values: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, side in built.items():
            began = time.process_time()
            values[name] = side(batch)
            seconds[name].append(time.process_time() - began)
    ours = values["ours"]
    for name in built:
        ratio = statistics.median(their / own for their, own in zip(seconds[name], seconds["ours"], strict=True))
        agree = _agreement(ours, values[name], distances=distances)
        print(f"{title:<28}{name:<22}{statistics.median(seconds[name]):>8.2f} s{ratio:>7.2f} x   {agree}", flush=True)


def _agreement(ours: Tensor, theirs: Tensor, *, distances: bool) -> str:
    if not distances:
        return f"misclassified {int(theirs.sum())}, same verdict {int((ours == theirs).sum())} of {len(ours)}"
    both = (ours.isfinite() & theirs.isfinite()) & (theirs > 0)
    epsilon = float(torch.cat([ours, theirs]).median())
    same = int(((ours > epsilon) == (theirs > epsilon)).sum())
    nearer = float((ours[both] / theirs[both]).median()) if bool(both.any()) else float("nan")
    return f"found {int(theirs.isfinite().sum())}, nearer {nearer:.3f}, same verdict {same} of {len(ours)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("classifier_run", type=Path)
    parser.add_argument("segmenter_run", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.05, help="of the image that the patch covers")
    parser.add_argument("--places", type=int, default=4)
    parser.add_argument("--norms", nargs="*", default=["linf", "l2", "l1"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_pages()
    dataset = open_prepared(arguments.prepared, verify=False)
    loaded = load_from_runs(
        classifier_run=arguments.classifier_run,
        segmenter_run=arguments.segmenter_run,
        masks={"source": "learned"},
        dataset=dataset,
        allow_other_data=False,
        device=CPU,
    )
    read = read_rows(dataset, choose_rows(dataset, "test", arguments.images))
    context = MaskContext(oracle_masks=read.masks, substitutes=read.substitutes, sample_seeds=read.seeds)
    batch = attack_batch(loaded.system, read.images, read.labels, context, guides=None, batch_size=arguments.images)
    for norm in arguments.norms:
        libraries = {"ours": our_distances, "foolbox": foolbox_distances, "adversarial-library": adversarial_library_distances}
        sides = {name: (lambda build=build, norm=norm: build(batch, norm, arguments.steps)) for name, build in libraries.items()}
        compare(f"fast minimum norm, {norm}", sides, batch, arguments.rounds, distances=True)
    patches = {"ours": our_patches, "ART": art_patches}
    settings = (arguments.share, arguments.places, arguments.steps)
    sides = {name: (lambda build=build: build(batch, *settings)) for name, build in patches.items()}
    compare("patch in the same squares", sides, batch, arguments.rounds, distances=False)


if __name__ == "__main__":
    main()
