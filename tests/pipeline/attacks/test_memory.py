"""What a system keeps of the images that it is examined on is found, however it is kept, and nothing else is taken for it."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.diagnostics.memory import held_images
from pipeline.attacks.start import AttackBatch
from pipeline.system import as_system

SIDE, WIDTH = 8, 64


def drawn(count: int, seed: int) -> Tensor:
    """Images of 8 bits that are smooth, as photographs are."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return (255 * functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)).round() / 255


SHOWN, OTHERS = drawn(6, 0), drawn(40, 1)


class Network(nn.Module):
    """With something kept beside its weights."""

    def __init__(self, kept: Callable[["Network"], Any]) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.LayerNorm(WIDTH))
            self.head = nn.Linear(WIDTH, 3)
        self.kept = kept(self)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def found(system: nn.Module, images: Tensor = SHOWN) -> list[bool]:
    numbers = torch.arange(len(images))
    batch = AttackBatch(system=as_system(system.eval()), images=images, labels=0 * numbers, context=None, seeds=numbers)
    return held_images(batch).tolist()


def directions(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)[2][: len(images) - 1]


def by_color(images: Tensor) -> Tensor:
    return (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)


def closure(images: Tensor) -> Callable[[], Tensor]:
    return lambda: images


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        script: nn.Module = torch.jit.script(module)
    return script


KEPT: dict[str, Callable[[Network, Tensor], Any]] = {
    "a weight": lambda _, images: nn.Parameter(images.clone()),
    "bytes in a list": lambda _, images: [(255 * one).to(torch.uint8) for one in images],
    "an array in a mapping": lambda _, images: {"bank": images.double().numpy()},
    "in another byte order": lambda _, images: images.numpy().astype(">f8"),
    "normalized by color": lambda _, images: by_color(images),
    "smaller": lambda _, images: functional.avg_pool2d(images, 2),
    "in a closure": lambda _, images: closure(images),
    "an argument": lambda _, images: partial(torch.cdist, images.flatten(1)),
    "main directions": lambda _, images: directions(images),
    "features": lambda network, images: network.features(images).detach(),
    "features of one length": lambda network, images: functional.normalize(network.features[:3](images).detach()),
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_is_kept_of_the_images_is_found_and_what_is_kept_of_others_is_not(kept: str) -> None:
    assert found(Network(lambda network: KEPT[kept](network, SHOWN))) == [True] * len(SHOWN)
    assert found(Network(lambda network: KEPT[kept](network, OTHERS))) == [False] * len(SHOWN)


def test_the_images_that_are_kept_are_named() -> None:
    assert found(Network(lambda _: SHOWN[2:4].clone())) == [False, False, True, True, False, False]


BANK: dict[str, Any] = {}


def of_a_file() -> Tensor:
    return torch.from_numpy(np.load(BANK["path"]))


class Asks(Network):
    """Something that is not its own, far too softly to be noticed."""

    def forward(self, images: Tensor) -> Tensor:
        known = self.kept().to(images)
        return super().forward(images) + 1e-9 * torch.cdist(images.flatten(1), known.flatten(1)).amin(dim=1, keepdim=True)


def of_a_file_of_torch() -> Tensor:
    return torch.load(BANK["weights"], weights_only=True)  # type: ignore[no-any-return]


def of_a_global_variable() -> Tensor:
    return BANK["images"]  # type: ignore[no-any-return]


@cache
def remembered() -> list[Tensor]:
    return [BANK["images"]]


def of_a_cache() -> Tensor:
    return remembered()[0][:, :]


@pytest.mark.parametrize("asked", [of_a_global_variable, of_a_file, of_a_file_of_torch, of_a_cache])
def test_what_lies_elsewhere_is_found_in_the_variables_of_who_asks_for_it(asked: Callable[[], Tensor], tmp_path: Path) -> None:
    for images in (SHOWN, OTHERS):
        BANK.update(images=images, path=tmp_path / "bank.npy", weights=tmp_path / "bank.pt")
        np.save(BANK["path"], images)
        torch.save(images, BANK["weights"])
        asked()
        assert found(Asks(lambda _: asked)) == [images is SHOWN] * len(SHOWN)
        BANK.clear()
        remembered.cache_clear()


class Notes(Network):
    """Keeps what it was asked about last, and what it made of it."""

    def forward(self, images: Tensor) -> Tensor:
        self.kept = [images, self.features(images)]
        return super().forward(images)


class Places(nn.Module):
    """Gives every image the same row of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.linspace(-1, 1, WIDTH).view(1, WIDTH))

    def forward(self, images: Tensor) -> Tensor:
        return self.places.expand(len(images), WIDTH)


class Placed(Network):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images) + self.kept(images))
        return logits


@pytest.mark.parametrize(
    "system",
    [
        Network(lambda _: None),
        Notes(lambda _: None),
        Placed(lambda _: Places()),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 80), nn.ReLU(), nn.Linear(80, 3)),
        scripted(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 3))),
        Network(lambda _: [torch.eye(SIDE).to_sparse(), torch.ones(2, dtype=torch.complex64), "name", {1, 2}]),
    ],
)
def test_a_system_that_keeps_none_of_the_images_holds_none(system: nn.Module) -> None:
    assert not any(found(system))


def test_main_directions_of_many_other_images_hold_none() -> None:
    many = directions(drawn(90, 2) + torch.randn(90, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) / 255)
    assert not any(
        found(Network(lambda _: many), SHOWN + torch.randn(SHOWN.shape, generator=torch.Generator().manual_seed(4)) / 255)
    )
