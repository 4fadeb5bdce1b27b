"""Schemas of the API's keywords: putting them together in one form, so that equal ones are equal requests."""

from __future__ import annotations

import json
from typing import cast

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.findings import Schema
from parallel_mcp.tasks.spec_schemas.wording import joined

KEYWORDS = ("type", "description", "enum", "properties", "required", "additionalProperties", "items", "anyOf")
_NULL: Schema = {"type": "null"}


def described(shape: Schema, text: str) -> Schema:
    """The schema with a text before its own description."""
    own = shape.get("description")
    told = joined(text, own if isinstance(own, str) else "")
    return {**shape, "description": told} if told else shape


def nullable(shape: Schema) -> Schema:
    """A schema that also takes null: a type union where that is enough, else `anyOf`."""
    types, arms = shape.get("type"), shape.get("anyOf")
    if isinstance(arms, list):
        return shape if any(map(_takes_null, arms)) else {**shape, "anyOf": [*arms, dict(_NULL)]}
    if not types or _takes_null(shape):
        return shape
    if "enum" in shape or types in ("object", "array"):
        inner = {key: value for key, value in shape.items() if key != "description"}
        return ordered({**_only(shape, "description"), "anyOf": [inner, dict(_NULL)]})
    return {**shape, "type": [*types, "null"] if isinstance(types, list) else [types, "null"]}


def without_null(shape: Schema) -> Schema:
    """A root that may be null, which an answer never is, without that."""
    types, arms = shape.get("type"), shape.get("anyOf")
    if isinstance(types, list) and "null" in types:
        others: list[JsonValue] = [name for name in types if name != "null"]
        return {**shape, "type": others[0] if len(others) == 1 else others}
    if isinstance(arms, list):
        objects = [arm for arm in arms if isinstance(arm, dict) and arm != _NULL]
        if len(objects) == 1:
            text = shape.get("description")
            return ordered(described(objects[0], text if isinstance(text, str) else ""))
    return shape


def union_of(arms: list[Schema]) -> Schema:
    """Alternatives in the shortest form: `string | null` is a type union, one alternative is itself."""
    flat: list[JsonValue] = []
    for arm in arms:
        inner = arm["anyOf"] if arm.keys() == {"anyOf"} else [arm]
        flat.extend(cast("list[JsonValue]", inner))
    takes_null = any(cast("Schema", arm).get("type") == "null" for arm in flat)
    kept = list({json.dumps(arm): arm for arm in cast("list[Schema]", flat) if arm.get("type") != "null"}.values())
    if not kept:
        return dict(_NULL)
    if len(kept) > 1 and all(arm.keys() == {"type"} for arm in kept):
        names = [name for arm in kept for name in (arm["type"] if isinstance(arm["type"], list) else [arm["type"]])]
        kept = [Schema(type=cast("list[JsonValue]", list(dict.fromkeys(cast("list[str]", names)))))]
    whole: Schema = kept[0] if len(kept) == 1 else {"anyOf": cast("list[JsonValue]", kept)}
    return nullable(whole) if takes_null else whole


def ordered(shape: Schema) -> Schema:
    """Keywords in one order, so that equal schemas are equal requests."""
    return _only(shape, *KEYWORDS)


def _only(shape: Schema, *keywords: str) -> Schema:
    return {keyword: shape[keyword] for keyword in keywords if keyword in shape}


def _takes_null(shape: JsonValue) -> bool:
    types = shape.get("type") if isinstance(shape, dict) else None
    return types == "null" or (isinstance(types, list) and "null" in types)
