"""A function that tells an observer, as a generator that can be left at any point."""

import threading

import pytest
import torch
from torch import Tensor

from pipeline.attacks.tracker import Observer
from pipeline.lab.stepping import stepwise

POINTS = [torch.full((1, 3, 2, 2), float(number)) for number in range(5)]


def counting(observer: Observer) -> str:
    for point in POINTS:
        observer(point, point[:, 0, 0, 0])
    return "done"


def attack_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "attack"]


def test_every_point_comes_in_order_and_then_the_result() -> None:
    steps = stepwise(counting)
    seen = [next(steps) for _ in POINTS]
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert all(point is expected for point, expected in zip(seen, POINTS, strict=True))
    assert end.value.value == "done"
    assert attack_threads() == []


@pytest.mark.parametrize("looked_at", [1, 2, 5])
def test_closed_at_any_point_it_ends_the_attack_there(looked_at: int) -> None:
    told: list[Tensor] = []

    def telling(observer: Observer) -> None:
        counting(lambda point, margins: (told.append(point), observer(point, margins))[0])

    steps = stepwise(telling)
    for _ in range(looked_at):
        next(steps)
    steps.close()
    assert attack_threads() == []
    assert len(told) <= looked_at + 1  # never ahead by more than one


def test_what_the_attack_raises_is_raised() -> None:
    def failing(observer: Observer) -> None:
        observer(POINTS[0], POINTS[0][:, 0, 0, 0])
        raise FloatingPointError("a NaN score")

    steps = stepwise(failing)
    assert next(steps) is POINTS[0]
    with pytest.raises(FloatingPointError, match="a NaN score"):
        next(steps)
    assert attack_threads() == []
