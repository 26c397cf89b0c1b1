"""Packed convolutions against ``nn.Conv2d``, to the bit."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.packing import pack_convolutions, packing_works

SHAPES: dict[str, tuple[tuple[Any, ...], dict[str, Any], int]] = {
    "3 x 3": ((16, 32, 3), {"padding": 1}, 12),
    "1 x 1": ((32, 16, 1), {}, 8),
    "stride that leaves a row": ((16, 32, 3), {"padding": 1, "stride": 2}, 12),
    "1 x 1 with a stride": ((16, 32, 1), {"stride": 2}, 11),
    "stem": ((3, 16, 7), {"padding": 3, "stride": 2}, 21),
    "dilated, odd channels": ((5, 7, 3), {"padding": 2, "dilation": 2}, 9),
    "oblong": ((16, 8, (3, 1)), {"padding": (1, 0), "stride": (2, 1)}, 10),
    "without bias": ((8, 1, 3), {"bias": False}, 3),
}


def found(stage: nn.Module, images: Tensor, *, mixed: bool) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of a sum of them that weighs each differently."""
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        outputs = stage(leaf)
    weights = torch.arange(outputs.numel()).sin().view_as(outputs).to(outputs)
    return outputs.detach(), torch.autograd.grad((weights * outputs).sum(), leaf)[0]


def pair(*arguments: Any, **settings: Any) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(*arguments, **settings)).requires_grad_(False).to(memory_format=torch.channels_last)
    packed = copy.deepcopy(plain)
    pack_convolutions(packed)
    assert type(packed[0]) is not nn.Conv2d
    return plain, packed


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradient_are_those_of_the_convolution_to_the_bit_in_every_batch(shape: str, mixed: bool) -> None:
    """Also in batches of another size than the first, for which the weights were packed, and of one, which oneDNN may not get."""
    arguments, settings, side = SHAPES[shape]
    plain, packed = pair(*arguments, **settings)
    for size in (4, 1, 17, 4):
        images = torch.rand(size, arguments[0], side, side).contiguous(memory_format=torch.channels_last)
        for expected, got in zip(found(plain, images, mixed=mixed), found(packed, images, mixed=mixed), strict=True):
            assert torch.equal(got, expected)
            assert got.dtype == expected.dtype


def test_what_onednn_does_not_compute_is_left_to_torch() -> None:
    plain, packed = pair(4, 4, 3)
    assert packed(torch.rand(0, 4, 8, 8)).shape == (0, 4, 6, 6)
    images = torch.rand(3, 4, 8, 8, dtype=torch.float64)
    assert torch.equal(packed.double()(images), plain.double()(images))


def test_the_gradient_of_weights_that_still_want_one_is_torchs() -> None:
    plain, packed = (stage.requires_grad_(True) for stage in pair(4, 4, 3))
    images = torch.rand(3, 4, 8, 8)
    for stage in (plain, packed):
        stage(images).square().sum().backward()
    assert torch.equal(packed[0].weight.grad, plain[0].weight.grad)  # type: ignore[index]


@pytest.mark.parametrize(
    "stays",
    [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 4, 3),
    ],
    ids=["groups", "padding by name", "circular", "transposed"],
)
def test_other_convolutions_stay_as_they_are(stays: nn.Module) -> None:
    stage = nn.Sequential(stays)
    pack_convolutions(stage)
    assert stage[0] is stays


def test_packing_works_with_the_torch_that_is_installed() -> None:
    assert packing_works() or not torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("name", ["_convolution_pointwise", "_convolution_transpose_pointwise", "_reorder_convolution_weight"])
@pytest.mark.parametrize("does", ["raise", "answer otherwise"])
def test_without_the_functions_of_torch_that_pack_every_convolution_stays(
    name: str, does: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not public: another version may lack them, or mean something else by them."""
    function = getattr(torch.ops.mkldnn, name)

    def other(*arguments: Any) -> Tensor:
        if does == "raise":
            raise AttributeError(name)
        found: Tensor = function(*arguments)
        return 2 * (found.to_dense() if found.is_mkldnn else found)

    monkeypatch.setattr(torch.ops.mkldnn, name, other)
    packing_works.cache_clear()
    try:
        stage = nn.Sequential(nn.Conv2d(4, 4, 3))
        pack_convolutions(stage)
        assert type(stage[0]) is nn.Conv2d
    finally:
        packing_works.cache_clear()
