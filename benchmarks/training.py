"""What an adversarial training step costs: over the bare passes it contains, and against the field's common recipe.

    .venv/bin/python benchmarks/training.py [--model small_resnet|resnet18] [--size 32] [--batch 64] [--steps 7] [--rounds 5]

Sides, all of them on the same weights, images and random starts, one after the other in every round:

- recipe: the loop as it is commonly written: contiguous layout, the attack fills the parameters' gradients as well and drops them;
- recipe, frozen / channels_last / compiled: the recipe with one change each, so that each one's worth is seen alone;
- ours: ``pipeline.training.losses.adversarial`` with backward pass and optimizer step, as the engine runs it;
- bare: the passes that such a step contains and nothing else, in the layout of ours: ``steps`` x (forward + input gradient) of the
  frozen network in eval mode, one forward and backward pass in train mode, one optimizer step.

Time is processor time, which other programs on the machine disturb less than the clock on the wall; use one thread, or the time of
waiting threads is counted too: OMP_NUM_THREADS=1. ``loss`` is the mean adversarial loss of the first step of each side: the same
to rounding, or the comparison is void.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier.config import ClassifierConfig
from classifier.model import build_classifier
from pipeline.attacks.config import PgdConfig
from pipeline.attacks.norms import linf_ball
from pipeline.data.loader import Batch
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.randomness import derive_seeds
from pipeline.system import attacked
from pipeline.training.losses import adversarial
from pipeline.training.tasks import bind_classifier

EPSILON, STEP = 8 / 255, 2 / 255


def make_batch(size: int, batch: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator)
    return Batch(
        images=images,
        masks=torch.ones(batch, 1, size, size),
        labels=torch.randint(10, (batch,), generator=generator),
        indices=torch.arange(batch),
        seeds=torch.arange(batch),
    )


def random_starts(batch: Batch) -> Tensor:
    """Where our attack begins (the first restart of its seeds)."""
    return linf_ball(batch.images, EPSILON).random_points(derive_seeds(batch.seeds, 0))


class Side:
    """One way to make a training step; ``step`` returns its mean loss."""

    def __init__(self, model: str, batch: Batch, num_steps: int, *, channels_last: bool) -> None:
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module = build_classifier(ClassifierConfig(architecture=model), num_classes=10, seed=0).to(memory_format=self.layout)
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
    def __init__(self, *arguments: object, **options: bool) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        masks = MaskConfig(source=MaskSource.NONE)
        self.stage = bind_classifier(self.module, masks=masks, segmenter=None, mean_colour=(0.5, 0.5, 0.5))
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
        return self.learn(adversarial(self.stage, self.laid_out, attack=self.attack, seeds=self.batch.seeds))


class Bare(Side):
    def step(self) -> float:
        labels = self.batch.labels
        with attacked(self.module):
            for _ in range(self.num_steps):
                leaf = self.start.detach().requires_grad_()
                torch.autograd.grad(functional.cross_entropy(self.module(leaf), labels, reduction="sum"), leaf)
        self.module.train()
        return self.learn(functional.cross_entropy(self.module(self.images), labels, reduction="none"))


def seconds(work: Callable[[], float]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, whose first step takes minutes")
    arguments = parser.parse_args()
    batch = make_batch(arguments.size, arguments.batch)
    common = (arguments.model, batch, arguments.steps)
    sides: dict[str, Side] = {
        "recipe": Recipe(*common, channels_last=False),
        "recipe, frozen": Recipe(*common, channels_last=False, frozen=True),
        "recipe, channels_last": Recipe(*common, channels_last=True),
        "ours": Ours(*common, channels_last=True),
        "bare": Bare(*common, channels_last=True),
    }
    if arguments.compile:
        sides["recipe, compiled"] = Recipe(*common, channels_last=False, compiled=True)
    losses = {name: side.step() for name, side in sides.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            taken[name].append(seconds(side.step))
    print(
        f"{arguments.model}, {arguments.size} px, batch {arguments.batch}, PGD-{arguments.steps}, {arguments.rounds} rounds, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| side | ms/step | samples/s | speed against the recipe | time over bare | loss |\n|---|---:|---:|---:|---:|---:|")
    for name, times in taken.items():
        faster = statistics.median(one / other for one, other in zip(taken["recipe"], times, strict=True))
        over = statistics.median(one / other for one, other in zip(times, taken["bare"], strict=True))
        median = statistics.median(times)
        loss = "" if name == "bare" else f"{losses[name]:.6f}"
        print(f"| {name} | {median * 1000:.1f} | {arguments.batch / median:.0f} | {faster:.2f} | {over:.3f} | {loss} |")


if __name__ == "__main__":
    main()
