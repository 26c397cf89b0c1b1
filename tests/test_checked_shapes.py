"""What every other test relies on: a shape or a type that is not the annotated one is an error, once the packages are imported."""

from types import ModuleType

import jaxtyping
import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

import pipeline

ONES = torch.ones
CODE = """
from collections.abc import Iterator
from dataclasses import dataclass
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

Images = Float[Tensor, "batch side side"]

def scaled(images: Images, factors: Float[Tensor, "batch"], by: float = 1.0) -> Images:
    return images * factors.view(-1, 1, 1) * by if by > 0 else images[:-1] if by > -1 else "no tensor"

def plain(count: int, names: list[str]) -> str:
    return names[0] * count if count else count

def counted(count: int) -> UInt8[ndarray, "{count}"]:
    return __import__("numpy").zeros(max(count, 2), "uint8")

def twice(images: Float[Tensor, "batch side"]) -> Float[Tensor, "batch side"]:
    return scaled(images[:, None].expand(-1, images.shape[1], -1), images[:, 0])[:, 0]

def rows(images: Float[Tensor, "batch side"], kept: Float[Tensor, "batch"]) -> Iterator[Tensor]:
    yield from images

@dataclass
class Box:
    side: int
    image: Float[Tensor, "side side"] | None = None

    def again(self) -> "Box":
        return self if self.side else None

    @property
    def area(self) -> int:
        return self.side**2 if self.side > 1 else "none"
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A module of ours."""
    directory = tmp_path_factory.mktemp("package")
    (directory / "shapes_of_a_test.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "__path__", [*pipeline.__path__, str(directory)])
        import pipeline.shapes_of_a_test as imported
    return imported


def test_what_fits_goes_through(module: ModuleType) -> None:
    assert module.scaled(ONES(2, 3, 3), ONES(2), 2).sum() == 36  # an int where a float is expected
    assert module.twice(ONES(2, 3)).shape == (2, 3)
    assert module.plain(2, ["a"]) == "aa"
    assert module.counted(3).shape == (3,)
    assert len([*module.rows(ONES(2, 3), ONES(2))]) == 2
    box = module.Box(2, ONES(2, 2))
    assert box.again() is box
    assert box.area == 4


@pytest.mark.parametrize(
    "call",
    [
        lambda module: module.scaled(ONES(2, 3, 4), ONES(2)),  # two sizes of one name in one argument
        lambda module: module.scaled(ONES(2, 3, 3), ONES(3)),  # or in two
        lambda module: module.scaled(ONES(2, 3, 3), ONES(2), -0.5),  # or in what is returned
        lambda module: module.scaled(ONES(2, 3, 3), ONES(2, 1)),
        lambda module: module.scaled(ONES(2, 3, 3), factors=ONES(2, dtype=torch.int64)),
        lambda module: module.scaled(np.ones((2, 3, 3), np.float32), ONES(2)),
        lambda module: module.scaled(ONES(2, 3, 3), ONES(2), -2.0),
        lambda module: module.scaled(ONES(2, 3, 3), ONES(2), "1"),
        lambda module: module.plain(1.0, ["a"]),
        lambda module: module.plain(1, [1]),
        lambda module: module.plain(0, ["a"]),
        lambda module: module.counted(1),
        lambda module: module.rows(ONES(2, 3), ONES(3)),
        lambda module: module.Box("2"),
        lambda module: module.Box(2, ONES(2)),
        lambda module: module.Box(2, ONES(2, 3)),
        lambda module: module.Box(1).area,
    ],
)
def test_what_does_not_fit_is_an_error(module: ModuleType, call) -> None:
    with pytest.raises((BeartypeCallHintViolation, jaxtyping.TypeCheckError)):
        call(module)
