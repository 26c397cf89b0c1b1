"""A small evaluation, for tests in this process and in ones that are killed:  python small.py DIRECTORY."""

import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from pipeline.attacks.outside import SquareAttack
from pipeline.attacks.specs import ClassAttack, ClassLoss, MaskAttack, MaskGoal
from pipeline.attacks.suite import AttackSuite
from pipeline.attacks.threat import ThreatModel
from pipeline.data.dataset import PreparedDataset
from pipeline.evaluation.evaluator import EvaluationRun, attack_images
from pipeline.evaluation.records import RecordStore
from pipeline.masks.config import MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import System, TwoStage, clean_context

SIDE, CLASSES, IMAGES, WRONG = 12, 4, 20, 3
EPSILONS = (0.0, 0.004, 0.01, 0.03)
ATTACKS = {
    "pgd": ClassAttack(search="pgd", loss=ClassLoss.MARGIN, num_steps=3, restarts=2),
    "apgd": ClassAttack(search="apgd", num_steps=4),
    "collapse": MaskAttack(goal=MaskGoal.COLLAPSE, loss=ClassLoss.MARGIN, num_steps=3),
}
SQUARE = {"square": SquareAttack(num_queries=20)}


def system(source: MaskSource = MaskSource.LEARNED) -> TwoStage:
    torch.manual_seed(0)
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 1, 3, padding=1))
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Softplus(), nn.Conv2d(8, 8, 3, stride=2), nn.Softplus(), nn.Flatten())
    network = nn.Sequential(body, nn.Linear(8 * 25, CLASSES))
    joined = TwoStage(network, masks=MaskConfig(source=source), segmenter=segmenter).eval()
    images, context = pictures()
    with torch.no_grad():
        network[1].bias -= joined(images, joined.freeze(images, context)).mean(dim=0)  # so that all classes occur
    return joined


def pictures() -> tuple[Tensor, MaskContext]:
    random = np.random.default_rng(1)
    stored = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    images = torch.from_numpy(stored).permute(0, 3, 1, 2).float() / 255
    masks = torch.zeros(IMAGES, 1, SIDE, SIDE)
    masks[:, :, 3:9, 2:10] = 1
    return images, MaskContext(oracle_masks=masks, substitutes=masks.roll(2, dims=2), sample_seeds=torch.arange(IMAGES))


def dataset(joined: System) -> PreparedDataset:
    """Labels are what the system says, but for the first few, which are wrong."""
    images, context = pictures()
    with torch.no_grad():
        labels = joined(images, clean_context(joined, images, context)).argmax(dim=1).numpy()
    labels[:WRONG] = (labels[:WRONG] + 1) % CLASSES
    return PreparedDataset(
        path=Path("nowhere"),
        name="small",
        classes=tuple("abcd"),
        image_size=SIDE,
        fingerprint="f" * 64,
        mean=(0.5, 0.5, 0.5),
        recipe={},
        images=(images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy(),
        masks=(context.oracle_masks[:, 0] * 255).to(torch.uint8).numpy(),
        labels=labels,
        substitutes=lambda rows: (context.substitutes[rows, 0] * 255).to(torch.uint8).numpy(),
        samples=pl.DataFrame(
            {
                "sample_id": [f"s{i:02d}" for i in range(IMAGES)],
                "group": [f"g{i // 2:02d}" for i in range(IMAGES)],
                "split": ["test"] * IMAGES,
            }
        ),
    )


def evaluation_run(
    source: MaskSource = MaskSource.LEARNED,
    *,
    attacks: dict[str, object] | None = None,
    measurements: dict[str, object] | None = None,
    epsilons: tuple[float, ...] = EPSILONS,
    batch_size: int = 8,
    chunk_size: int = 11,
    attack_all: bool = False,
    save_images: bool = False,
    precision: str = "float32",
    joined: System | None = None,
) -> EvaluationRun:
    joined = joined or system(source)
    return EvaluationRun(
        system=joined,
        system_id="small",
        dataset=dataset(joined),
        rows=np.arange(IMAGES),
        suite=AttackSuite(threat=ThreatModel(epsilons=epsilons), attacks=attacks or ATTACKS, measurements=measurements or {}),
        seed=3,
        batch_size=batch_size,
        chunk_size=chunk_size,
        attack_all=attack_all,
        save_images=save_images,
        precision=precision,
    )


def main(directory: str) -> None:
    torch.set_num_threads(1)
    store = RecordStore(Path(directory))
    print("begun", flush=True)

    def advance(finished: int) -> None:
        print(f"finished {finished}", flush=True)
        time.sleep(0.05)  # so that the signal can fall between two parts as well as inside one

    attack_images(evaluation_run(), store, device=torch.device("cpu"), advance=advance)


if __name__ == "__main__":
    main(sys.argv[1])
