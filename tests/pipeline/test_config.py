"""A mistake in the configuration is one line with the dotted key and the remedy."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field, TypeAdapter

from pipeline.config import Number, check_overrides, dotted_keys, group_choices, load_config, to_plain, validate
from pipeline.data.prepare import PrepareConfig
from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: Literal["inner"] = "inner"
    epsilon: Annotated[Number, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Other:
    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: Literal["other"] = "other"
    names: dict[str, list[str]] = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Outer:
    __pydantic_config__ = ConfigDict(extra="forbid")
    part: Annotated[Inner | Other, Field(discriminator="kind")]
    steps: list[Inner] | None = None


@given(st.integers(0, 255), st.integers(1, 255))
def test_a_fraction_is_a_number(numerator, denominator):
    parsed = TypeAdapter(Number).validate_python(f"{numerator}/{denominator}")
    assert parsed == numerator / denominator


def test_a_fraction_may_have_a_decimal_point():
    """As reports print it, and exactly: 1.5/255 is 3/510, 0.1/0.3 is a third."""
    assert TypeAdapter(Number).validate_python("1.5/255") == 3 / 510
    assert TypeAdapter(Number).validate_python(" 0.1 / 0.3") == 1 / 3


@pytest.mark.parametrize("text", ["8/0", "1e400/255", "a/255", "8/", "/255", "1/2/3"])
def test_a_fraction_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"part\.epsilon: .*is not a fraction such as 8/255"):
        validate(Outer, {"part": {"kind": "inner", "epsilon": text}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "part: missing; say part=..."),
        ({"part": {"kind": "nothing"}}, "part: 'nothing' is not one of 'inner', 'other'"),
        ({"part": {"kind": "inner", "epsilon": 2}}, "part.epsilon: Input should be less than or equal to 1, got 2"),
        ({"part": {"kind": "inner", "epsilon": "far"}}, "part.epsilon: Input should be a valid number.*got 'far'"),
        ({"part": {"kind": "inner", "epsilom": 0}}, r"part.epsilom: unknown key; did you mean part.epsilon\?"),
        ({"part": {"kind": "inner"}, "steps": [{"epsilon": -1}]}, "steps.0.epsilon: .*greater than or equal to 0"),
    ],
)
def test_the_first_wrong_key_is_named_by_its_dotted_path(values, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        validate(Outer, values)


def test_every_key_over_all_choices_is_known():
    assert set(dotted_keys(Outer)) == {
        *("part", "part.kind", "part.epsilon", "part.names", "part.names.*"),
        *("steps", "steps.kind", "steps.epsilon"),
    } - {"steps.kind", "steps.epsilon"}


def test_a_free_key_inside_a_mapping_is_not_a_typo():
    assert check_overrides(Outer, ["part.names.cat=[a,b]"]) == ["++part.names.cat=[a,b]"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("prepared", "'prepared' is not of the form key=value"),
        ("preparedd=x", r"preparedd: unknown key; did you mean prepared\?"),
        ("data.imagesize=3", r"data.imagesize: unknown key; did you mean data.image_size\?"),
        ("image_size=3", r"image_size: unknown key; did you mean data.image_size\?"),
        ("zzz=3", "zzz: unknown key; --help lists all keys"),
        ("data=syntetic", "data=syntetic: unknown choice; choose one of .*synthetic"),
        ("prepared=a=b c,(", "cannot be read as key=value"),
    ],
)
def test_a_word_that_cannot_be_is_explained(word, message):
    with pytest.raises(ConfigError, match=message):
        load_config("prepare", PrepareConfig, [word])


@pytest.mark.parametrize("source", group_choices("data"))
def test_every_shipped_data_file_composes(source, tmp_path):
    root = [] if source == "synthetic" else [f"data.root={tmp_path}"]
    config = load_config("prepare", PrepareConfig, [f"data={source}", *root])
    assert config.data.image_size > 0


def test_an_override_beats_the_file_and_a_round_trip_keeps_it():
    config = load_config("prepare", PrepareConfig, ["data=synthetic", "data.background_correlation=1/4", "preview=true"])
    assert config.data.background_correlation == 0.25
    assert config.preview
    assert validate(PrepareConfig, to_plain(config)) == config
