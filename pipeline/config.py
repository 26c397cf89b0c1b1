"""Configurations: frozen dataclasses that live beside their owners and check themselves, from Python as from YAML."""

import ast
import difflib
import inspect
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import CoreSchema, ErrorDetails
from typing_extensions import TypedDict

from pipeline.errors import ConfigError, shortened
from pipeline.schema import did_you_mean, schema_keys

# In a wheel the files lie inside the package, so that no top-level package is called "configs"; in a checkout beside it.
_PACKAGED = Path(__file__).resolve().with_name("configs")
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else _PACKAGED.parents[1] / "configs"

Config = TypeVar("Config")

adapter_of: Callable[[Any], Any] = cache(TypeAdapter)
"""The ``TypeAdapter`` of a class, made once: for the configuration of an ablation that takes longer than its use."""
json_schema_of: Callable[[Any], Any] = cache(lambda config_class: adapter_of(config_class).json_schema())
"""The JSON schema of a configuration class, made once: it takes longer than most commands take to begin. To be read only."""


def _documented_schema(config_class: type[Any], source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """Give every field the docstring under it, for --help, first. pydantic can, but parses the module again for every class."""
    for one in reversed([base for base in config_class.__mro__ if "__dataclass_fields__" in vars(base)]):
        for statement, below in pairwise(_classes_of(one.__module__).get(one.__name__, [])):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and isinstance(below, ast.Expr):
                text = inspect.cleandoc(ast.literal_eval(below.value))
                config_class.__dataclass_fields__[statement.target.id].metadata = {"description": text}
    return handler(source)


@cache
def _classes_of(module: str) -> dict[str, list[ast.stmt]]:
    try:
        parsed = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # typed at a prompt
        return {}
    return {node.name: node.body for node in parsed.body if isinstance(node, ast.ClassDef)}


STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""No unknown key, no infinity, no NaN."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def configuration(config_class: type[Config]) -> type[Config]:
    """Make a class a frozen keyword-only dataclass that validates itself, constructed from Python as composed from YAML.

    ``PgdConfig(epsilon="8/255")`` holds a number, ``MaskConfig(fill="noise")`` a ``Fill``; whatever cannot be raises ConfigError
    (a ValueError) that names the field, also from ``dataclasses.replace``. The validator is made when it is first used. The
    docstring under a field is its text in --help.

    >>> @configuration
    ... class Step:
    ...     size: Number = 0.5
    >>> Step(size="1/4").size
    0.25
    """
    made: Any = dataclass(frozen=True, kw_only=True)(config_class)
    made.__pydantic_config__ = STRICT
    made.__get_pydantic_core_schema__ = classmethod(_documented_schema)

    def construct(self: Any, /, **values: Any) -> None:
        try:
            self.__dict__.update(vars(adapter_of(made).validate_python(values)))
        except ValidationError as error:
            raise ConfigError(f"{made.__name__}: {_first_of(error, values, made)}") from error

    made.__signature__ = None  # not that of a configuration that it extends
    made.__signature__ = inspect.signature(made)
    made.__init__ = construct
    validated: type[Config] = made
    return validated


class Choice(StrEnum):
    """Named alternatives, each with a ``meaning`` that --help prints."""

    meaning: str

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema of an enumeration, and what its members mean."""
        described = handler.resolve_ref_schema(handler(schema))
        described["meanings"] = [[choice.value, choice.meaning] for choice in cls]
        return described


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
        described = json_schema_of(self._config_class)["properties"]
        fields = {}
        for name in (name for name in described if name not in self._without):
            shown = {"default": described[name].get("default")} if self._of_defaults else {}
            fields[name] = Annotated[
                get_type_hints(self._config_class, include_extras=True)[name] | None,
                Field(description=described[name].get("description"), json_schema_extra=shown),
            ]

        def without_null(changes: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in changes.items() if value is not None}

        mapping: Any = with_config(STRICT)(TypedDict(f"{self._config_class.__name__}Changes", fields, total=False))  # type: ignore[operator]
        return handler.generate_schema(Annotated[mapping, AfterValidator(without_null)])


def parse_number(value: Any) -> Any:
    """Turn ``"8/255"`` into 8/255; leave everything else to pydantic. Raises ValueError for another fraction and a bool."""
    if isinstance(value, str) and "/" in value:
        try:
            above, below = (Decimal(part.strip()) for part in value.split("/"))
            if max(abs(above.adjusted()), abs(below.adjusted())) > _MOST_DIGITS or len(value) > _MOST_DIGITS:
                raise ArithmeticError("a power of ten that would be written out")
            return float(Fraction(above) / Fraction(below))
        except (ValueError, ArithmeticError) as error:
            raise ValueError(f"{_shown(value)} is not a fraction such as 8/255") from error
    return _no_bool(value)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is meant, neither true nor false")
    return value


def parse_path(value: Any) -> Any:
    """A path as it is meant: ``~`` is the home directory, and ``..`` is followed, through links, before anything is opened.

    ``missing/../full`` thus is ``full`` wherever it is used and printed, although ``missing`` is not there. Everything else is
    verbatim. Raises ValueError for what is no name: nothing, control characters, bytes that are no text, too many letters.
    """
    if not isinstance(value, str | os.PathLike):
        return value
    text = os.fspath(value)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the name of a file or directory is empty; the current directory is .")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError("the name of a file or directory holds characters that cannot be printed")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user {text.split('/')[0][1:]}; a directory of that name is ./{text}") from error
    if len(text.encode()) > _MOST_OF_PATH or any(len(part.encode()) > _MOST_OF_PART for part in path.parts):
        raise ValueError(f"the name of a file or directory is too long: up to {_MOST_OF_PART} bytes a part, {_MOST_OF_PATH} in all")
    if ".." not in path.parts:
        return path
    followed = Path(os.path.realpath(path))
    return followed.relative_to(Path.cwd()) if followed.is_relative_to(Path.cwd()) and not path.is_absolute() else followed


_MOST_DIGITS = 400  # of a number in a fraction, written out
_MOST_OF_PART, _MOST_OF_PATH = 255, 4095  # bytes: NAME_MAX and PATH_MAX of Linux, without the closing zero

Number = Annotated[float, BeforeValidator(parse_number)]
"""A number that may be written as a fraction: ``8/255``."""
Whole = Annotated[int, BeforeValidator(_no_bool)]
"""A whole number."""
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]
"""A number of steps, epochs or queries."""
BatchSize = Annotated[Whole, Field(ge=1, le=65_536)]
"""Images that are computed together."""
Images = Annotated[Whole, Field(ge=1, le=10_000_000)]
"""A number of images of a data set."""
Workers = Annotated[Whole, Field(ge=0, le=1024)]
"""A number of processes beside the first."""
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
"""What random numbers are derived from."""
Share = Annotated[Number, Field(ge=0, le=1)]
"""A share of a whole."""
AnyPath = Annotated[Path, BeforeValidator(parse_path)]
"""A file or directory, as ``parse_path`` has it."""


@configuration
class PreparedRun:
    """What commands share that keep a run in a directory and read a prepared data set."""

    prepared: AnyPath
    """Directory of the prepared data set."""
    run: AnyPath
    """Directory that the run is kept in; it must not hold one, but for resume."""
    resume: bool = False
    """Continue the run in that directory; begin it where there is none."""


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
    # A key that is missing may be there under another name, which says more.
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] == "missing")
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _explain(details[0], values, config_class) + more


def _explain(detail: ErrorDetails, values: Mapping[str, Any], config_class: type[Any]) -> str:
    key = _dotted(detail, values)
    if detail["type"] == "missing":
        return f"{key}: missing; say {key}=..."
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = set(dotted_keys(config_class))
        if key in known:  # of another member of a union
            return f"{key}: is no key of the {key.rpartition('.')[0]} that was chosen"
        return f"{key}: unknown key{_near_in_list(key, config_class) or did_you_mean(key, known)}"
    if detail["type"] == "union_tag_invalid":
        return f"{key}: {_shown(detail['ctx']['tag'])} is not one of {detail['ctx']['expected_tags']}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] in ("bool_type", "bool_parsing"):  # null, above all, which elsewhere is how something is left out
        message = "true or false is meant"
    got = "" if is_dataclass(detail["input"]) or isinstance(detail["input"], dict) else f", got {_shown(detail['input'])}"
    return f"{key}: {message}{got}" if key else message


def _near_in_list(key: str, config_class: type[Any]) -> str:
    """The end of a line about an unknown key of what a list holds, ``parts.0.image``; empty for any other."""
    place, _, name = key.rpartition(".")
    bare = ".".join(part for part in place.split(".") if not part.isdigit())
    if bare == place:
        return ""
    known = [*schema_keys(json_schema_of(config_class), in_lists=True)]
    beside = [one.rpartition(".")[2] for one in known if one.rpartition(".")[0] == bare]
    near = difflib.get_close_matches(name, beside, n=1, cutoff=0.6)
    remedy = f"did you mean {place}.{near[0]}?" if near else f"known are {', '.join(beside)}"
    return f"; {remedy}" if beside else ""


def _shown(value: Any) -> str:
    """A user's value in an error."""
    try:
        return shortened(repr(value))
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        return "a number of very many digits"


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


def dotted_keys(config_class: type[Any], *, of_paths: bool = False) -> Iterator[str]:
    """Every dotted key that a configuration class accepts, over all choices of its unions; or only those of paths."""
    return schema_keys(json_schema_of(config_class), of_paths=of_paths)
