"""A thousand damaged image files of many formats: each is read or rejected in one line; none that is cut short is accepted."""

import contextlib
import io
import signal
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from pipeline.data.images import open_image, readable_formats
from pipeline.data.rules import Rejected

WIDTH, HEIGHT = 61, 47
LIMIT_S = 20
"""What a file may take before it counts as a hang; each takes milliseconds."""
FORMATS = [
    ("BMP", "RGB", {}),
    ("DDS", "RGB", {}),
    ("DIB", "RGB", {}),
    ("GIF", "P", {}),
    ("ICO", "RGBA", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "CMYK", {}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG2000", "RGB", {}),
    ("MSP", "1", {}),
    ("PCX", "RGB", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "I;16", {}),
    ("PPM", "RGB", {}),
    ("PPM", "1", {}),
    ("SGI", "RGB", {}),
    ("TGA", "RGB", {"compression": "tga_rle"}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "F", {}),
    ("TIFF", "I;16", {"compression": "tiff_adobe_deflate"}),
    ("WEBP", "RGB", {}),
    ("AVIF", "RGB", {}),
]


def whole(kind: str, mode: str, options: dict[str, object]) -> bytes:
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    if mode == "F":
        image = Image.fromarray(np.asarray(image.convert("L"), dtype=np.float32) / 255)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def damaged(content: bytes, other: bytes, random: np.random.Generator) -> dict[str, bytes]:
    """A file cut short, with bits turned over, with bytes written over, with another file inside, and repeated."""
    size = len(content)
    flipped, overwritten = bytearray(content), bytearray(content)
    for position in random.integers(0, size, random.integers(1, 12)):
        flipped[position] ^= 1 << int(random.integers(0, 8))
    start = int(random.integers(0, size))
    overwritten[start : start + 16] = random.bytes(16)
    header = bytearray(content)
    for position in random.integers(0, min(size, 64), 3):
        header[position] = int(random.choice([0, 0x7F, 0x80, 0xFF]))
    return {
        "cut": content[: int(random.integers(1, max(2, size * 9 // 10)))],
        "flipped": bytes(flipped),
        "overwritten": bytes(overwritten),
        "header": bytes(header),
        "spliced": content[: size // 2] + other[len(other) // 2 :],
        "text": b"this is no picture, whatever its name says " * int(random.integers(0, 9)),
        "repeated": content * 2,
        "empty": b"",
    }


class HangError(Exception):
    pass


def read(path: Path) -> np.ndarray:
    """The pixels of a picture, after its mask was read as well."""
    with open_image(path) as opened:
        pixels = opened.picture().array()
    with contextlib.suppress(Rejected), open_image(path) as opened:  # a picture is seldom a mask
        opened.mask().array()
    return pixels


@pytest.mark.slow
def test_a_thousand_damaged_files_end_in_pixels_or_one_line(tmp_path: Path) -> None:
    def ring(*_: object) -> None:
        raise HangError

    random = np.random.default_rng(7)
    contents = {case[:2]: whole(*case) for case in FORMATS if case[0] != "AVIF" or features.check("avif")}
    others = list(contents.values())
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    former = signal.signal(signal.SIGALRM, ring)
    try:
        for turn in range(6):
            for number, ((kind, mode), content) in enumerate(contents.items()):
                for damage, broken in damaged(content, others[(number + 1 + turn) % len(others)], random).items():
                    path = tmp_path / f"file{random.choice(['.png', '.jpg', '.tif'])}"
                    path.write_bytes(broken)
                    signal.alarm(LIMIT_S)
                    try:
                        with warnings.catch_warnings():
                            warnings.simplefilter("error")
                            pixels = read(path)
                    except Rejected as error:
                        outcomes["rejected"] += 1
                        if "\n" in error.detail or not error.detail or len(error.detail) > 400:
                            wrong.append(f"{kind} {mode} {damage}: {error.detail!r}")
                        continue
                    except Exception as error:  # what this test is about
                        wrong.append(f"{kind} {mode} {damage}: {type(error).__name__} {error}")
                        continue
                    finally:
                        signal.alarm(0)
                    outcomes["read"] += 1
                    if damage in ("text", "empty", "cut"):
                        wrong.append(f"{kind} {mode} {damage}: accepted with {pixels.shape}")
    finally:
        signal.signal(signal.SIGALRM, former)
    assert sum(outcomes.values()) + len(wrong) >= 1000
    assert outcomes["rejected"] > 500
    assert outcomes["read"] > 50
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", FORMATS, ids=lambda case: "-".join(case[:2]))
def test_every_format_that_is_damaged_here_is_read_when_it_is_whole(
    tmp_path: Path, case: tuple[str, str, dict[str, object]]
) -> None:
    if case[0] == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    assert case[0] in {*readable_formats(), "JPEG2000"}
    (tmp_path / "a.png").write_bytes(whole(*case))
    assert np.ptp(read(tmp_path / "a.png")) > 100
