"""The one reader of pixels: what a file holds decides, before anything is converted."""

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from pipeline.data import images
from pipeline.data.images import Raster, image_suffixes, open_image, readable_formats, resize
from pipeline.data.rules import REMEDIES, Rejected

HEIGHT, WIDTH = 24, 40


def photo(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth enough that lossy formats keep it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def picture(path: Path, *, shrink: float = 1.0) -> Raster:
    with open_image(path) as opened:
        return opened.picture(shrink=shrink)


def with_orientation(image: Image.Image, turn: int, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(path, exif=exif, subsampling=0, quality=95)


# --- orientation

# Where the stored first row and column lie in the upright picture, from the EXIF standard (2.32, tag 0x0112), as array operations.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("turn", list(STORED))
def test_every_orientation_is_made_upright(tmp_path: Path, turn: int, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(STORED[turn](photo()))).save(path, exif=exif, lossless=True)
    with open_image(path) as opened:
        assert (opened.width, opened.height, opened.turn) == (WIDTH, HEIGHT, turn)
        assert opened.stored_size == ((HEIGHT, WIDTH) if turn >= 5 else (WIDTH, HEIGHT))
        found = opened.picture()
    np.testing.assert_array_equal(found.array(), photo())
    assert found.notes == (frozenset({"turned"}) if turn > 1 else frozenset())


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\xff", b"x"])
def test_damaged_exif_data_do_not_cost_a_sound_picture(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert picture(tmp_path / "a.jpg").array().shape == (HEIGHT, WIDTH, 3)


# --- modes


def grey() -> np.ndarray:
    return np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("a.png", grey().astype(np.uint16) * 257),
        ("a.tif", grey().astype(np.uint16) * 257),
        ("a.tif", (grey().astype(np.uint16) * 257).astype(">u2")),
        ("a.tif", grey().astype(np.int32) * 257),
        ("a.tif", grey().astype(np.float32) / 255),
        ("a.pgm", grey().astype(np.uint16) * 257),
    ],
)
def test_a_deep_grey_picture_is_scaled_by_the_range_of_its_mode(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    found = picture(tmp_path / name)
    np.testing.assert_array_equal(found.array(), np.repeat(grey()[:, :, None], 3, axis=2))
    assert "scaled" in found.notes


@pytest.mark.parametrize(
    ("pixels", "detail"),
    [
        (grey().astype(np.uint16), "mode I;16 whose largest value is 255 of 65535"),
        (grey().astype(np.uint16) * 16, "mode I;16 whose largest value is 4080 of 65535"),
        (grey().astype(np.float32), "mode F with values from 0 to 255, expected 0 to 1"),
        (grey().astype(np.float32) - 1, "mode F with values from -1"),
        (np.full((HEIGHT, WIDTH), np.nan, np.float32), "mode F with values from nan"),
        (grey().astype(np.int32) * 70000, "mode I with values from 0 to"),
    ],
)
def test_a_deep_picture_of_another_range_is_refused_with_its_mode(tmp_path: Path, pixels: np.ndarray, detail: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(Rejected) as caught:
        picture(tmp_path / "a.tif")
    assert caught.value.rule == "unsupported-mode"
    assert detail in caught.value.detail


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("num_channels", [3, 4])
def test_colors_of_16_bits_are_scaled_or_refused_where_they_would_be_black(tmp_path: Path, ending: str, num_channels: int) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    opaque = np.full((HEIGHT, WIDTH, num_channels - 3), 65535, np.uint16)
    path = tmp_path / f"a{ending}"
    cv2.imwrite(str(path), np.dstack([stored[..., ::-1] * 257, opaque]))
    with open_image(path) as opened:
        found = opened.picture()
    np.testing.assert_array_equal(found.array(), stored)
    assert found.notes == {"scaled"}
    cv2.imwrite(str(path), np.dstack([stored[..., ::-1] * 16, opaque]))  # 12 bits, as many cameras have
    with pytest.raises(Rejected) as caught:
        picture(path)
    assert (caught.value.rule, "would be black" in caught.value.detail) == ("unsupported-mode", True)


def test_transparent_pixels_are_laid_on_white_whatever_color_they_hide(tmp_path: Path) -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[5:10, 5:20], alpha[12:16] = 255, 100
    Image.fromarray(np.dstack([photo(), alpha])).save(tmp_path / "a.png")
    found = picture(tmp_path / "a.png")
    share = alpha[:, :, None] / 255
    np.testing.assert_allclose(found.array(), photo() * share + 255 * (1 - share), atol=1)
    assert found.notes == {"composited"}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_found_in_every_mode_that_has_it(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (WIDTH, HEIGHT))
    if mode == "P":
        image.putpalette([10, 20, 30, 200, 100, 0])
        image.paste(1, (0, 0, 10, 10))
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image.paste((200, 100, 0, 255) if mode == "RGBA" else (90, 255), (0, 0, 10, 10))
        image.save(tmp_path / "a.png")
    found = picture(tmp_path / "a.png")
    assert found.notes == {"composited"}
    assert (found.array()[10:] == 255).all()
    assert tuple(found.array()[0, 0]) == ((90, 90, 90) if mode == "LA" else (200, 100, 0))


def test_an_opaque_alpha_channel_changes_nothing_and_a_clear_one_is_refused(tmp_path: Path) -> None:
    for alpha in (0, 255):
        Image.fromarray(np.dstack([photo(), np.full((HEIGHT, WIDTH), alpha, np.uint8)])).save(tmp_path / f"{alpha}.png")
    found = picture(tmp_path / "255.png")
    np.testing.assert_array_equal(found.array(), photo())
    assert not found.notes
    with pytest.raises(Rejected) as caught:
        picture(tmp_path / "0.png")
    assert caught.value.rule == "transparent-image"


@pytest.mark.parametrize(("mode", "name"), [("1", "a.png"), ("P", "a.gif"), ("CMYK", "a.jpg"), ("YCbCr", "a.jpg"), ("L", "a.bmp")])
def test_other_modes_are_the_colors_that_viewers_show(tmp_path: Path, mode: str, name: str) -> None:
    stored = Image.fromarray(photo()).convert(mode)
    stored.save(tmp_path / name, **({"subsampling": 0, "quality": 98} if name.endswith("jpg") else {}))
    np.testing.assert_allclose(picture(tmp_path / name).array(), np.asarray(stored.convert("RGB")).astype(int), atol=9)


def test_colors_without_an_agreed_meaning_are_refused(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(Rejected, match="mode LAB"):
        picture(tmp_path / "a.tif")


# --- pages, sizes, memory


@pytest.mark.parametrize("ending", [".gif", ".tif", ".png", ".webp"])
def test_several_pages_or_frames_are_refused(tmp_path: Path, ending: str) -> None:
    pages = [Image.fromarray(photo(seed)) for seed in range(3)]
    pages[0].save(tmp_path / f"a{ending}", save_all=True, append_images=pages[1:])
    with pytest.raises(Rejected) as caught:
        picture(tmp_path / f"a{ending}")
    assert (caught.value.rule, caught.value.detail[:7]) == ("several-pages", "3 pages")


def test_a_photograph_with_a_preview_is_the_photograph(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.mpo", save_all=True, append_images=[Image.fromarray(photo(1))], quality=98)
    difference = np.abs(picture(tmp_path / "a.mpo").array().astype(int) - photo())
    assert difference.mean() < 6 < np.abs(photo(1).astype(int) - photo()).mean()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; the pixels are those of a small one."""
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, format="PNG")
    content = bytearray(stream.getvalue())
    content[16:24] = struct.pack(">II", width, height)
    import zlib

    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


@pytest.mark.slow
def test_a_picture_that_would_fill_the_memory_is_refused_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(40000, 40000))
    with pytest.raises(Rejected) as caught:
        picture(tmp_path / "bomb.png")
    assert caught.value.rule == "too-many-pixels"
    assert caught.value.detail.startswith("40000 x 40000 pixels of PNG")
    assert "MiB" in caught.value.detail
    assert Image.MAX_IMAGE_PIXELS is not None, "the limit of other users of Pillow is left as it was"


def area_mean(pixels: np.ndarray, left: int, top: int, side: int, size: int, *, replicate: bool) -> np.ndarray:
    """A square by its definition: padded, then block means. Slow and whole."""
    height, width = pixels.shape[:2]
    rows, columns = (np.arange(start, start + side) for start in (top, left))
    if replicate:
        square = pixels[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
    else:
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        square = np.where(inside, pixels[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)], 0)
    block = side // size
    return square.reshape(size, block, size, block, -1).mean(axis=(1, 3)).squeeze()


@pytest.mark.parametrize(("left", "top", "side"), [(0, 0, 24), (-10, -20, 64), (8, -8, 40)])
def test_a_large_square_is_shrunk_in_strips_as_a_small_one_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, top: int, side: int
) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:20, 7:30] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    with open_image(tmp_path / "a.png") as opened, open_image(tmp_path / "m.png") as drawn:
        rasters = {True: opened.picture(), False: drawn.mask()}
    whole = {replicate: raster.square(left, top, side, 8) for replicate, raster in rasters.items()}
    monkeypatch.setattr(images, "EXACT_PIXELS", 1)
    monkeypatch.setattr(images, "STRIP_PIXELS", 3 * WIDTH)
    for replicate, raster in rasters.items():
        strips = raster.square(left, top, side, 8)
        expected = area_mean(photo() if replicate else mask, left, top, side, 8, replicate=replicate)
        np.testing.assert_allclose(strips, expected, atol=0.5 + 1e-3)
        np.testing.assert_allclose(whole[replicate], strips.astype(int), atol=1)


@pytest.mark.parametrize("turn", list(STORED))
def test_jpeg_is_decoded_at_reduced_size_where_a_small_square_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    monkeypatch.setattr(images, "EXACT_PIXELS", 1000)
    pixels = photo(height=400, width=601)
    with_orientation(Image.fromarray(np.ascontiguousarray(STORED[turn](pixels))), turn, tmp_path / "a.jpg")
    reduced, full = picture(tmp_path / "a.jpg", shrink=20), picture(tmp_path / "a.jpg", shrink=1)
    assert (reduced.scale, full.scale) == (8, 1)
    assert (reduced.width, reduced.height) == (full.width, full.height) == (601, 400)
    assert max(reduced.image.size) == 76
    square = resize(np.ascontiguousarray(pixels[:, 100:500]), 20)
    for raster in (reduced, full):
        np.testing.assert_allclose(raster.square(100, 0, 400, 20), square.astype(int), atol=6)


# --- what is no picture


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"not a picture", "text and no image"),
        (b"\x00\x00\x00\x18ftypheic" + b"\x00" * 40, "HEIC, which Pillow cannot read: export it as JPEG"),
        (b"\x00\x00\x00\x18ftypmif1" + b"\x00" * 40, "HEIC"),
        (b"\x00\x00\x00\x18ftypisom" + b"\x00" * 40, "a video"),
        (b"%PDF-1.4\n", "a drawing without pixels: export it as PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a drawing without pixels"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff\n\x00\x00", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"GIF89a", "a GIF that is cut short"),
        (bytes(range(256)), "no image, or damaged"),
    ],
)
def test_a_file_that_is_no_image_is_named_for_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(Rejected) as caught:
        picture(tmp_path / "a.jpg")
    assert caught.value.rule == "unreadable-image"
    assert words in caught.value.detail


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_broken_avif_of_another_name_is_one_line(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(photo()).save(stream, format="AVIF")
    for left, words in ((-60, "damaged"), (40, "it is a damaged AVIF")):
        (tmp_path / "a.png").write_bytes(stream.getvalue()[:left])
        with pytest.raises(Rejected, match=words) as caught:
            picture(tmp_path / "a.png")
        assert caught.value.rule == "unreadable-image"


def test_a_tiff_whose_pixels_nobody_can_read_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), photo().astype(np.float32) / 255)
    with pytest.raises(Rejected, match="it is a TIFF that is damaged, or of pixels that Pillow cannot read"):
        picture(tmp_path / "a.tif")


@pytest.mark.parametrize("shrink", [1, 8])
@pytest.mark.parametrize("kind", ["lost", "cut", "sound", "grey-background", "grey-corner"])
def test_a_jpeg_that_has_lost_its_end_is_noted(tmp_path: Path, kind: str, shrink: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checksum tells that bytes are missing within a JPEG, and every decoder shows what it has of it."""
    monkeypatch.setattr(images, "EXACT_PIXELS", 1000)  # else it is not decoded at reduced size
    pixels = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    if kind == "grey-background":
        pixels[:64] = pixels[-64:] = 128
    if kind == "grey-corner":
        pixels[-4:, -4:] = 128
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    content = path.read_bytes()
    third = len(content) // 3
    if kind == "lost":
        path.write_bytes(content[:third] + content[2 * third :])
    if kind == "cut":
        path.write_bytes(content[:third] + b"\xff\xd9")
    assert ("grey-end" in picture(path, shrink=shrink).notes) is (kind in ("lost", "cut"))


def write_tiff(path: Path, pixels: np.ndarray, photometric: int, sample_format: int) -> None:
    """One uncompressed grey strip."""
    height, width = pixels.shape
    bits = pixels.dtype.itemsize * 8
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height, 279: pixels.nbytes}
    tags |= {339: sample_format}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels.tobytes())


@pytest.mark.parametrize(
    ("kind", "photometric", "sample_format", "detail"),
    [
        (np.uint16, 1, 1, ""),
        (np.uint16, 0, 1, "mode I;16 in which 0 is white"),
        (np.float32, 0, 3, "mode F in which 0 is white"),
        (np.uint8, 0, 1, ""),
        (np.int8, 1, 2, "8 bits with a sign, and values below 0"),
    ],
)
def test_a_tiff_is_not_read_as_its_negative(tmp_path: Path, kind: type, photometric: int, sample_format: int, detail: str) -> None:
    full = 1.0 if kind is np.float32 else float(np.iinfo(kind).max)
    ramp = np.linspace(-full if kind is np.int8 else 0, full, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    path = tmp_path / "a.tif"
    write_tiff(path, ramp.astype(kind), photometric, sample_format)
    if detail:
        for read in (lambda opened: opened.picture(), lambda opened: opened.mask()):
            with open_image(path) as opened, pytest.raises(Rejected) as caught:
                read(opened)
            assert (caught.value.rule, caught.value.detail) == ("unsupported-mode", detail)
    else:
        shown = picture(path).array()[..., 0].astype(int)
        wanted = np.rint(ramp * 255 / full)
        assert np.abs(shown - (255 - wanted if photometric == 0 else wanted)).max() <= 1


def test_a_pipe_and_a_folder_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    for name, words in (("a.png", "it is no file"), ("b.png", "it is no file"), ("c.png", "does not exist")):
        with pytest.raises(Rejected, match=words):
            picture(tmp_path / name)


def test_the_endings_are_those_of_the_formats_that_can_be_decoded() -> None:
    assert {".jpg", ".jfif", ".png", ".tif", ".bmp", ".gif", ".webp", ".ppm", ".tga", ".jp2", ".ico", ".mpo"} <= image_suffixes()
    assert not {".eps", ".pdf", ".h5", ".mpg", ".txt"} & image_suffixes()
    assert "EPS" not in readable_formats()


def test_every_rule_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [rule for rule in REMEDIES if f"`{rule}`" not in page] == []


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_png_with_a_changed_byte_is_damaged(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(Rejected, match="damaged"), open_image(tmp_path / "a.png") as opened:
        opened.picture()
