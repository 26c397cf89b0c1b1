"""Two-stage systems of a few hundred weights, and batches for them."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from pipeline.masks.config import Fill, MaskConfig, MaskSource
from pipeline.masks.context import MaskContext
from pipeline.system import TwoStage

SIDE = 16


@pytest.fixture
def make_system() -> Callable[..., TwoStage]:
    """Random stages, the same for the same seed. Deep enough to be curved, shallow enough to be attacked in milliseconds."""

    def make(
        source: MaskSource = MaskSource.LEARNED,
        fill: Fill = Fill.GREY,
        *,
        num_classes: int = 5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        surrogate: str = "identity",
    ) -> TwoStage:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            classifier = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(128, num_classes)
            )
            segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1))
            sample = torch.rand(64, 3, SIDE, SIDE)
        masking = MaskConfig(source=source, fill=fill, surrogate=surrogate)  # type: ignore[arg-type]
        system = TwoStage(classifier, masks=masking, segmenter=segmenter, mean_color=(0.4, 0.5, 0.6))
        with torch.no_grad():
            segmenter[2].weight.mul_(4)
            classifier[4].weight.mul_(30)
            # All classes equally likely, so that every class is near and small perturbations matter.
            half = torch.full((64, 1, SIDE, SIDE), 0.5)
            context = MaskContext(oracle_masks=half, frozen_masks=half, substitutes=half, sample_seeds=torch.arange(64))
            classifier[4].bias.sub_(system(sample, context).mean(0))
        return system.to(dtype).eval().requires_grad_(False)

    return make


@pytest.fixture
def make_batch() -> Callable[..., tuple[Tensor, Tensor, MaskContext]]:
    """Images, the labels that a system gives them (so that none is misclassified as it is), and the whole context."""

    def make(
        system: TwoStage, size: int = 4, *, seed: int = 1, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, MaskContext]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(size, 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)
        masks = torch.zeros(size, 1, SIDE, SIDE, dtype=dtype)
        for row in range(size):
            masks[row, :, 2 + row % 3 : 10 + row % 4, 3 + row % 2 : 12] = 1
        seeds = torch.randint(2**62, (size,), generator=generator)
        context = system.freeze(images, MaskContext(oracle_masks=masks, substitutes=masks, sample_seeds=seeds))
        return images, system(images, context).argmax(1), context

    return make


@pytest.fixture(scope="session")
def cheats() -> ModuleType:
    """``cheats.py``: systems that look more robust than they are."""
    specification = importlib.util.spec_from_file_location("cheats", Path(__file__).with_name("cheats.py"))
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["cheats"] = module
    specification.loader.exec_module(module)
    return module
