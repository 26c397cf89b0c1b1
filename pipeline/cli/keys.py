"""The keys of a command as they are explained: what --help prints, what the pages of the reference list, what a shell completes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import json_schema_of
from pipeline.schema import schema_variants


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key, or the heading of one that may be of several kinds."""

    name: str
    """Dotted; NAME stands for a name of the user's own."""
    kind: str
    """What may stand there, with its bounds; empty in a heading, whose kinds follow."""
    default: str
    """``required``, or ``default`` and the value that is in force, as JSON."""
    meaning: str
    choices: tuple[tuple[str, str], ...]
    """Named values and what each means, where they have meanings of their own."""
    values: tuple[str, ...]
    """All values, where there are few."""
    is_path: bool


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One kind of what may stand at a key; its keys follow."""

    key: str
    tag: str
    """The value that chooses it."""
    meaning: str


def described_keys(config_class: type[Any], composed: Mapping[str, Any]) -> Iterator[Key | Alternative]:
    """Every key of a configuration class, in its order. ``composed``: what the shipped files set, before the classes' defaults."""
    schema = json_schema_of(config_class)
    yield from _keys(schema, schema.get("$defs", {}), "", composed)


def _keys(node: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, composed: Any) -> Iterator[Key | Alternative]:
    for key, child in node.get("properties", {}).items():
        variants = schema_variants(child, definitions)
        nested = [variant for variant in variants if "properties" in variant]
        value = composed.get(key) if isinstance(composed, Mapping) else None
        if not nested:
            yield from _leaf(f"{prefix}{key}", child, variants, node, value)
            of_mapping = [one for variant in variants for one in _values_of(variant, definitions) if "properties" in one]
            yield from _alternatives(f"{prefix}{key}.NAME", of_mapping, definitions, None)
            continue
        if len(nested) == 1:
            yield from _keys(nested[0], definitions, f"{prefix}{key}.", value)
            continue
        yield from _leaf(f"{prefix}{key}", child, [], node, None)
        yield from _alternatives(f"{prefix}{key}", nested, definitions, value)


def _alternatives(
    key: str, nested: list[Mapping[str, Any]], definitions: Mapping[str, Any], value: Any
) -> Iterator[Key | Alternative]:
    for variant in nested:
        constants = (str(child["const"]) for child in variant["properties"].values() if "const" in child)
        tag = next(constants, str(variant.get("title")))
        yield Alternative(key=key, tag=tag, meaning=_sentence(str(variant.get("description", "")).split("\n\n")[0]))
        chosen = value if isinstance(value, Mapping) and tag in value.values() else None
        yield from _keys(variant, definitions, f"{key}.", chosen)


def _values_of(mapping: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the values of a mapping with free keys may be."""
    values = mapping.get("additionalProperties")
    return schema_variants(values, definitions) if isinstance(values, Mapping) else []


def _leaf(
    key: str, child: Mapping[str, Any], variants: list[Mapping[str, Any]], parent: Mapping[str, Any], value: Any
) -> Iterator[Key]:
    if "const" in child:
        return
    if value is None and key.rsplit(".", 1)[-1] in parent.get("required", []):
        default = "required"
    else:
        default = f"default {json.dumps(child.get('default') if value is None else value)}"
    yield Key(
        name=key,
        kind=" or ".join(_kind(variant) for variant in variants),
        default=default,
        meaning=_sentence(str(child.get("description", ""))),
        choices=tuple((choice, does) for variant in variants for choice, does in variant.get("meanings", ())),
        values=tuple(value for variant in variants for value in _values(variant)),
        is_path=any(variant.get("format") == "path" for variant in variants),
    )


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _values(variant: Mapping[str, Any]) -> list[str]:
    if variant.get("type") in ("boolean", "null"):
        return {"boolean": ["true", "false"], "null": ["null"]}[variant["type"]]
    return [str(value) for value in variant.get("enum", [variant["const"]] if "const" in variant else [])]


_BOUNDS = (
    *(("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<")),
    *(("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")),  # of a number that may be written as a fraction
)


def _kind(variant: Mapping[str, Any]) -> str:
    if "enum" in variant:
        return "|".join(map(str, variant["enum"]))
    if "const" in variant:
        return str(variant["const"])
    kind = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true|false",
        "null": "null",
        "array": "list",
        "object": "mapping",
    }
    text = kind.get(str(variant.get("type")), "path" if variant.get("format") == "path" else "text")
    bounds = [
        f"{sign} {variant[name]:{',' if isinstance(variant[name], int) else 'g'}}" for name, sign in _BOUNDS if name in variant
    ]
    return " ".join([text, *bounds])
