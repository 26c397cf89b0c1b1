"""``foreguard COMMAND --help``: every key with its meaning, unit, range and default, read from the configuration classes."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.cli.composition import compose, group_choices, group_names
from pipeline.config import json_schema_of
from pipeline.errors import ConfigError
from pipeline.schema import schema_variants

WIDTH = 110


def command_help(name: str, summary: str, example: str, config_class: type[Any]) -> str:
    """The help page of one command, as plain text."""
    schema = json_schema_of(config_class)
    definitions = schema.get("$defs", {})
    lines = [f"foreguard {name}: {summary}", "", f"usage: foreguard {name} key=value ...", f"  e.g. {example}"]
    groups = [group for group in group_names() if group in schema["properties"]]
    if groups:
        lines += ["", "choices (files in configs/; each may be followed by single keys):"]
        lines += [f"  {group}={'|'.join(group_choices(group))}" for group in groups]
    lines += ["", "keys:", *_keys(schema, definitions, "", _defaults(name, config_class))]
    return "\n".join(lines)


def _defaults(name: str, config_class: type[Any]) -> dict[str, Any]:
    """What the shipped files set, which comes before the defaults of the classes."""
    try:
        return compose(name, config_class, [])
    except ConfigError:  # a choice without default must still have a help page
        return {}


def _keys(node: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, composed: Any) -> Iterator[str]:
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


def _alternatives(key: str, nested: list[Mapping[str, Any]], definitions: Mapping[str, Any], value: Any) -> Iterator[str]:
    """What may stand at a key: each kind with what it does and its own keys."""
    for variant in nested:
        tag = _tag(variant)
        does = " ".join(str(variant.get("description", "")).split("\n\n")[0].split())
        yield from textwrap.wrap(f"-- {key}: {tag} -- {does}", WIDTH, initial_indent="  ", subsequent_indent="      ")
        chosen = value if isinstance(value, Mapping) and tag in value.values() else None
        yield from _keys(variant, definitions, f"{key}.", chosen)


def _values_of(mapping: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the values of a mapping with free keys may be."""
    values = mapping.get("additionalProperties")
    return schema_variants(values, definitions) if isinstance(values, Mapping) else []


def _tag(variant: Mapping[str, Any]) -> str:
    """The value that selects this alternative of a union."""
    return next((str(child["const"]) for child in variant["properties"].values() if "const" in child), str(variant.get("title")))


def _leaf(
    key: str, child: Mapping[str, Any], variants: list[Mapping[str, Any]], parent: Mapping[str, Any], value: Any
) -> Iterator[str]:
    if "const" in child:
        return
    kind = " or ".join(_kind(variant) for variant in variants)
    name = key.rsplit(".", 1)[-1]
    if value is None and name in parent.get("required", []):
        default = "required"
    else:
        default = f"default {json.dumps(child.get('default') if value is None else value)}"
    yield f"  {key}  [{kind}; {default}]" if kind else f"  {key}"
    meaning = " ".join(str(child.get("description", "")).split())
    yield from textwrap.wrap(meaning, WIDTH, initial_indent="      ", subsequent_indent="      ")
    for variant in variants:
        for choice, does in variant.get("meanings", ()):
            yield from textwrap.wrap(f"{choice}: {does}", WIDTH, initial_indent="        ", subsequent_indent="          ")


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
