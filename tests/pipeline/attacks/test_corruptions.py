"""Corruptions against a second implementation, and against closed forms: moments of noise, exact maps of colors."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from pipeline.attacks import corruptions
from pipeline.attacks.corruptions import corrupt
from pipeline.attacks.measurements import Corruption

SIDE = 32
SEVERITIES = (1, 2, 3, 4, 5)
BLURS = (Corruption.DEFOCUS_BLUR, Corruption.GLASS_BLUR, Corruption.MOTION_BLUR, Corruption.ZOOM_BLUR)
RANDOM = set(Corruption) - {
    Corruption.DEFOCUS_BLUR,
    Corruption.ZOOM_BLUR,
    Corruption.BRIGHTNESS,
    Corruption.CONTRAST,
    Corruption.PIXELATE,
    Corruption.JPEG,
}


def pictures(count: int = 2, side: int = SIDE) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth pictures as photographs are, in steps of 1/255, with a disk as mask."""
    rng = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(rng.normal(size=(count, 3, side, side)), (0, 0, 3, 3), mode="wrap")
    fields = (fields - fields.min()) / (fields.max() - fields.min())
    images = torch.from_numpy(np.rint(fields * 255) / 255).float()
    rows, columns = np.mgrid[:side, :side]
    disk = ((rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (side / 4) ** 2).astype(np.float32)
    return images, torch.from_numpy(disk).expand(count, 1, side, side).clone(), torch.arange(count) + 5


def test_every_corruption_has_the_published_parameters(load_file: Callable[[Path], ModuleType]) -> None:
    """Also where what they change is less than rounding: the end of a streak of snow, say."""
    second = load_file(Path(__file__).with_name("reference_corruptions.py"))
    assert {name.value: list(parameters) for name, (_, parameters) in corruptions._EFFECTS.items()} == second.PUBLISHED


@pytest.mark.parametrize("corruption", list(Corruption))
def test_every_severity_is_that_of_a_second_implementation_with_the_published_parameters(
    corruption: Corruption, load_file: Callable[[Path], ModuleType]
) -> None:
    second = load_file(Path(__file__).with_name("reference_corruptions.py"))
    cases = [(22, 38, severity) for severity in SEVERITIES]  # sides at which no pixel lies halfway between two of its halves
    if corruption not in (Corruption.DEFOCUS_BLUR, Corruption.MOTION_BLUR):  # hundreds of shifts
        cases += [(72, 84, 2), (72, 84, 5)]
    for height, width, severity in cases:
        fields = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(1, 4, height, width)), (0, 0, 2, 2), mode="wrap")
        scene = torch.from_numpy(np.rint((fields - fields.min()) / np.ptp(fields) * 255) / 255).float()
        images, masks = corrupt(corruption, severity, scene[:, :3], scene[:, 3:], torch.tensor([-3]))
        rng = np.random.default_rng([2**64 - 3, list(second.PUBLISHED).index(corruption.value), severity])
        expected = second.reference(corruption.value, severity, scene[0].permute(1, 2, 0).double().numpy(), rng)
        missed = np.abs(torch.cat([images, masks], dim=1)[0].permute(1, 2, 0).double().numpy() - expected) * 255
        # Half a level by rounding, and a little where OpenCV looks up in 32nds of a pixel: many levels where a flake falls by that.
        assert missed.mean() < 0.45 if corruption is not Corruption.SNOW else missed.mean() < 1
        assert missed.max() < 2 or corruption is Corruption.SNOW


@pytest.mark.parametrize("corruption", list(Corruption))
def test_every_severity_keeps_to_the_range_and_the_levels_of_stored_images(
    corruption: Corruption,
) -> None:
    images, masks, seeds = pictures()
    distances = []
    for severity in SEVERITIES:
        changed, moved = corrupt(corruption, severity, images, masks, seeds)
        assert changed.dtype == images.dtype
        assert ((changed >= 0) & (changed <= 1)).all()
        assert torch.equal((changed * 255).round() / 255, changed)
        assert not torch.equal(changed, images)
        assert torch.equal(moved, masks) == (corruption is not Corruption.ELASTIC)
        distances.append((changed - images).square().mean().item())
    if corruption not in (Corruption.ELASTIC, Corruption.SNOW):  # their parameters are not one more than the other in all respects
        assert distances[4] > distances[0]
    for none in (0, 6):
        with pytest.raises(ValueError, match=f"severities are 1 to 5, not {none}"):
            corrupt(corruption, none, images, masks, seeds)


@pytest.mark.parametrize("corruption", list(Corruption))
def test_what_an_image_becomes_follows_from_its_seed_alone(corruption: Corruption) -> None:
    images, masks, seeds = pictures(3)
    seeds = torch.tensor([5, -(2**63), 2**63 - 1])  # any 64 bits
    together, _ = corrupt(corruption, 3, images, masks, seeds)
    alone, _ = corrupt(corruption, 3, images[1:2], masks[1:2], seeds[1:2])
    assert torch.equal(alone[0], together[1])
    other, _ = corrupt(corruption, 3, images[1:2], masks[1:2], seeds[1:2] + 1)
    assert torch.equal(other, alone) == (corruption not in RANDOM)
    empty, _ = corrupt(corruption, 3, images[:0], masks[:0], seeds[:0])
    assert empty.shape == (0, 3, SIDE, SIDE)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.04), (3, 0.12), (5, 0.18)])
def test_gaussian_noise_has_its_deviation(severity: int, deviation: float) -> None:
    grey, masks = torch.full((1, 3, 128, 128), 0.5), torch.zeros(1, 1, 128, 128)
    noise = (corrupt(Corruption.GAUSSIAN_NOISE, severity, grey, masks, torch.tensor([1]))[0] - 0.5).flatten().double()
    share_clipped = 2 * stats.norm.sf(0.5 / deviation)
    assert noise.std().item() == pytest.approx(deviation, rel=0.02 + share_clipped)
    assert abs(noise.mean().item()) < 4 * deviation / np.sqrt(len(noise))


def test_shot_noise_is_poisson() -> None:
    grey, masks = torch.full((1, 3, 128, 128), 0.4), torch.zeros(1, 1, 128, 128)
    noisy = corrupt(Corruption.SHOT_NOISE, 3, grey, masks, torch.tensor([2]))[0].flatten().double()
    assert noisy.mean().item() == pytest.approx(0.4, abs=0.004)
    assert noisy.var().item() == pytest.approx(0.4 / 50, rel=0.05)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.01), (5, 0.14)])
def test_impulse_noise_turns_its_share_of_values_black_or_white(severity: int, share: float) -> None:
    grey, masks = torch.full((1, 3, 128, 128), 0.5), torch.zeros(1, 1, 128, 128)
    noisy = corrupt(Corruption.IMPULSE_NOISE, severity, grey, masks, torch.tensor([3]))[0]
    n = noisy.numel()
    for extreme in (0.0, 1.0):
        count = int((noisy == extreme).sum())
        assert stats.binomtest(count, n, share / 2).pvalue > 1e-4
    rest = noisy[(noisy > 0) & (noisy < 1)]
    torch.testing.assert_close(rest, torch.full_like(rest, 0.5), rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("corruption", BLURS)
def test_a_blur_leaves_one_color_alone_and_smooths_an_edge(corruption: Corruption) -> None:
    grey, masks = torch.full((1, 3, SIDE, SIDE), 102 / 255), torch.zeros(1, 1, SIDE, SIDE)
    assert torch.equal(corrupt(corruption, 5, grey, masks, torch.tensor([1]))[0], grey)
    checks = torch.zeros(1, 3, SIDE, SIDE)
    checks[..., ::2] = 1
    blurred, _ = corrupt(corruption, 5, checks, masks, torch.tensor([1]))
    assert blurred.var() < 0.5 * checks.var()


@pytest.mark.parametrize(("side", "radius"), [(64, 3), (128, 6)])
def test_defocus_of_a_point_is_a_disk_of_the_radius_which_grows_with_the_side(side: int, radius: int) -> None:
    point = torch.zeros(1, 3, side, side)
    point[..., side // 2, side // 2] = 1
    masks, seeds = torch.zeros(1, 1, side, side), torch.tensor([0])
    spread = corrupt(Corruption.DEFOCUS_BLUR, 5, point, masks, seeds)[0][0, 0].double().numpy()
    rows, columns = np.mgrid[:side, :side] - side // 2
    assert np.hypot(rows, columns)[spread > 0].max() <= radius + 1
    # The variance of a coordinate over a disk, and that of sharing a point among the pixels around it.
    assert (spread * rows**2).sum() / spread.sum() == pytest.approx(radius**2 / 4 + 1 / 6, rel=0.1)
    assert (spread * columns).sum() == pytest.approx(0, abs=1e-6)


def test_motion_is_along_a_line_that_the_seed_draws_within_45_degrees_of_level() -> None:
    side, severity, seeds = 128, 5, torch.arange(24)
    block = torch.zeros(len(seeds), 3, side, side)
    block[..., 60:69, 60:69] = 1
    moved = corrupt(Corruption.MOTION_BLUR, severity, block, block[:, :1], seeds)[0][:, 0].double().numpy()
    total, places = moved.sum(axis=(1, 2)), np.arange(side) - 64  # around its middle
    down, along = (moved.sum(axis=2) * places).sum(axis=1) / total, (moved.sum(axis=1) * places).sum(axis=1) / total
    number = list(Corruption).index(Corruption.MOTION_BLUR)
    drawn = [np.random.default_rng([seed, number, severity]).uniform(-45, 45) for seed in seeds.tolist()]
    assert np.degrees(np.arctan(down / along)) == pytest.approx(drawn, abs=0.1)


def test_brightness_raises_the_value_of_hsv_and_contrast_shrinks_the_distance_from_the_mean() -> None:
    images, masks, seeds = pictures()
    brighter, _ = corrupt(Corruption.BRIGHTNESS, 2, images, masks, seeds)
    torch.testing.assert_close(brighter.amax(1), (images.amax(1) + 0.2).clamp_max(1), rtol=0, atol=0.51 / 255)
    black, _ = corrupt(Corruption.BRIGHTNESS, 2, 0 * images, masks, seeds)
    torch.testing.assert_close(black, torch.full_like(images, 0.2), rtol=0, atol=1e-6)  # has no hue: grey, and 0.2 is 51 / 255
    flat, _ = corrupt(Corruption.CONTRAST, 3, images, masks, seeds)
    means = images.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(flat, (images - means) * 0.2 + means, rtol=0, atol=0.51 / 255)


def test_pixels_of_half_the_resolution_are_blocks_with_their_mean() -> None:
    images, masks, seeds = pictures()
    blocks, _ = corrupt(Corruption.PIXELATE, 5, images, masks, seeds)
    means = torch.nn.functional.avg_pool2d(images, 2)
    torch.testing.assert_close(blocks, means.repeat_interleave(2, 2).repeat_interleave(2, 3), rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_mask_of_an_elastic_image_follows_its_object(severity: int) -> None:
    _, masks, seeds = pictures()
    images = masks.expand(-1, 3, -1, -1).clone()  # the object is white: wherever it goes, it can be seen
    changed, moved = corrupt(Corruption.ELASTIC, severity, images, masks, seeds)
    torch.testing.assert_close(changed, moved.expand(-1, 3, -1, -1), rtol=0, atol=0.51 / 255)
    assert not torch.equal(moved, masks)
