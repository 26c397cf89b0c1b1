"""Walking a JSON schema, as pydantic makes one of a configuration: its keys, and what may stand at them."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any


def schema_keys(schema: Mapping[str, Any], *, of_paths: bool = False, in_lists: bool = False) -> Iterator[str]:
    """Every dotted key, over all choices of unions, ``NAME.*`` for the free keys of a mapping; or only the keys of paths.

    ``in_lists``: also those of what lists hold, ``parts.images``, which no word on the command line can name."""
    definitions = schema.get("$defs", {})
    for key, node in _keys(schema, definitions, "", in_lists=in_lists):
        if not of_paths or any(variant.get("format") == "path" for variant in schema_variants(node, definitions)):
            yield key


def _keys(
    node: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, *, in_lists: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for variant in schema_variants(node, definitions):
        if in_lists and isinstance(variant.get("items"), dict):
            yield from _keys(variant["items"], definitions, prefix, in_lists=True)
        if "properties" not in variant and isinstance(variant.get("additionalProperties"), dict):
            yield f"{prefix}*", variant["additionalProperties"]  # a mapping with free keys
        for name, child in variant.get("properties", {}).items():
            yield f"{prefix}{name}", child
            yield from _keys(child, definitions, f"{prefix}{name}.", in_lists=in_lists)


def schema_variants(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of a JSON schema node, with references resolved."""
    if "$ref" in node:
        return schema_variants(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    for union in ("oneOf", "anyOf"):
        if union in node:
            return [variant for child in node[union] for variant in schema_variants(child, definitions)]
    return [node]


def inside_mapping(key: str, known: set[str]) -> bool:
    """Whether a key is a free one of a mapping."""
    return any(pattern.endswith("*") and key.startswith(pattern[:-1]) for pattern in known)


def did_you_mean(key: str, known: set[str]) -> str:
    """The end of a line about an unknown key."""
    place, dot, name = key.rpartition(".")
    initials = f"{place}{dot}{''.join(word[:1] for word in name.split('_'))}"  # learning_rate for lr
    near = [initials] if initials in known else difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    if not near:  # the right name at the wrong place
        near = [other for other in sorted(known) if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return f"; did you mean {near[0]}?" if near else "; --help lists all keys"
