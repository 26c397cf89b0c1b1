"""Configuration: Hydra composes ``configs/``, pydantic validates into the frozen dataclasses that live beside their owners."""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import CoreSchema, ErrorDetails
from typing_extensions import TypedDict

from pipeline.errors import ConfigError

# In a wheel the files lie inside this package, so that no top-level package is called "configs"; in a checkout beside it.
_PACKAGED = Path(__file__).resolve().with_name("configs")
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "configs"
SWEEP_KEYS = ("hydra.", "hydra/")
"""How the keys begin that say how Hydra runs a sweep, and where."""

Config = TypeVar("Config")

adapter_of: Callable[[Any], Any] = cache(TypeAdapter)
"""The ``TypeAdapter`` of a class, made once: for the configuration of an ablation that takes longer than its use."""


STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
"""No unknown key, no infinity, no NaN; the docstring under a field is its text in --help."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def configuration(config_class: type[Config]) -> type[Config]:
    """Make a class a frozen keyword-only dataclass that validates itself, constructed from Python as composed from YAML.

    ``PgdConfig(epsilon="8/255")`` holds a number, ``MaskConfig(fill="noise")`` a ``Fill``; whatever cannot be raises ConfigError
    (a ValueError) that names the field, also from ``dataclasses.replace``. The validator is made when it is first used.

    >>> @configuration
    ... class Step:
    ...     size: Number = 0.5
    >>> Step(size="1/4").size
    0.25
    """
    made: Any = dataclass(frozen=True, kw_only=True)(config_class)
    made.__pydantic_config__ = STRICT

    def construct(self: Any, /, **values: Any) -> None:
        try:
            self.__dict__.update(vars(adapter_of(made).validate_python(values)))
        except ValidationError as error:
            raise ConfigError(f"{made.__name__}: {_first_of(error, values, made)}") from error

    made.__signature__ = inspect.signature(made)
    made.__init__ = construct
    validated: type[Config] = made
    return validated


class Changes:
    """In an annotation: a mapping of the fields of a configuration that are to be other than in one that is known later.

    ``Annotated[Mapping[str, Any], Changes(MaskConfig)]`` validates every field as ``MaskConfig`` does; one that is left out or null
    stays as it is. ``dataclasses.replace(known, **changes)`` makes them.
    """

    def __init__(self, config_class: type[Any], *, without: frozenset[str] = frozenset(), of_defaults: bool = False) -> None:
        """``without`` names fields that stay. ``of_defaults``: what is changed is a default one, which --help then shows."""
        self._config_class, self._without, self._of_defaults = config_class, without, of_defaults

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of a mapping whose keys are the fields."""
        described = adapter_of(self._config_class).json_schema()["properties"]
        fields = {}
        for name in (name for name in described if name not in self._without):
            shown = {"default": described[name].get("default")} if self._of_defaults else {}
            fields[name] = Annotated[
                get_type_hints(self._config_class, include_extras=True)[name] | None,
                Field(description=described[name].get("description"), json_schema_extra=shown),
            ]
        mapping: Any = with_config(STRICT)(TypedDict(f"{self._config_class.__name__}Changes", fields, total=False))  # type: ignore[operator]
        return handler.generate_schema(Annotated[mapping, AfterValidator(_without_null)])


def _without_null(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def parse_number(value: Any) -> Any:
    """Turn ``"8/255"`` into 8/255; leave everything else to pydantic. Raises ValueError for a fraction that is none."""
    if isinstance(value, str) and "/" in value:
        try:
            above, below = value.split("/")
            return float(Fraction(above.strip()) / Fraction(below.strip()))
        except (ValueError, ArithmeticError) as error:
            raise ValueError(f"{value!r} is not a fraction such as 8/255") from error
    return value


Number = Annotated[float, BeforeValidator(parse_number)]
"""A number that may be written as a fraction: ``8/255``."""


def load_config(command: str, config_class: type[Config], overrides: Sequence[str]) -> Config:
    """Compose the configuration of a command with the user's ``key=value`` words and validate it. Raises ConfigError."""
    return validate(config_class, compose(command, config_class, overrides))


def compose(command: str, config_class: type[Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What Hydra makes of ``configs/<command>.yaml`` and the overrides, as plain containers. Raises ConfigError."""
    words = check_overrides(config_class, overrides)
    for word in words:
        if word.startswith(SWEEP_KEYS):
            raise ConfigError(f"{word}: is for --multirun only")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            composed = OmegaConf.to_container(hydra_compose(command, overrides=words), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def check_overrides(config_class: type[Any], overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra wants them. Raises ConfigError for a word that is no override, an unknown key or an unknown choice.

    A plain ``key=value`` becomes ``++key=value``, because the YAML files need not repeat the defaults that the dataclasses hold.
    """
    words = []
    known = set(dotted_keys(config_class)) if overrides else set()
    for word in overrides:
        override = _parse(word)
        key = override.key_or_group
        if key in group_names():
            _check_choice(key, override)
        elif not key.startswith(SWEEP_KEYS):
            if override.type != OverrideType.DEL and key not in known and not _inside_mapping(key, known):
                raise ConfigError(f"{key}: unknown key{_did_you_mean(key, known | set(group_names()))}")
            if override.type == OverrideType.CHANGE:
                word = f"++{word}"
        words.append(word)
    return words


def _parse(word: str) -> Override:
    try:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word!r} is not of the form key=value")
        return OverridesParser.create().parse_overrides([word])[0]
    except OverrideParseException as error:
        hint = "put quotes around a value with special characters: key='\"value\"'"
        raise ConfigError(f"{word!r} cannot be read as key=value ({_one_line(error)}); {hint}") from error


def _check_choice(group: str, override: Override) -> None:
    if override.is_sweep_override() or not isinstance(override.value(), str):
        return
    choices = group_choices(group)
    if override.value() not in choices:
        raise ConfigError(f"{group}={override.value()}: unknown choice; choose one of {', '.join(choices)}")


@cache
def group_names() -> tuple[str, ...]:
    """The configuration groups, such as ``data`` and ``attack/training``."""
    return tuple(sorted({path.parent.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.glob("*/**/*.yaml")}))


def group_choices(group: str) -> list[str]:
    """The files of a configuration group: what may stand behind ``group=``."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def validate(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Validate plain containers into a configuration. Raises ConfigError that names the first wrong key by its dotted path."""
    try:
        validated: Config = adapter_of(config_class).validate_python(dict(values))
        return validated
    except ValidationError as error:
        raise ConfigError(_first_of(error, values, config_class)) from error


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON-able containers: what a run records and what a resume compares."""
    plain: dict[str, Any] = adapter_of(type(config)).dump_python(config, mode="json")
    return plain


def _first_of(error: ValidationError, values: Mapping[str, Any], config_class: type[Any]) -> str:
    details = error.errors(include_url=False)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _explain(details[0], values, config_class) + more


def _explain(detail: ErrorDetails, values: Mapping[str, Any], config_class: type[Any]) -> str:
    key = _dotted(detail, values)
    if detail["type"] == "missing":
        return f"{key}: missing; say {key}=..."
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: unknown key{_did_you_mean(key, set(dotted_keys(config_class)))}"
    if detail["type"] == "union_tag_invalid":
        return f"{key}: {detail['ctx']['tag']!r} is not one of {detail['ctx']['expected_tags']}"
    message = detail["msg"].removeprefix("Value error, ")
    got = "" if is_dataclass(detail["input"]) or isinstance(detail["input"], dict) else f", got {detail['input']!r}"
    return f"{key}: {message}{got}" if key else message


def _dotted(detail: ErrorDetails, values: Any) -> str:
    """The dotted key of an error. pydantic puts the tag of a union between the keys; a user has never written it."""
    parts: list[str] = []
    last = len(detail["loc"]) - 1
    for position, part in enumerate(detail["loc"]):
        inside = isinstance(values, Mapping) and part in values
        inside = inside or (isinstance(values, list) and isinstance(part, int) and part < len(values))
        if inside:
            values = values[part]
            parts.append(str(part))
        elif position == last and detail["type"] == "missing":
            parts.append(str(part))
    return ".".join(parts)


def dotted_keys(config_class: type[Any]) -> Iterator[str]:
    """Every dotted key that a configuration class accepts, over all choices of its unions."""
    schema = adapter_of(config_class).json_schema()
    yield from _schema_keys(schema, schema.get("$defs", {}), "")


def _schema_keys(node: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for variant in schema_variants(node, definitions):
        if "properties" not in variant and isinstance(variant.get("additionalProperties"), dict):
            yield f"{prefix}*"  # a mapping with free keys
        for name, child in variant.get("properties", {}).items():
            yield f"{prefix}{name}"
            yield from _schema_keys(child, definitions, f"{prefix}{name}.")


def schema_variants(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of a JSON schema node, with references resolved."""
    if "$ref" in node:
        return schema_variants(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    for union in ("oneOf", "anyOf"):
        if union in node:
            return [variant for child in node[union] for variant in schema_variants(child, definitions)]
    return [node]


def _inside_mapping(key: str, known: set[str]) -> bool:
    return any(pattern.endswith("*") and key.startswith(pattern[:-1]) for pattern in known)


def _did_you_mean(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    if not near:  # the right name at the wrong place
        near = [other for other in sorted(known) if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return f"; did you mean {near[0]}?" if near else "; --help lists all keys"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
