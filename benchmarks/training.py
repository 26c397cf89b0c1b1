"""What an adversarial training step costs: over the bare passes it contains, and against the field's common recipe.

    .venv/bin/python benchmarks/training.py [--model small_resnet|resnet18|tf_efficientnet_lite0] [--size 32] [--steps 7]
    .venv/bin/python benchmarks/training.py --seeds 3           # what attacks in bfloat16 cost in robust accuracy

Sides, all of them on the same weights, images and random starts, one after the other in every round:

- recipe: the loop as it is commonly written: contiguous layout, the attack fills the parameters' gradients as well and drops them;
- recipe, frozen / channels_last / compiled: the recipe with one change each, so that each one's worth is seen alone;
- ours: ``AdversarialConfig.losses`` with backward pass and optimizer step, as the engine runs it;
- ours, bfloat16: the same with ``trainer.attack_precision=bfloat16``; training passes too: and ``trainer.precision=bf16-mixed``;
- bare: the passes that such a step contains and nothing else, in the layout of ours: ``steps`` x (forward + input gradient) of the
  frozen network in eval mode, one forward and backward pass in train mode, one optimizer step.

Time is processor time, which other programs on the machine disturb less than the clock on the wall; use one thread, or the time of
waiting threads is counted too: OMP_NUM_THREADS=1. With ``--device cuda`` it is wall-clock time, and convolutions may use TF32.
``loss`` is the mean adversarial loss of the first step of each side: the same
to rounding, or the comparison is void.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.attacks.acceleration import FollowingCopies
from pipeline.attacks.config import PgdConfig
from pipeline.attacks.norms import ball_of
from pipeline.data.builder import write_prepared
from pipeline.data.dataset import open_prepared
from pipeline.data.loader import Batch, Loader
from pipeline.data.synthetic import source as synthetic
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.randomness import derive_seeds
from pipeline.runs.checkpoints import load_classifier
from pipeline.system import attacked
from pipeline.training.commands import train_classifier
from pipeline.training.config import TrainClassifierConfig, TrainerConfig
from pipeline.training.losses import worst_case_images
from pipeline.training.objectives import AdversarialConfig, RobustValidationConfig
from pipeline.training.tasks import bind_classifier

EPSILON, STEP = 8 / 255, 2 / 255


def make_batch(size: int, batch: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator)
    return Batch(
        images=images.to(device),
        masks=torch.ones(batch, 1, size, size, device=device),
        labels=torch.randint(10, (batch,), generator=generator).to(device),
        indices=torch.arange(batch, device=device),
        seeds=torch.arange(batch, device=device),
    )


def random_starts(batch: Batch) -> Tensor:
    """Where our attack begins (the first restart of its seeds)."""
    return ball_of("linf", batch.images, EPSILON).random_points(derive_seeds(batch.seeds, 0))


def _architecture(model: str) -> ClassifierConfig:
    resnet = model in ("small_resnet", "resnet18")
    return ClassifierConfig(architecture=model) if resnet else ClassifierConfig(architecture="timm", name=model)


class Side:
    """One way to make a training step; ``step`` returns its mean loss."""

    def __init__(self, model: str, batch: Batch, num_steps: int, *, channels_last: bool) -> None:
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        module = build_classifier(_architecture(model), num_classes=10, seed=0)
        self.module = module.to(batch.images.device, memory_format=self.layout)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=1e-4, momentum=0.9)
        self.images = batch.images.contiguous(memory_format=self.layout)
        self.start = random_starts(batch).contiguous(memory_format=self.layout)
        self.batch, self.num_steps = batch, num_steps

    def learn(self, losses: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = losses.mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def step(self) -> float:
        raise NotImplementedError


class Recipe(Side):
    """Projected gradient descent and a training step as tutorials and papers' repositories write them."""

    def __init__(self, *arguments: object, frozen: bool = False, compiled: bool = False, **options: bool) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.frozen = frozen
        self.network: nn.Module = torch.compile(self.module) if compiled else self.module  # type: ignore[assignment]

    def step(self) -> float:
        images, labels = self.images, self.batch.labels
        self.network.eval()
        if self.frozen:
            self.module.requires_grad_(False)
        attacked_images = self.start.clone()
        for _ in range(self.num_steps):
            attacked_images.requires_grad_(True)
            loss = functional.cross_entropy(self.network(attacked_images), labels, reduction="sum")
            # .backward() and not autograd.grad: the common recipe fills every parameter's gradient on the way
            attacked_images.grad = None
            loss.backward()
            with torch.no_grad():
                moved = attacked_images + STEP * attacked_images.grad.sign()
                attacked_images = (images + (moved - images).clamp(-EPSILON, EPSILON)).clamp(0, 1)
        if self.frozen:
            self.module.requires_grad_(True)
        self.network.train()
        return self.learn(functional.cross_entropy(self.network(attacked_images.detach()), labels, reduction="none"))


class Ours(Side):
    def __init__(self, *arguments: object, bfloat16: bool = False, mixed: bool = False, **options: bool) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        masks = MaskConfig(source=MaskSource.NONE)
        stage = bind_classifier(self.module, masks=masks, segmenter=None, mean_color=(0.5, 0.5, 0.5))
        self.stage = replace(stage, copies=FollowingCopies(stage.network) if bfloat16 else None)
        self.mixed = mixed
        self.attack = PgdConfig(epsilon=EPSILON, step_size=STEP, num_steps=self.num_steps)
        self.laid_out = Batch(
            images=self.images,
            masks=self.batch.masks,
            labels=self.batch.labels,
            indices=self.batch.indices,
            seeds=self.batch.seeds,
        )

    def step(self) -> float:
        self.stage.network.train()
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.mixed):
            losses = AdversarialConfig(attack=self.attack).losses(self.stage, self.laid_out, self.batch.seeds)
        return self.learn(losses)


class Bare(Side):
    def step(self) -> float:
        labels = self.batch.labels
        with attacked(self.module):
            for _ in range(self.num_steps):
                leaf = self.start.detach().requires_grad_()
                torch.autograd.grad(functional.cross_entropy(self.module(leaf), labels, reduction="sum"), leaf)
        self.module.train()
        return self.learn(functional.cross_entropy(self.module(self.images), labels, reduction="none"))


def seconds(work: Callable[[], float], device: str) -> float:
    """``work`` ends with the loss on the CPU, so nothing of it is left to do on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    started = clock()
    work()
    return clock() - started


def accuracies(num_seeds: int, num_steps: int) -> None:
    """Train small classifiers on synthetic signs under PGD, attack them all with one longer PGD in float32, and print the table."""
    print(f"PGD-{num_steps} in training, PGD-20 in testing, epsilon 8/255\n")
    print("| seed | attack_precision | clean, % | robust, % | seconds |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        prepared = Path(directory) / "prepared"
        source = synthetic.SyntheticConfig(num_train=1500, num_val=150, num_test=1000, num_classes=6)
        write_prepared(synthetic.plan(source), prepared, name="synthetic", image_size=source.image_size, root=None, workers=0)
        for seed in range(num_seeds):
            for precision in ("float32", "bfloat16"):
                run = Path(directory) / f"{precision}-{seed}"
                trainer = TrainerConfig(
                    epochs=6, batch_size=32, lr=4e-3, seed=seed, attack_precision=precision, accelerator="cpu", trackers=()
                )
                attack = PgdConfig(epsilon=EPSILON, step_size=2.5 * EPSILON / num_steps, num_steps=num_steps)
                objective = AdversarialConfig(attack=attack, validation=RobustValidationConfig(max_images=64))
                with contextlib.redirect_stdout(sys.stderr):
                    train_classifier(TrainClassifierConfig(prepared=prepared, run=run, objective=objective, trainer=trainer))
                seconds = pl.read_csv(run / "metrics.csv")["seconds"][-1]
                clean, robust = _accuracy(run, prepared)
                print(f"| {seed} | {precision} | {100 * clean:.1f} | {100 * robust:.1f} | {seconds:.0f} |", flush=True)


def _accuracy(run: Path, prepared: Path) -> tuple[float, float]:
    """On clean test images and on attacked ones."""
    module, _ = load_classifier(run)
    dataset = open_prepared(prepared)
    batches = Loader(dataset, "test", batch_size=100, seed=0, augment=None, shuffle=False, drop_last=False, num_workers=0)
    stage = bind_classifier(module, masks=MaskConfig(source=MaskSource.NONE), segmenter=None, mean_color=(0.5, 0.5, 0.5))
    attack = PgdConfig(epsilon=EPSILON, num_steps=20)
    right = torch.zeros(2)
    for batch in batches.epoch(0):
        attacked_images = worst_case_images(stage, batch, attack=attack, seeds=batch.seeds)
        with torch.no_grad():
            correct = [module(images).argmax(1) == batch.labels for images in (batch.images, attacked_images)]
        right += torch.tensor([correct[0].sum(), (correct[0] & correct[1]).sum()])
    clean, robust = (right / len(dataset.indices("test"))).tolist()
    return clean, robust


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, whose first step takes minutes")
    parser.add_argument("--seeds", type=int, default=0, help="instead train so many classifiers with either precision of attacks")
    arguments = parser.parse_args()
    if arguments.seeds:
        accuracies(arguments.seeds, arguments.steps)
        return
    batch = make_batch(arguments.size, arguments.batch, arguments.device)
    common = (arguments.model, batch, arguments.steps)
    sides: dict[str, Side] = {
        "recipe": Recipe(*common, channels_last=False),
        "recipe, frozen": Recipe(*common, channels_last=False, frozen=True),
        "recipe, channels_last": Recipe(*common, channels_last=True),
        "ours": Ours(*common, channels_last=True),
        "ours, bfloat16": Ours(*common, channels_last=True, bfloat16=True),
        "ours, bfloat16, training passes too": Ours(*common, channels_last=True, bfloat16=True, mixed=True),
        "bare": Bare(*common, channels_last=True),
    }
    if arguments.compile:
        sides["recipe, compiled"] = Recipe(*common, channels_last=False, compiled=True)
    losses = {name: side.step() for name, side in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            taken[name].append(seconds(side.step, arguments.device))
    print(
        f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, PGD-{arguments.steps}, {arguments.rounds} rounds, "
        f"{torch.get_num_threads()} threads on {arguments.device}, torch {torch.__version__}\n"
    )
    print("| side | ms/step | samples/s | speed against the recipe | against ours | time over bare | loss |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, times in taken.items():
        faster = statistics.median(one / other for one, other in zip(taken["recipe"], times, strict=True))
        ours = statistics.median(one / other for one, other in zip(taken["ours"], times, strict=True))
        over = statistics.median(one / other for one, other in zip(times, taken["bare"], strict=True))
        median = statistics.median(times)
        loss = "" if name == "bare" else f"{losses[name]:.6f}"
        print(
            f"| {name} | {median * 1000:.1f} | {arguments.batch / median:.0f} | {faster:.2f} | {ours:.2f} | {over:.3f} | {loss} |"
        )


if __name__ == "__main__":
    main()
