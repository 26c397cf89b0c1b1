"""A mistake in the configuration is one line with the dotted key and the remedy."""

import ast
import importlib
import inspect
import pkgutil
import re
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field, TypeAdapter

import classifier
import pipeline
import segmenter
from pipeline.attacks.config import PgdConfig
from pipeline.attacks.threat import Knowledge, Region, ThreatModel
from pipeline.cli.composition import check_overrides, load_config
from pipeline.cli.groups import group_choices
from pipeline.config import Number, PreparedRun, dotted_keys, json_schema_of, to_plain, validate
from pipeline.data.config import PrepareConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.training.config import TrainSegmenterConfig


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
        (
            {"part": {"kind": "inner"}, "steps": [{}, {"epsilom": 0}]},
            r"steps.1.epsilom: unknown key; did you mean steps.1.epsilon\?",
        ),
        ({"part": {"kind": "inner"}, "steps": [{"qqq": 0}]}, "steps.0.qqq: unknown key; known are .*epsilon"),
        ({"prat": {"kind": "inner"}}, r"prat: unknown key; did you mean part\? \(and 1 more\)"),
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
        ("workers=a=b c,(", "cannot be read as key=value"),
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


# Validated on construction


def test_a_threat_model_made_of_strings_is_the_one_that_they_name():
    threat = ThreatModel(norm="l2", epsilons=["1/2", 8], region="outside-box", knowledge="hidden-seed")
    assert threat == ThreatModel(norm="l2", epsilons=(0.5, 8.0), region=Region.OUTSIDE_BOX, knowledge=Knowledge.HIDDEN_SEED)
    assert threat.knowledge is Knowledge.HIDDEN_SEED


def test_an_epsilon_is_a_number_in_units_of_the_image():
    assert PgdConfig(epsilon="8/255").epsilon == 8 / 255
    assert PgdConfig(norm="l2", epsilon=8).epsilon == 8
    with pytest.raises(ConfigError, match=r"norm: Input should be 'linf', 'l2', 'l1' or 'patch', got 'l7'$"):
        ThreatModel(norm="l7")
    for one in (np.float32(0.25), np.array(0.25), torch.tensor(0.25)):
        assert ThreatModel(epsilons=one).epsilons == (0.25,)
    for construct in (lambda: PgdConfig(epsilon=8), lambda: ThreatModel(epsilons=(8,)), lambda: replace(PgdConfig(), epsilon=8)):
        with pytest.raises(ConfigError, match=r"8/255, never 8$"):
            construct()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm": "l7"}, "norm: Input should be 'linf', 'l2' or 'l1', got 'l7'"),
        ({"epsilon": float("inf")}, "epsilon: .*finite"),
        ({"epsilon": float("nan")}, "epsilon: .*finite"),
        ({"epsilon": -1 / 255}, "epsilon: .*greater than or equal to 0"),
        ({"epsilon": "8/0"}, "epsilon: '8/0' is not a fraction such as 8/255"),
        ({"step_size": 1e400}, "step_size: .*finite"),
        ({"epsilom": 0}, r"epsilom: unknown key; did you mean epsilon\?"),
        ({"restarts": 2, "random_start": False}, "restarts is 2 and random_start is off"),
    ],
)
def test_what_cannot_be_is_refused_from_python_as_from_yaml(values, message):
    with pytest.raises(ConfigError, match=f"^PgdConfig: {message}"):
        PgdConfig(**values)
    with pytest.raises(ConfigError, match=f"^{message}"):
        validate(PgdConfig, values)


def configurations() -> list[type]:
    """Every configuration of the packages."""
    found = [*pkgutil.walk_packages(pipeline.__path__, "pipeline."), *pkgutil.walk_packages(segmenter.__path__, "segmenter.")]
    found += pkgutil.walk_packages(classifier.__path__, "classifier.")
    modules = [importlib.import_module(module.name) for module in found if not module.name.endswith("__main__")]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return sorted(
        (one for one in classes if one.__name__.endswith("Config") and hasattr(one, "__pydantic_config__")),
        key=lambda one: one.__name__,
    )


def test_every_configuration_refuses_an_unknown_key_when_it_is_constructed():
    classes = configurations()
    assert len(classes) > 15
    for config_class in classes:
        with pytest.raises(ValueError, match=r".") as caught:
            config_class(nonsense=1)
        assert "nonsense" in str(caught.value.__cause__)  # the line may first name what is missing


def test_a_configuration_is_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        PgdConfig().epsilon = 1.0
    with pytest.raises(TypeError):
        PgdConfig("linf")


def test_no_choice_is_compared_by_identity():
    """Where a string may stand for a member of an enumeration, ``is`` would silently take it for something else."""
    sources = [path for package in (pipeline, segmenter, classifier) for path in Path(package.__file__).parent.rglob("*.py")]
    assert len(sources) > 100
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
                members = [re.fullmatch(r"[A-Z]\w+\.[A-Z_]+", ast.unparse(side)) for side in (node.left, *node.comparators)]
                assert not any(members), f"{source}:{node.lineno}"


def test_a_configuration_that_extends_another_has_its_fields_texts_and_checks_and_a_signature_of_its_own() -> None:
    """``TrainConfig`` extends ``PreparedRun``; ``EvaluateConfig`` extends two, and says of one inherited field something else."""
    described = {one: json_schema_of(one)["properties"] for one in (PreparedRun, TrainSegmenterConfig, EvaluateConfig)}
    shared = described[PreparedRun]
    assert list(shared) == ["prepared", "run", "resume"]
    assert all(one["description"] for one in shared.values())
    for extended in (TrainSegmenterConfig, EvaluateConfig):
        assert list(described[extended])[:3] == list(shared)
        assert list(inspect.signature(extended).parameters) == list(described[extended])
        assert all(one.get("description") for one in described[extended].values())
        assert described[extended]["prepared"] == shared["prepared"]
    assert described[TrainSegmenterConfig]["run"] == shared["run"]
    assert described[EvaluateConfig]["run"]["description"].startswith("Directory of this evaluation")
    with pytest.raises(ConfigError, match=r"^TrainSegmenterConfig: resume: "):
        TrainSegmenterConfig(prepared="data", run="run", resume="perhaps")
