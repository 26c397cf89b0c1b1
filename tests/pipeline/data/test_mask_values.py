"""What the values of a mask file mean; every kind that people really have, with what is right for it."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.images import Raster, open_image
from pipeline.data.rules import Rejected

HEIGHT, WIDTH = 60, 80
Y, X = np.mgrid[:HEIGHT, :WIDTH]
DISC = (Y - 20) ** 2 + (X - 24) ** 2 <= 12**2
OTHER = (Y - 42) ** 2 + (X - 60) ** 2 <= 9**2
PHOTO = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
BINARY = DISC.astype(np.uint8) * 255


def soft(sigma: float) -> np.ndarray:
    """Blurred edges, 0 to 1, with a largest value of 1."""
    blurred = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), sigma)
    return np.asarray(blurred / blurred.max())


def read(path: Path) -> Raster:
    with open_image(path) as opened:
        return opened.mask()


def fault(path: Path) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read(path)
    return caught.value


def palette(index: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(index.astype(np.uint8)).convert("P")
    image.putpalette([value for color in colors for value in color] + [0] * (768 - 3 * len(colors)))
    return image


def array(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels))


RIGHT: list[tuple[str, Callable[[], Image.Image], str]] = [
    ("m.png", lambda: array(BINARY), "file-0-255"),
    ("m.png", lambda: array(DISC.astype(np.uint8)), "file-0-1"),
    ("m.png", lambda: array(DISC.astype(np.uint8) * 134), "file-two-values"),
    ("m.png", lambda: array(DISC.astype(np.uint8) * 2), "file-two-values"),
    ("m.png", lambda: array(BINARY).convert("1"), "file-0-255"),
    ("m.bmp", lambda: array(BINARY).convert("RGB"), "file-0-255"),
    ("m.gif", lambda: array(BINARY).convert("1"), "file-0-255"),
    ("m.png", lambda: palette(DISC, [(0, 0, 0), (128, 0, 0)]), "file-index"),
    ("m.png", lambda: palette(DISC, [(0, 0, 0), (50, 205, 90)]), "file-index"),
    ("m.png", lambda: palette(DISC * 7, [(255, 255, 255)] + [(9, 9, 9)] * 6 + [(255, 0, 255)]), "file-index"),
    ("m.png", lambda: palette(~DISC, [(255, 255, 255), (0, 0, 0)]), "file-0-255"),  # grey colors: white is the object
    ("m.png", lambda: array(BINARY).quantize(2), "file-0-255"),  # Pillow writes white first
    ("m.png", lambda: palette(DISC, [(0, 0, 0), (0, 0, 0)]), "file-index"),  # labels without a palette
    ("m.png", lambda: palette(DISC, [(40, 40, 40), (90, 90, 90)]), "file-index"),
    ("m.tif", lambda: array(DISC.astype(np.uint16)), "file-16-bit"),
    ("m.png", lambda: array(DISC.astype(np.uint16) * 65535), "file-16-bit"),
    ("m.png", lambda: array(DISC.astype(np.uint16) * 300), "file-16-bit"),
    ("m.tif", lambda: array((DISC.astype(np.uint16) * 300).astype(">u2")), "file-16-bit"),
    ("m.tif", lambda: array(DISC.astype(np.int32) * 70000), "file-16-bit"),
    ("m.tif", lambda: array(DISC.astype(np.float32)), "file-float"),
    ("m.tif", lambda: array(DISC.astype(np.float32) * 255), "file-float"),
    ("m.png", lambda: array(np.dstack([PHOTO, BINARY])), "file-alpha"),
    ("m.tif", lambda: array(np.dstack([PHOTO, BINARY])), "file-alpha"),
    ("m.png", lambda: array(np.dstack([PHOTO[..., 0], BINARY])), "file-alpha"),
    ("m.png", lambda: array(np.dstack([np.full_like(PHOTO, 255), BINARY])), "file-alpha"),
    ("m.png", lambda: array(np.dstack([np.repeat(BINARY[..., None], 3, 2), np.full_like(BINARY, 255)])), "file-0-255"),
    ("m.png", lambda: array(np.dstack([BINARY, np.full_like(BINARY, 255)])), "file-0-255"),
]


@pytest.mark.parametrize(("name", "make", "recipe"), RIGHT, ids=[f"{number}-{case[2]}" for number, case in enumerate(RIGHT)])
def test_a_mask_of_one_object_is_the_same_however_it_is_stored(
    tmp_path: Path, name: str, make: Callable[[], Image.Image], recipe: str
) -> None:
    make().save(tmp_path / name)
    found = read(tmp_path / name)
    np.testing.assert_array_equal(found.array(), BINARY)
    assert found.recipe == recipe


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("clear", [0, 1])
def test_a_grey_value_that_is_called_transparent_says_nothing(tmp_path: Path, mode: str, clear: int) -> None:
    array(BINARY).convert(mode).save(tmp_path / "m.png", transparency=clear * (255 if mode == "L" else 1))
    np.testing.assert_array_equal(read(tmp_path / "m.png").array(), BINARY)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 3.0, 10.0, 40.0])
@pytest.mark.parametrize(
    ("name", "scale", "kind"), [("m.png", 255, np.uint8), ("m.png", 65535, np.uint16), ("m.tif", 1, np.float32)]
)
def test_a_soft_mask_keeps_its_shares_at_any_depth(tmp_path: Path, sigma: float, name: str, scale: int, kind: type) -> None:
    stored = soft(sigma) * scale
    array((stored if kind is np.float32 else np.rint(stored)).astype(kind)).save(tmp_path / name)
    np.testing.assert_allclose(read(tmp_path / name).array(), soft(sigma) * 255, atol=1.01)


def antialiased() -> np.ndarray:
    large = cv2.resize(DISC.astype(np.uint8), (WIDTH * 4, HEIGHT * 4), interpolation=cv2.INTER_NEAREST)
    turned = cv2.warpAffine(large, cv2.getRotationMatrix2D((100, 80), 10, 1), (WIDTH * 4, HEIGHT * 4)) * 255
    return np.asarray(cv2.resize(turned, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))


def sigmoid() -> np.ndarray:
    """What a network says: nearly flat inside and outside, with little noise."""
    distance = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), 2) - 0.5
    noise = cv2.GaussianBlur(np.random.default_rng(1).normal(size=DISC.shape), (0, 0), 2)
    return np.asarray(np.rint(255 / (1 + np.exp(-14 * distance - noise)))).astype(np.uint8)


@pytest.mark.parametrize("make", [antialiased, sigmoid, lambda: antialiased() // 64 * 64, lambda: np.maximum(antialiased(), 3)])
def test_edges_with_few_or_many_values_and_noisy_areas_are_no_index(tmp_path: Path, make: Callable[[], np.ndarray]) -> None:
    array(make()).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read(tmp_path / "m.png").array(), make())


@pytest.mark.parametrize("quality", [15, 35, 75, 95])
@pytest.mark.parametrize(("name", "mode"), [("m.jpg", "L"), ("m.jpg", "RGB"), ("m.webp", "RGB")])
def test_a_lossy_mask_is_read_within_its_noise(tmp_path: Path, quality: int, name: str, mode: str) -> None:
    array(BINARY).convert(mode).save(tmp_path / name, quality=quality)
    found = read(tmp_path / name).array()
    assert ((found >= 128) == DISC).mean() > 0.985
    array(found).save(tmp_path / "again.png")  # the noise is kept where it is saved without loss
    np.testing.assert_array_equal(read(tmp_path / "again.png").array(), found)


def test_a_grey_picture_in_a_palette_is_a_soft_mask(tmp_path: Path) -> None:
    stored = np.rint(soft(2.0) * 255).astype(np.uint8)
    levels = np.unique(stored)
    palette(np.searchsorted(levels, stored), [(int(v),) * 3 for v in levels]).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read(tmp_path / "m.png").array(), stored)


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [(2, 0, "faint-mask"), (240, 120, "index-mask"), (120, 0, "faint-mask"), (160, 0, "faint-mask"), (90, 200, "index-mask")],
)
def test_a_lossy_mask_of_areas_that_are_not_white_is_refused(
    tmp_path: Path, first: int, second: int, rule: str, quality: int
) -> None:
    drawn = np.where(DISC, first, np.where(OTHER, second, 0)).astype(np.uint8)
    for name in ("m.jpg", "m.webp"):
        array(drawn).save(tmp_path / name, quality=quality)
        assert fault(tmp_path / name).rule == rule


@pytest.mark.parametrize("sigma", [2.0, 6.0])
@pytest.mark.parametrize("quality", [15, 50, 95])
def test_a_blurred_mask_is_soft_also_where_it_is_lossy(tmp_path: Path, quality: int, sigma: float) -> None:
    stored = np.rint(soft(sigma) * 255).astype(np.uint8)
    array(stored).save(tmp_path / "m.jpg", quality=quality)
    assert np.abs(read(tmp_path / "m.jpg").array().astype(int) - stored).max() < 64


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
@pytest.mark.parametrize(
    ("white", "rule"), [(65535, None), (255, "unsupported-mode"), (1, "unsupported-mode"), (30000, "unsupported-mode")]
)
def test_several_channels_of_16_bits_are_a_mask_only_where_they_are_black_and_white(
    tmp_path: Path, name: str, white: int, rule: str | None
) -> None:
    cv2.imwrite(str(tmp_path / name), np.repeat(DISC[..., None], 3, 2).astype(np.uint16) * white)
    if rule is None:
        np.testing.assert_array_equal(read(tmp_path / name).array(), BINARY)
    else:
        assert fault(tmp_path / name).rule == rule


def two_objects(first: int, second: int, background: int = 0) -> np.ndarray:
    return np.where(DISC, first, np.where(OTHER, second, background))


def rim() -> np.ndarray:
    return cv2.dilate(DISC.astype(np.uint8), np.ones((7, 7))).astype(bool) & ~DISC


def edge() -> np.ndarray:
    """A line of one pixel around the disc, which might be a soft edge."""
    return cv2.dilate(DISC.astype(np.uint8), np.ones((3, 3))).astype(bool) & ~DISC


WRONG: list[tuple[str, Callable[[], Image.Image], str, str]] = [
    ("m.png", lambda: array(np.zeros_like(BINARY)), "empty-mask", "all pixels are 0"),
    ("m.tif", lambda: array(np.zeros_like(BINARY, dtype=np.float32)), "empty-mask", "all pixels are 0"),
    ("m.png", lambda: array(np.dstack([PHOTO, BINARY * 0])), "empty-mask", "transparent"),
    ("m.png", lambda: array(two_objects(1, 2).astype(np.uint8)), "index-mask", "values 0, 1, 2"),
    ("m.png", lambda: array(two_objects(130, 141).astype(np.uint8)), "index-mask", "values 0, 130, 141"),
    ("m.png", lambda: array(two_objects(250, 251).astype(np.uint8)), "index-mask", "values 0, 250, 251"),
    ("m.png", lambda: array(two_objects(1, 255).astype(np.uint8)), "index-mask", "values 0, 1, 255"),
    ("m.png", lambda: array(two_objects(1, 3, 2).astype(np.uint8)), "index-mask", "values 1, 2, 3"),
    ("m.png", lambda: array(np.where(DISC, 2, 1).astype(np.uint8)), "index-mask", "values 1, 2"),
    ("m.png", lambda: array(np.where(DISC, 255, 128).astype(np.uint8)), "index-mask", "values 128, 255: neither is 0"),
    ("m.png", lambda: array(np.where(rim(), 128, BINARY).astype(np.uint8)), "index-mask", "values 0, 128, 255"),
    ("m.png", lambda: array(np.where(rim(), 255, DISC).astype(np.uint8)), "index-mask", "values 0, 1, 255"),
    ("m.png", lambda: array(two_objects(1, 2).astype(np.uint16)), "index-mask", "values 0, 1, 2"),
    ("m.png", lambda: array(two_objects(40000, 50000).astype(np.uint16)), "index-mask", "values 0, 40000, 50000"),
    ("m.png", lambda: array(np.rint(soft(3) * 4095).astype(np.uint16)), "faint-mask", "4095 of 65535"),
    ("m.png", lambda: array(np.rint(soft(3) * 100).astype(np.uint8)), "faint-mask", "100 of 255"),
    ("m.tif", lambda: array(soft(3) * 200), "unsupported-mode", "mode F with values from 0 to 200"),
    ("m.tif", lambda: array(soft(3) - 0.5), "unsupported-mode", "mode F"),
    ("m.tif", lambda: array(np.where(DISC, np.nan, 0).astype(np.float32)), "unsupported-mode", "no numbers"),
    (
        "m.png",
        lambda: palette(two_objects(1, 2), [(0, 0, 0), (128, 0, 0), (0, 128, 0)]),
        "index-mask",
        "0 (0, 0, 0), 1 (128, 0, 0)",
    ),
    ("m.png", lambda: palette(np.where(DISC, 2, 1), [(0, 0, 0), (128, 0, 0), (0, 128, 0)]), "index-mask", "palette indices 1"),
    # Palettes of greys whose indices are labels: an index has no soft edges, also where it is thin.
    ("m.png", lambda: palette(two_objects(1, 2), [(0,) * 3, (128,) * 3, (128,) * 3]), "index-mask", "2 (128, 128, 128)"),
    ("m.png", lambda: palette(two_objects(1, 2), [(0,) * 3] * 3), "index-mask", "palette indices 0 (0, 0, 0), 1"),
    ("m.png", lambda: palette(np.where(edge(), 1, 2 * DISC), [(0,) * 3, (127,) * 3, (255,) * 3]), "index-mask", "1 (127, 127"),
    ("m.png", lambda: palette(DISC, [(200,) * 3, (100,) * 3]), "index-mask", "by the index the darker one"),
    ("m.png", lambda: array(np.where(DISC[..., None], (51, 221, 255), 0).astype(np.uint8)), "color-mask", "(51, 221, 255)"),
    ("m.jpg", lambda: array(np.where(DISC[..., None], (51, 221, 255), 0).astype(np.uint8)), "color-mask", "channels differ"),
    (
        "m.tif",
        lambda: array(np.where(DISC[..., None], (250, 50, 83), 9).astype(np.uint8)).convert("CMYK"),
        "color-mask",
        "channels",
    ),
    ("m.png", lambda: colored_cut_out(), "color-mask", "(51, 221, 255), (250, 50, 83)"),
]


def colored_cut_out() -> Image.Image:
    colors = np.where(DISC[..., None], (51, 221, 255), (250, 50, 83)).astype(np.uint8)
    return array(np.dstack([colors, (DISC | OTHER).astype(np.uint8) * 255]))


@pytest.mark.parametrize(("name", "make", "rule", "words"), WRONG, ids=[f"{n}-{case[2]}" for n, case in enumerate(WRONG)])
def test_what_is_no_mask_of_one_object_is_refused_with_what_was_found(
    tmp_path: Path, name: str, make: Callable[[], Image.Image], rule: str, words: str
) -> None:
    make().save(tmp_path / name)
    found = fault(tmp_path / name)
    assert found.rule == rule
    assert words in found.detail
    assert "\n" not in found.detail


@given(
    values=st.lists(st.integers(1, 255), min_size=2, max_size=5, unique=True),
    bands=st.integers(3, 12),
    background=st.sampled_from([0, 1, 200]),
)
def test_areas_of_several_values_are_an_index_whatever_the_values(values: list[int], bands: int, background: int) -> None:
    drawn = np.full((60, 90), background, dtype=np.uint8)
    for number in range(len(values)):  # apart from each other by 4 rows
        drawn[2 + number * 11 : 2 + number * 11 + 7, 5 : 5 + 7 * bands] = values[number]
    if len({*values, background} - {0}) < 2:
        return
    from pipeline.data.mask_values import read_weights

    with pytest.raises(Rejected) as caught:
        read_weights(Image.fromarray(drawn), lossy=False)
    assert caught.value.rule == "index-mask"
