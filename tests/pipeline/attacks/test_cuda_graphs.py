"""Recorded passes against the stage itself. Here the stage once more plays a recording, in fixed memory as a GPU would; how a GPU
records is tested in ``test_gpu.py``."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks import cuda_graphs
from pipeline.attacks.cuda_graphs import Graphed, filled_size

SIDE = 8


class Replayed:
    """Passes in fixed memory: a forward pass overwrites inputs, outputs and activations of the one before."""

    made: list[tuple[int, bool]] = []  # noqa: RUF012 - cleared by the fixture

    def __init__(self, stage: nn.Module, images: Tensor, with_gradient: bool) -> None:
        self.made.append((len(images), with_gradient))
        self.inputs = images.detach().clone().requires_grad_(with_gradient)
        self.stage = stage
        self.forward()
        self.outputs = self.latest.detach().clone()

    def forward(self) -> None:
        self.leaf = self.inputs.detach().clone().requires_grad_(self.inputs.requires_grad)
        with torch.set_grad_enabled(self.leaf.requires_grad):  # a recorded pass asks no mode either
            self.latest = self.stage(self.leaf)
        if hasattr(self, "outputs"):
            self.outputs.copy_(self.latest.detach())

    def backward(self, output_gradients: Tensor) -> Tensor:
        return torch.autograd.grad(self.latest, self.leaf, output_gradients)[0]


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    Replayed.made.clear()


def stage() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(4 * SIDE**2, 5)).requires_grad_(False)


def pictures(number: int, seed: int) -> Tensor:
    return torch.rand(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    outputs = module(leaf)
    weights = torch.arange(outputs.numel()).view_as(outputs) / outputs.numel()
    return outputs.detach(), torch.autograd.grad((outputs.square() * weights).sum(), leaf)[0]


@pytest.mark.parametrize("number", [1, 7, 8, 9, 16, 17])
def test_before_and_after_a_size_is_recorded_values_and_gradients_are_those_of_the_stage(number: int) -> None:
    graphed = Graphed(stage(), Replayed)
    for seed in range(5):
        images = pictures(number, seed)
        torch.testing.assert_close(value_and_gradient(graphed, images), value_and_gradient(graphed.stage, images))
    assert Replayed.made == [(filled_size(number), True)]


def test_a_second_pass_before_the_gradients_of_the_first_does_not_change_them() -> None:
    graphed = Graphed(stage(), Replayed)
    for seed in range(4):
        value_and_gradient(graphed, pictures(8, seed))
    first, second = (pictures(8, seed).requires_grad_() for seed in (10, 11))
    outputs = graphed(first), graphed(second)
    with torch.no_grad():
        graphed(pictures(8, 12))
    found = [torch.autograd.grad(one.sum(), leaf)[0] for one, leaf in zip(outputs, (first, second), strict=True)]
    expected = [torch.autograd.grad(graphed.stage(leaf).sum(), leaf)[0] for leaf in (first, second)]
    torch.testing.assert_close(found, expected)
    assert len(Replayed.made) == 1


def test_gradients_can_be_asked_for_twice() -> None:
    graphed, leaf = Graphed(stage(), Replayed), pictures(8, 9).requires_grad_()
    for seed in range(4):
        value_and_gradient(graphed, pictures(8, seed))
    scores, expected = (module(leaf).square().sum() for module in (graphed, graphed.stage))
    found = [torch.autograd.grad(scores, leaf, retain_graph=True)[0] for _ in range(2)]
    torch.testing.assert_close(found, [torch.autograd.grad(expected, leaf)[0]] * 2)


def test_what_was_answered_outlives_later_passes() -> None:
    graphed = Graphed(stage(), Replayed)
    with torch.no_grad():
        answers = [graphed(pictures(8, seed)) for seed in range(6)]
    torch.testing.assert_close(answers, [graphed.stage(pictures(8, seed)) for seed in range(6)])
    assert Replayed.made == [(8, False)]


class Forgetful(nn.Module):
    """Answers otherwise at every call."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1) * self.calls


class Cut(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.detach().flatten(1)


def refuses(stage: nn.Module, images: Tensor, with_gradient: bool) -> Replayed:
    del stage
    Replayed.made.append((len(images), with_gradient))
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_stage_that_answers_otherwise_at_every_call_is_not_replayed() -> None:
    graphed, images = Graphed(Forgetful(), Replayed), pictures(8, 0)
    with torch.no_grad():
        calls = [round(float((graphed(images).view_as(images) / images).mean())) for _ in range(6)]
    assert Replayed.made == [(8, False)]
    assert sorted(set(calls)) == calls, "it goes on counting"


class Stuck(Replayed):
    """Answers for ever what it answered when it was recorded."""

    def forward(self) -> None:
        if not hasattr(self, "outputs"):
            super().forward()


@pytest.mark.parametrize("with_gradient", [True, False])
def test_a_recording_that_does_not_follow_its_inputs_is_not_replayed(with_gradient: bool) -> None:
    graphed = Graphed(stage(), Stuck)
    for seed in range(5):
        images = pictures(8, seed).requires_grad_(with_gradient)
        torch.testing.assert_close(graphed(images), graphed.stage(images))
    assert len(Replayed.made) == 1


def test_what_cannot_be_recorded_runs_itself_and_is_not_tried_again() -> None:
    graphed = Graphed(stage(), refuses)
    for seed in range(6):
        images = pictures(8, seed)
        torch.testing.assert_close(value_and_gradient(graphed, images), value_and_gradient(graphed.stage, images))
    assert len(Replayed.made) == 1


def test_a_stage_that_cuts_the_gradient_still_does() -> None:
    graphed = Graphed(Cut(), refuses)
    for _ in range(4):
        assert not graphed(pictures(8, 0).requires_grad_()).requires_grad


def test_large_batches_and_sizes_that_do_not_come_again_are_not_recorded() -> None:
    graphed = Graphed(nn.Identity(), Replayed)
    for number in (8, 8, 9, 13, 17):
        graphed(pictures(number, 0))
    large = torch.zeros(1, 3, 2**11, 2**11)
    for _ in range(5):
        assert graphed(large) is large
    assert not Replayed.made


def test_a_batch_of_two_million_pixels_is_recorded_when_it_is_asked_for_the_third_time_and_a_larger_one_never() -> None:
    graphed = Graphed(nn.Identity(), refuses)
    for width, made in ((512, [(8, False)]), (513, [])):
        Replayed.made.clear()
        for _ in range(2):
            graphed(torch.zeros(1, 3, 512, width))
        assert not Replayed.made
        graphed(torch.zeros(1, 3, 512, width))
        assert Replayed.made == made


class Imprecise(Replayed):
    """Of outputs and gradients the one or the other is a little more."""

    more, of = 0.0, "outputs"

    def forward(self) -> None:
        super().forward()
        if hasattr(self, "outputs"):
            self.outputs += self.more * (self.of == "outputs")

    def backward(self, output_gradients: Tensor) -> Tensor:
        return super().backward(output_gradients) + self.more * (self.of == "gradients")


class Ones(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 1 + images - images.detach()


@pytest.mark.parametrize("of", ["outputs", "gradients"])
@pytest.mark.parametrize(("more", "replayed"), [(0.98e-3, True), (1.02e-3, False), (-0.98e-3, True), (-1.02e-3, False)])
def test_a_recording_may_differ_by_a_thousandth_of_the_largest_value(
    of: str, more: float, replayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Imprecise, "of", of)
    monkeypatch.setattr(Imprecise, "more", more)
    graphed, images = Graphed(Ones(), Imprecise), pictures(8, 0)
    answers = [value_and_gradient(graphed, images) for _ in range(3)]
    plain = value_and_gradient(graphed.stage, images)
    assert all(map(torch.equal, answers[1], plain))
    assert all(map(torch.equal, answers[2], plain)) != replayed


@pytest.mark.parametrize(("free", "room"), [(0, False), (50, False), (51, True), (100, True)])
def test_half_of_a_gpus_memory_stays_free_of_recordings(free: int, room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 100))
    assert cuda_graphs._has_room(torch.device("cuda")) is room
    assert cuda_graphs._has_room(torch.device("cpu"))


def test_filled_sizes_are_at_most_half_as_many_again() -> None:
    sizes = [filled_size(number) for number in range(1, 1025)]
    assert sorted(set(sizes)) == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(number <= size <= max(8, 1.5 * number) for number, size in enumerate(sizes, start=1))
