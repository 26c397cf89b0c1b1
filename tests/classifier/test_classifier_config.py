"""The configuration of a classifier: what is refused, and the shipped files."""

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from classifier.config import ClassifierConfig

ADAPTER = TypeAdapter(ClassifierConfig)
SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "classifier").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    written = yaml.safe_load(path.read_text())
    named = {"name": "convnext_atto"} if path.stem == "timm" else {}  # the one name that the user gives
    assert ADAPTER.validate_python(written | named).architecture == written["architecture"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stem": "imagenet"}, "small_resnet has no imagenet stem: set stem to small, "),
        ({"weights": "imagenet"}, "small_resnet has no imagenet weights: set weights to null, "),
        ({"architecture": "resnet34", "width": 32}, "width is a setting of small_resnet and resnet34 has its own: "),
        (
            {"architecture": "resnet18", "weights": "imagenet"},
            "the imagenet weights do not fit the small stem: set stem to imagenet",
        ),
        ({"architecture": "timm"}, "architecture timm needs the name of one of its networks: set name, "),
        ({"name": "convnext_atto"}, "name is of a network of timm and the architecture is small_resnet: set name to null"),
        ({"architecture": "timm", "name": "convnext_atto", "stem": "small"}, "stem is a setting of the ResNets and convnext_atto "),
        ({"architecture": "timm", "name": "convnext_atto", "width": 8}, "width is a setting of small_resnet and convnext_atto "),
        (
            {"architecture": "timm", "name": "convnext_atto", "weights": "a.pth"},
            "weights=a.pth is a file: set weights_sha256 to its SHA-256",
        ),
        ({"weights_sha256": "0" * 64}, "weights_sha256 is of a file, and weights names none: set it to null"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(settings)
    (error,) = caught.value.errors()
    assert error["msg"].startswith(f"Value error, {said}")
    assert "\n" not in error["msg"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", "resnet20"),
        ("width", 0),
        ("stem", "tiny"),
        ("weights_sha256", "abc"),
        ("std", [0.2, -0.1, 0.2]),
        ("num_classes", 43),
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused_by_key(key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python({key: value})
    assert caught.value.errors()[0]["loc"][0] == key
