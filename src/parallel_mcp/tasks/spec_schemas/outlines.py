"""The outline of a schema, for a corrected version: types and names, none of the caller's values."""

from __future__ import annotations

import json

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.findings import Schema

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_OTHER_NAMES = {
    "str": "string",
    "text": "string",
    "date": "string",
    "datetime": "string",
    "url": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "bool": "boolean",
    "dict": "object",
    "map": "object",
    "list": "array",
    "tuple": "array",
}
_MAX_CHARS = 600
_MOST_FIELDS = 15
_MOST_ARMS = 4
_MAX_NAME_CHARS = 64


def type_named(name: JsonValue) -> str:
    """The type that is meant by a name from another language; a string if none is."""
    word = name.strip().lower() if isinstance(name, str) and len(name) <= 20 else ""
    known = word if word in TYPES and word != "null" else _OTHER_NAMES.get(word, "string")
    return known


def outline(value: JsonValue) -> Schema:
    """A schema of the same shape that keeps the rules, in at most about 600 characters."""
    for levels in (3, 2, 1):
        drawn = _drawn(value, levels)
        if len(json.dumps(drawn, ensure_ascii=False)) <= _MAX_CHARS:
            return drawn
    return _drawn(value, 0)


def object_of(**fields: Schema) -> Schema:
    """A root object with these fields."""
    return {
        "type": "object",
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
    }


def _drawn(value: JsonValue, levels: int) -> Schema:
    if not isinstance(value, dict):
        return {"type": type_named(value)}
    arms = value.get("anyOf", value.get("oneOf"))
    if isinstance(arms, list) and arms and levels:
        return {"anyOf": [_drawn(arm, levels - 1) for arm in arms[:_MOST_ARMS]]}
    properties, items = value.get("properties"), value.get("items")
    if isinstance(properties, dict) and properties and levels:
        names = list(properties)[:_MOST_FIELDS]
        return object_of(**{_name_like(name): _drawn(properties[name], levels - 1) for name in names})
    if isinstance(properties, list) and properties and levels:
        return _drawn({"properties": _named_members(properties)}, levels)
    if isinstance(items, dict) and levels:
        return {"type": "array", "items": _drawn(items, levels - 1)}
    if "type" not in value and ("$ref" in value or "allOf" in value or properties):
        return {"type": "object"}
    declared = value.get("type")
    if isinstance(declared, list):
        declared = next((name for name in declared if name != "null"), "string")
    return {"type": type_named(declared)}


def _name_like(name: str) -> str:
    """The name without what a name may not hold."""
    kept = "".join(char for char in name[:_MAX_NAME_CHARS] if char.isprintable() and char not in "<>`")
    return kept.strip() or "field_name"


def _named_members(members: list[JsonValue]) -> Schema:
    """Fields that were written as a list of objects with names."""
    named = [(member.get("name"), member) for member in members if isinstance(member, dict)]
    return {name: member for name, member in named if isinstance(name, str)} or {"field_name": {"type": "string"}}
