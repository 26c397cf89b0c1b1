"""The configuration of a segmenter: what is refused, and the shipped files."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from segmenter.config import SegmenterConfig

ADAPTER = TypeAdapter(SegmenterConfig)
SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "segmenter").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    config = ADAPTER.validate_python(yaml.safe_load(path.read_text()))
    assert len(config.decoder_channels) == config.encoder_depth  # all of them are U-Nets


def test_the_small_config_is_the_default() -> None:
    small = next(path for path in SHIPPED if path.stem == "small")
    assert ADAPTER.validate_python(yaml.safe_load(small.read_text())) == SegmenterConfig()


def test_decoder_channels_that_do_not_match_the_depth_are_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"^decoder_channels has 2 numbers \(64, 32\) but encoder_depth is 3: [^\n]*$"):
        SegmenterConfig(encoder_depth=3, decoder_channels=(64, 32))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"architecture": "fpn", "decoder_channels": (64, 32)}, "fpn takes one number of decoder_channels, not 2: set it to null"),
        ({"architecture": "linknet", "decoder_channels": (64,)}, "linknet takes no decoder_channels, not 1: set it to null"),
        ({"encoder_weights": "a.pth"}, "encoder_weights=a.pth is a file: set encoder_weights_sha256 to its SHA-256"),
        ({"encoder_weights_sha256": "0" * 64}, "encoder_weights_sha256 is of a file, and encoder_weights names none: "),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(said)}[^\n]*$"):
        SegmenterConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("depth", "channels"), [(3, (64, 32, 16)), (5, (256, 128, 64, 32, 16))])
def test_a_u_nets_channels_double_with_every_level(depth: int, channels: tuple[int, ...]) -> None:
    assert SegmenterConfig(encoder_depth=depth).decoder_channels == channels


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_depth", 2),
        ("encoder_depth", 6),
        ("decoder_channels", [64, 32, 0]),
        ("std", [0.2, 0.2, 0.0]),
        ("mean", [0.5, 0.5]),
        ("architecture", "unett"),
        ("encoder_weights_sha256", "abc"),
        ("encodr", "resnet18"),
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused_by_key(key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python({key: value})
    assert caught.value.errors()[0]["loc"][0] == key
