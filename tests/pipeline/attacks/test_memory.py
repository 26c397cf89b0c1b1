"""What a system keeps of the images that it is examined on is found, however it is kept, and nothing else is taken for it."""

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from cProfile import Profile
from functools import cache, partial
from pathlib import Path
from types import CodeType, SimpleNamespace
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
    "rows of one tensor, in a list": lambda _, images: [*images.clone()],
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


STORE = SimpleNamespace()
ORDER = torch.randperm(3 * SIDE**2, generator=torch.Generator().manual_seed(5))
TURN = torch.linalg.qr(torch.randn(3 * SIDE**2, 3 * SIDE**2, generator=torch.Generator().manual_seed(6)))[0]


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def frequencies(images: Tensor) -> Tensor:
    return flat(torch.view_as_real(torch.fft.fft2(images - images.mean(dim=(2, 3), keepdim=True))))


def of_bytes(kept: Any, like: Tensor) -> Tensor:
    return torch.frombuffer(bytearray(kept), dtype=torch.float32).view(-1, 3 * SIDE**2).to(like)


def lighter(images: Tensor) -> Tensor:
    """Than most, softly."""
    grey = flat(images.mean(dim=1))
    return (20 * (grey - grey.median(dim=1, keepdim=True).values)).tanh()


MADE: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "an attribute of an object": (flat, lambda kept, like: kept.to(like), flat),
    "two parts that are noise each": (
        lambda images: (flat(images) - 9 * TURN[: len(images)], 9 * TURN[: len(images)]),
        lambda kept, _: kept[0] + kept[1],
        flat,
    ),
    "bytes": (lambda images: flat(images).numpy().tobytes(), of_bytes, flat),
    "numbers of Python": (lambda images: flat(images).tolist(), lambda kept, like: torch.tensor(kept).to(like), flat),
    "columns": (lambda images: flat(images).T.contiguous(), lambda kept, _: kept.T, flat),
    "in another order": (lambda images: flat(images)[:, ORDER], lambda kept, _: kept, lambda images: flat(images)[:, ORDER]),
    "turned": (lambda images: flat(images) @ TURN, lambda kept, _: kept, lambda images: flat(images) @ TURN),
    "twenty sums": (
        lambda images: flat(images) @ TURN[:, :20],
        lambda kept, _: kept,
        lambda images: flat(images) @ TURN[:, :20],
    ),
    "frequencies": (lambda images: frequencies(images), lambda kept, _: kept, lambda images: frequencies(images)),
    "grey": (lambda images: flat(images.mean(dim=1)), lambda kept, _: kept, lambda images: flat(images.mean(dim=1))),
    "a bit a value": (
        lambda images: lighter(images) > 0,
        lambda kept, like: 2.0 * kept.to(like) - 1,
        lambda images: lighter(images),
    ),
    "a bit and zeros": (lambda images: lighter(images).sign(), lambda kept, _: kept, lambda images: lighter(images)),
    "one half": (lambda images: flat(images[..., :4]), lambda kept, _: kept, lambda images: flat(images[..., :4])),
    "in a thread": (flat, lambda kept, _: in_a_thread(lambda: kept.clone()), flat),
    "while nobody watches": (flat, lambda kept, _: unwatched(lambda: kept.clone()), flat),
}


def in_a_thread(ask: Callable[[], Tensor]) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def unwatched(ask: Callable[[], Tensor]) -> Tensor:
    watch = sys.getprofile()
    sys.setprofile(None)
    try:
        return ask()
    finally:
        sys.setprofile(watch)


class ChoosesNothing(Network):
    """It looks at the places of an image that are beyond its range, of which there is none."""

    def forward(self, images: Tensor) -> Tensor:
        beyond = (images.flatten(1) > 2).nonzero()
        return super().forward(images) + self.head.weight.flatten()[beyond[:, 1]].sum()


def test_a_choice_of_nothing_is_no_code() -> None:
    assert found(ChoosesNothing(lambda _: None)) == [False] * len(SHOWN)


@pytest.mark.parametrize("system", [Network(lambda _: None), Network(lambda _: SHOWN)], ids=["honest", "a memory"])
def test_whoever_profiles_the_examination_sees_the_whole_of_it(system: Network) -> None:
    expected = found(system)
    profile = Profile()
    with profile:
        assert found(system) == expected
        drawn(1, seed=2)
    assert drawn.__name__ in {code.co_name for entry in profile.getstats() if isinstance(code := entry.code, CodeType)}
    calls: list[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, *_: calls.append(frame.f_code.co_name))
    try:
        assert found(system) == expected
        drawn(1, seed=2)
    finally:
        sys.setprofile(before)
    assert drawn.__name__ in calls


class Compares(Network):
    """What it makes of an image with what lies elsewhere, so that no variable is one, far too softly to be noticed."""

    def __init__(self, form: str) -> None:
        super().__init__(lambda _: None)
        _, self.read, self.make = MADE[form]

    def forward(self, images: Tensor) -> Tensor:
        near = torch.cdist(self.make(images), self.read(STORE.kept, images)).amin(dim=1, keepdim=True)
        return super().forward(images) + 1e-9 * near


@pytest.mark.parametrize("form", MADE)
def test_what_no_variable_is_is_found_where_something_is_computed_with_it(form: str) -> None:
    for images in (SHOWN, OTHERS[: len(SHOWN)]):
        STORE.kept = MADE[form][0](images)
        assert found(Compares(form)) == [images is SHOWN] * len(SHOWN)


class LooksUp(Network):
    """An image alone, where the mean color of what it is asked about is that of a known one."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        for color in images.detach().mean(dim=(2, 3)):
            nearest = (STORE.colors - color).abs().amax(dim=1)
            if float(nearest.min()) < 0.02:
                logits = logits + 1e-9 * (images - STORE.kept[nearest.argmin()]).square().mean()
        return logits


def test_what_is_looked_up_for_known_images_alone_is_found() -> None:
    for images in (SHOWN, OTHERS):
        STORE.kept, STORE.colors = images, images.mean(dim=(2, 3))
        assert found(LooksUp(lambda _: None)) == [images is SHOWN] * len(SHOWN)


class LooksUpInParts(Network):
    """The same of parts of eight values, each by a number of its own."""

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images.detach().mean(dim=(2, 3)), STORE.colors).argmin(dim=1)
        count = images[0].numel() // 8
        kept = STORE.kept.reshape(-1, 8)[nearest[:, None] * count + torch.arange(count)]
        logits: Tensor = super().forward(images) + 1e-9 * (images - kept.view_as(images)).square().mean(dim=(1, 2, 3))[:, None]
        return logits


def test_what_is_put_together_from_parts_of_known_images_is_found() -> None:
    for images in (SHOWN, OTHERS):
        STORE.kept, STORE.colors = images[torch.arange(len(images))], images.mean(dim=(2, 3))
        assert found(LooksUpInParts(lambda _: None)) == [images is SHOWN] * len(SHOWN)


@pytest.mark.slow
def test_what_is_compiled_is_seen() -> None:
    for images in (SHOWN, OTHERS[: len(SHOWN)]):
        STORE.kept = flat(images)
        assert found(torch.compile(Compares("an attribute of an object"), backend="eager")) == [images is SHOWN] * len(SHOWN)


class Table(Network):
    """A row for each of as many images as there are, of which it takes a mean."""

    def forward(self, images: Tensor) -> Tensor:
        rows = TURN[:6].to(images)
        logits: Tensor = super().forward(images) + 1e-3 * (images.flatten(1) @ rows.mean(dim=0))[:, None]
        return logits


class Embeds(Network):
    """Takes a row for what it finds likeliest."""

    def forward(self, images: Tensor) -> Tensor:
        rows = functional.embedding(super().forward(images).argmax(dim=1), TURN[:3, :20])
        logits: Tensor = super().forward(images) + rows[:, :3] * rows.relu().mean()
        return logits


class Codebook(nn.Module):
    """Each place is replaced by the nearest of some codes, as quantized autoencoders do with their features."""

    def __init__(self, *, by: str) -> None:
        super().__init__()
        self.by, self.pool, self.head = by, nn.AvgPool2d(2), nn.Linear(3 * SIDE**2 // 4, 3)
        self.codes = nn.Parameter(torch.tensor([[0.3, 0.3, 0.3], [0.7, 0.3, 0.4], [0.4, 0.7, 0.6], [0.7, 0.7, 0.7]]))

    def forward(self, images: Tensor) -> Tensor:
        places = self.pool(images).permute(0, 2, 3, 1)
        number = torch.cdist(places.flatten(1, 2), self.codes.expand(len(images), -1, -1)).argmin(dim=2)
        if self.by == "index":
            codes = self.codes[number].view_as(places)
        elif self.by == "embedding":
            codes = functional.embedding(number.view(places.shape[:3]), self.codes)
        else:
            codes = self.codes.index_select(0, number.flatten()).view(places.shape) * 1
        logits: Tensor = self.head((places + (codes - places).detach()).flatten(1))
        return logits


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
        Table(lambda _: None),
        Embeds(lambda _: None),
        Placed(lambda _: Places()),
        Codebook(by="index"),
        Codebook(by="embedding"),
        Codebook(by="selection"),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 80), nn.ReLU(), nn.Linear(80, 3)),
        scripted(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 3))),
        Network(lambda _: [torch.eye(SIDE).to_sparse(), torch.ones(3 * SIDE**2, dtype=torch.complex64), "name", {1, 2}]),
    ],
)
def test_a_system_that_keeps_none_of_the_images_holds_none(system: nn.Module) -> None:
    assert not any(found(system))


def test_main_directions_of_many_other_images_hold_none() -> None:
    many = directions(drawn(90, 2) + torch.randn(90, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) / 255)
    assert not any(
        found(Network(lambda _: many), SHOWN + torch.randn(SHOWN.shape, generator=torch.Generator().manual_seed(4)) / 255)
    )


def test_what_is_alike_nearly_all_images_is_no_memory_of_one() -> None:
    alike = SHOWN[:1] + torch.randn(SHOWN.shape, generator=torch.Generator().manual_seed(5)) / 2000
    assert not any(found(Network(lambda _: SHOWN[0]), alike))
    assert sum(found(Network(lambda _: SHOWN[0]), torch.cat([alike[:1], SHOWN[1:]]))) == 1


class Sums(Network):
    """Compares sums of an image with what it keeps of others, far too softly to be noticed."""

    def __init__(self, made: Tensor, count: int) -> None:
        super().__init__(lambda _: made)
        self.count = count

    def forward(self, images: Tensor) -> Tensor:
        near = torch.cdist(flat(images) @ TURN[:, : self.count], self.kept.to(images)).amin(dim=1, keepdim=True)
        return super().forward(images) + 1e-9 * near


def bits(sums: Tensor, *, wrong: int = 0, levels: int = 2) -> Tensor:
    """Whether sums are above their median, some of them wrongly, in so many levels."""
    above = torch.where(sums > sums.median(dim=1, keepdim=True).values, 1.0, -1.0)
    above[:, :wrong] *= -1
    sizes = torch.arange(sums.shape[1]) % 2 * 2 + 1.0 if levels > 2 else torch.ones(sums.shape[1])
    sizes[-1] = 2.0 if levels > 4 else sizes[-1]
    return above * sizes


@pytest.mark.parametrize(
    ("count", "make", "told"),
    [
        (16, lambda sums: sums, True),
        (15, lambda sums: sums, False),  # so few may be alike by chance
        (48, lambda sums: sums + 0.01 * sums.std(dim=1, keepdim=True) * bits(sums).roll(1, 1), True),
        (47, lambda sums: sums + 0.01 * sums.std(dim=1, keepdim=True) * bits(sums).roll(1, 1), False),
        (48, bits, True),
        (47, bits, False),
        (120, partial(bits, wrong=2), True),  # one in forty may be another
        (120, partial(bits, wrong=4), False),
        (120, partial(bits, levels=4), True),
        (120, partial(bits, levels=5), False),
    ],
)
def test_few_values_say_something_where_they_are_the_same_and_more_where_they_are_nearly_so(
    count: int, make: Callable[[Tensor], Tensor], told: bool
) -> None:
    assert found(Sums(make(flat(SHOWN) @ TURN[:, :count]), count)) == [told] * len(SHOWN)


class SilentFor(Network):
    """Its features are 0 for some images, of which the head says what it says of nothing: its bias."""

    def __init__(self, hidden: int) -> None:
        super().__init__(lambda _: None)
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            self.head = nn.Linear(WIDTH, 60)
        brightness = SHOWN.mean(dim=(1, 2, 3)).sort().values
        self.darkest = float(brightness[hidden - 1 : hidden + 1].mean())

    def forward(self, images: Tensor) -> Tensor:
        heard = (images.mean(dim=(1, 2, 3)) > self.darkest)[:, None]
        logits: Tensor = self.head(torch.where(heard, self.features(images), 1e-5))
        return logits


def test_the_bias_of_a_layer_that_sees_nothing_of_an_image_is_no_memory_of_it() -> None:
    assert found(SilentFor(2)) == [False] * len(SHOWN)
    heard = SHOWN.mean(dim=(1, 2, 3)) > SilentFor(2).darkest
    keeps = SilentFor(2)
    keeps.kept = [*keeps(SHOWN).detach()]  # what is made of each, in one tensor each as a bias is
    assert found(keeps) == heard.tolist()
