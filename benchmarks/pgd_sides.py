"""What ``pgd.py`` compares: one system, and the ways to attack it. Not a program."""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier.config import ClassifierConfig
from classifier.losses import cross_entropy
from classifier.model import build_classifier
from pipeline.attacks.acceleration import Precision, attacked_copy
from pipeline.attacks.allocator import keep_freed_pages
from pipeline.attacks.cuda_graphs import Graphed
from pipeline.attacks.objectives import ModelObjective
from pipeline.attacks.pgd import pgd_linf
from pipeline.data.config import SyntheticConfig
from pipeline.data.sample import Sample
from pipeline.data.splits import Split
from pipeline.data.synthetic.source import load
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.system import TwoStage, attacked
from segmenter.config import SegmenterConfig
from segmenter.losses import bce_dice
from segmenter.model import build_segmenter

NUM_CLASSES = 10
GREY = 0.5


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every side does."""

    device: str
    size: int
    batch: int
    steps: int
    epsilon: float
    step_size: float
    state: Path
    """Weights of the trained system."""


Attack = Callable[[Tensor, Tensor], Tensor | None]
"""Images and labels to adversarial images; None from a floor, which finds nothing."""


def images_and_labels(size: int, split: Split, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Synthetic images whose class shows in the outline, so that one or two minutes of training are enough; masks; labels."""
    config = SyntheticConfig(image_size=size, num_classes=NUM_CLASSES, shape_leak=1)
    samples = [sample for sample in load(config, (split, start, stop)) if isinstance(sample, Sample)]
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).float().div(255).contiguous()
    masks = torch.from_numpy(np.stack([sample.mask for sample in samples])).unsqueeze(1).float().div(255)
    return images, masks, torch.tensor([sample.label for sample in samples])


def untrained_system() -> TwoStage:
    segmenter = SegmenterConfig(encoder="resnet18", encoder_depth=5, decoder_channels=(256, 128, 64, 32, 16))
    return TwoStage(
        build_classifier(ClassifierConfig(architecture="resnet18"), num_classes=NUM_CLASSES, seed=0),
        masks=MaskConfig(source=MaskSource.LEARNED),
        segmenter=build_segmenter(segmenter, seed=0),
    )


def train(task: Task, train_steps: int) -> float:
    """Train both stages on clean images, the classifier mostly at half the side; write the weights. Test accuracy of the system."""
    keep_freed_pages()
    system = untrained_system().to(task.device, memory_format=torch.channels_last)
    assert system.segmenter is not None
    full = images_and_labels(task.size, "train", 0, 1000)
    half = images_and_labels(max(32, task.size // 2), "train", 0, 2000)
    segmenter = system.segmenter.requires_grad_(True)

    def mask_loss(images: Tensor, masks: Tensor, _: Tensor) -> Tensor:
        return bce_dice(segmenter(images).float(), masks)

    def class_loss(images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(system.classifier(torch.lerp(torch.full_like(images, GREY), images, masks)).float(), labels)

    _fit(segmenter, mask_loss, full, train_steps // 3, task.device)
    _fit(system.classifier, class_loss, half, train_steps, task.device)
    _fit(system.classifier, class_loss, full, train_steps // 6, task.device)
    torch.save(system.state_dict(), task.state)
    images, _, labels = (part.to(task.device) for part in images_and_labels(task.size, "test", 0, 256))
    with torch.no_grad(), attacked(system):
        right = [
            system(some).argmax(dim=1) == their
            for some, their in zip(images.split(task.batch), labels.split(task.batch), strict=True)
        ]
    return float(torch.cat(right).float().mean())


def _fit(
    stage: nn.Module, loss: Callable[[Tensor, Tensor, Tensor], Tensor], data: tuple[Tensor, Tensor, Tensor], steps: int, device: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    stage.train()
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (32,), generator=generator)
        images, masks, labels = (part[chosen].to(device) for part in data)
        with torch.autocast(device, torch.bfloat16):
            mean = loss(images, masks, labels).mean()
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        schedule.step()
    stage.eval()


def trained_system(task: Task) -> TwoStage:
    """The system as its users have it: eval mode, plain memory layout, parameters that ask for gradients."""
    system = untrained_system()
    system.load_state_dict(torch.load(task.state, weights_only=True))
    return system.eval().requires_grad_(True).to(task.device)


Kind = Literal["floor", "last", "best"]
Launches = Literal["as shipped", "one by one", "compiled"]
"""On a GPU the copy is CUDA graphs; beside it without them, and by torch.compile."""


def ours(task: Task, system: TwoStage, *, kind: Kind, precision: Precision, launches: Launches) -> Attack:
    """PGD on the attacked copy: its last point, or the best point visited; or nothing but the passes that it cannot do without."""
    copy: nn.Module = attacked_copy(system, torch.rand(1, 3, task.size, task.size, device=task.device), precision=precision)
    if launches != "as shipped":
        assert isinstance(copy, TwoStage)
        copy.map_stages(lambda stage: stage.stage if isinstance(stage, Graphed) else stage)
    if launches == "compiled":
        copy = torch.compile(copy)  # type: ignore[assignment]

    def attack(images: Tensor, labels: Tensor) -> Tensor | None:
        if kind == "floor":
            for _ in range(task.steps):
                leaf = images.detach().requires_grad_()
                torch.autograd.grad(cross_entropy(copy(leaf), labels).sum(), leaf)
            return None
        objective = ModelObjective(model=copy, score=cross_entropy, targets=(labels,))
        return pgd_linf(
            objective,
            images,
            epsilon=task.epsilon,
            step_size=task.step_size,
            num_steps=task.steps,
            random_start=False,
            keep_best=kind == "best",
        )

    return attack


def hand_written(task: Task, system: TwoStage) -> Attack:
    def attack(images: Tensor, labels: Tensor) -> Tensor:
        points = images
        for _ in range(task.steps):
            points = points.detach().requires_grad_()
            gradients = torch.autograd.grad(functional.cross_entropy(system(points), labels), points)[0]
            deltas = (points.detach() + task.step_size * gradients.sign() - images).clamp(-task.epsilon, task.epsilon)
            points = (images + deltas).clamp(0, 1)
        return points

    return attack


def torchattacks_pgd(task: Task, system: TwoStage) -> Attack:
    import torchattacks

    attack: Attack = torchattacks.PGD(system, eps=task.epsilon, alpha=task.step_size, steps=task.steps, random_start=False)
    return attack


def foolbox_pgd(task: Task, system: TwoStage) -> Attack:
    import foolbox

    wrapped = foolbox.PyTorchModel(system, bounds=(0, 1), device=task.device)
    search = foolbox.attacks.LinfPGD(abs_stepsize=task.step_size, steps=task.steps, random_start=False)

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        points: Tensor = search.run(wrapped, images, foolbox.criteria.Misclassification(labels), epsilon=task.epsilon)
        return points

    return attack


def art_pgd(task: Task, system: TwoStage) -> Attack:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(
        model=system,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, task.size, task.size),
        nb_classes=NUM_CLASSES,
        clip_values=(0.0, 1.0),
        device_type="gpu" if task.device == "cuda" else "cpu",
    )
    search = ProjectedGradientDescentPyTorch(
        wrapped,
        eps=task.epsilon,
        eps_step=task.step_size,
        max_iter=task.steps,
        num_random_init=0,
        batch_size=task.batch,
        verbose=False,
    )

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        return torch.from_numpy(search.generate(images.cpu().numpy(), y=labels.cpu().numpy())).to(task.device)

    return attack


def adversarial_library_pgd(task: Task, system: TwoStage) -> Attack:
    # Its plotting package, of which the attack uses nothing, no longer builds; an empty one lets the library be imported.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    from adv_lib.attacks import pgd_linf as search

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        points: Tensor = search(
            system, images, labels, task.epsilon, steps=task.steps, random_init=False, absolute_step_size=task.step_size
        )
        return points

    return attack


Group = Literal["floor", "ours", "library", "hand-written"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to attack the system."""

    group: Group
    build: Callable[..., Attack]
    arguments: dict[str, Any]
    floor: str | None = None
    """The floor that its overhead is measured against."""
    keeps_pages: bool = False
    """Whether its process asks the C library to keep freed pages (on the CPU)."""


def _our_sides(precision: Precision, name: str, launches: Launches = "as shipped") -> dict[str, Side]:
    """The floor of one precision, and ours above it."""
    groups: dict[Kind, Group] = {"floor": "floor", "last": "ours", "best": "ours"}
    names: dict[Kind, str] = {"floor": f"floor, {name}", "last": f"ours, {name}, last point", "best": f"ours, {name}, best point"}
    return {
        names[kind]: Side(
            group=groups[kind],
            build=ours,
            arguments={"kind": kind, "precision": precision, "launches": launches},
            floor=None if kind == "floor" else names["floor"],
            keeps_pages=True,
        )
        for kind in names
    }


def sides(device: str) -> dict[str, Side]:
    """All of them, in the order of a round. Compiling is tried on a GPU only: on the CPU it gains nothing."""
    result = _our_sides("float32", "float32") | _our_sides("bf16", "bf16")
    if device == "cuda":
        for launches in ("one by one", "compiled"):
            for precision in get_args(Precision):
                result |= _our_sides(precision, f"{launches} {precision}", launches)
    result["hand-written loop"] = Side(group="hand-written", build=hand_written, arguments={})
    if device == "cpu":
        result["hand-written loop, freed pages kept"] = Side(
            group="hand-written", build=hand_written, arguments={}, keeps_pages=True
        )
    for name, build in (
        ("torchattacks", torchattacks_pgd),
        ("foolbox", foolbox_pgd),
        ("ART", art_pgd),
        ("adversarial-library", adversarial_library_pgd),
    ):
        result[name] = Side(group="library", build=build, arguments={})
    return result
