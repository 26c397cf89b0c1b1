"""Searches side by side find what each finds alone, and leave nothing behind however they end."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pipeline.attacks.side_by_side import Model, side_by_side

CPU = torch.device("cpu")


def walk(seed: int, steps: int) -> Callable[[Model], Tensor]:
    """A random walk that goes wherever the model's answer rises, as random searches do."""

    def search(model: Model) -> Tensor:
        torch.manual_seed(seed)
        best = torch.rand(1, 3)
        value = model(best)
        for _ in range(steps):
            proposed = best + torch.randn(1, 3)
            answered = model(proposed)
            best, value = torch.where(answered > value, proposed, best), torch.maximum(value, answered)
        return best

    return search


def height(points: Tensor, number: Tensor) -> Tensor:
    return -(points - number.view(-1, 1)).square().sum(dim=1, keepdim=True)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before, num_threads = threading.active_count(), torch.get_num_threads()
    yield
    assert threading.active_count() == before
    assert torch.get_num_threads() == num_threads


def test_each_finds_what_it_finds_alone_whatever_runs_beside_it() -> None:
    asked: list[list[int]] = []

    def answer(rows: Tensor, points: Tensor) -> Tensor:
        asked.append(rows.tolist())
        torch.rand(7)  # what the model draws disturbs no search
        return height(points, rows)

    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    lengths = [5, 0, 9, 3]
    found = side_by_side([walk(seed, steps) for seed, steps in enumerate(lengths)], answer, device=CPU)
    for number, steps in enumerate(lengths):
        with torch.random.fork_rng([]):
            alone = walk(number, steps)(lambda points, number=number: height(points, torch.tensor([number])))  # type: ignore[misc]
        assert torch.equal(found[number], alone)
    assert asked == [[0, 1, 2, 3], *[[0, 2, 3]] * 3, *[[0, 2]] * 2, *[[2]] * 4]
    torch.manual_seed(99)
    assert torch.equal(torch.rand(3), expected)


def test_numbers_of_points_may_differ_and_be_none() -> None:
    def search(count: int) -> Callable[[Model], Tensor]:
        return lambda model: model(torch.full((count, 2), float(count)))

    found = side_by_side([search(count) for count in (3, 0, 1)], lambda rows, points: points + rows[:, None], device=CPU)
    assert [one.tolist() for one in found] == [[[3.0, 3.0]] * 3, [], [[3.0, 3.0]]]
    assert side_by_side([], lambda _, points: points, device=CPU) == []


def test_gradients_are_off_on_both_sides() -> None:
    weight = torch.ones(1, requires_grad=True)
    (found,) = side_by_side([lambda model: model(torch.ones(1)) * weight], lambda _, points: points * weight, device=CPU)
    assert not found.requires_grad


@pytest.mark.parametrize("error", [ValueError("of a search"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["at once", "after an answer", "in the model"])
def test_what_is_raised_comes_through_and_ends_the_others(error: BaseException, where: str) -> None:
    ended = []

    def failing(model: Model) -> Tensor:
        if where == "at once":
            raise error
        model(torch.ones(1, 1))
        raise error

    def waiting(model: Model) -> Tensor:
        try:
            while True:
                model(torch.ones(1, 1))
        finally:
            ended.append(1)

    def answer(_: Tensor, points: Tensor) -> Tensor:
        if where == "in the model":
            raise error
        return points

    before = torch.get_rng_state()
    with pytest.raises(type(error)) as raised:
        side_by_side([waiting, failing, waiting], answer, device=CPU)
    assert raised.value is error
    assert len(ended) == (1 if where == "at once" else 2)
    assert torch.equal(torch.get_rng_state(), before)
