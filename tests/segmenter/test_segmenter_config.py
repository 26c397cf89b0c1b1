"""The configuration of a segmenter: what is refused, and the shipped files."""

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
    assert len(config.decoder_channels) == config.encoder_depth


def test_the_small_config_is_the_default() -> None:
    small = next(path for path in SHIPPED if path.stem == "small")
    assert ADAPTER.validate_python(yaml.safe_load(small.read_text())) == SegmenterConfig()


def test_decoder_channels_that_do_not_match_the_depth_are_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"^decoder_channels has 2 numbers \(64, 32\) but encoder_depth is 3: [^\n]*$"):
        SegmenterConfig(encoder_depth=3, decoder_channels=(64, 32))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_depth", 2),
        ("encoder_depth", 6),
        ("decoder_channels", [64, 32, 0]),
        ("std", [0.2, 0.2, 0.0]),
        ("mean", [0.5, 0.5]),
        ("encoder_weights", "ssl"),
        ("encodr", "resnet18"),
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused_by_key(key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python({key: value})
    assert caught.value.errors()[0]["loc"][0] == key
