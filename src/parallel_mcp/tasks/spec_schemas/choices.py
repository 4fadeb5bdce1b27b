"""`enum` and `const`: values to choose from."""

from __future__ import annotations

from typing import cast

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.findings import Finding, Path, Refused, Schema
from parallel_mcp.tasks.spec_schemas.outlines import type_named
from parallel_mcp.tasks.spec_schemas.shapes import nullable
from parallel_mcp.tasks.spec_schemas.wording import in_json


def choices_of(parts: Schema, words: list[str], place: Path) -> list[JsonValue] | None:
    """The values to choose from, or None if there is no choice of plain values."""
    if "const" in parts:
        choices: JsonValue = [parts["const"]]
    elif "enum" in parts:
        choices = parts["enum"]
    else:
        return None
    if not isinstance(choices, list) or not choices:
        raise Refused(Finding(place, "enum", '"enum" is a list of values.', {"type": type_named(parts.get("type"))}))
    if any(isinstance(choice, dict | list) for choice in choices):
        words.append(in_json("one of", choices, parts, place))
        return None
    return list({(_kind(choice), choice): choice for choice in choices}.values())


def enumeration(choices: list[JsonValue], types: list[str], parts: Schema, place: Path) -> Schema:
    values: list[JsonValue] = [choice for choice in choices if choice is not None]
    if not values:
        return {"type": "null"}
    kinds = _kinds(values)
    stated = [name for name in types if name != "null"]
    if stated and not all(_fits(value, stated) for value in values):
        corrected: Schema = {"type": kinds[0]} if len(kinds) == 1 else {"type": cast("list[JsonValue]", kinds)}
        advice = "the values of the enum are not of the stated type; change the type, keep the values."
        raise Refused(Finding(place, "enum", advice, corrected))
    named = stated or kinds
    shape: Schema = {"type": named[0] if len(named) == 1 else cast("list[JsonValue]", named), "enum": values}
    takes_null = len(values) < len(choices) or "null" in types
    return nullable(shape) if takes_null else shape


def _kind(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if value is None:
        return "null"
    return "integer" if isinstance(value, int) else "number"


def _kinds(values: list[JsonValue]) -> list[str]:
    kinds = list(dict.fromkeys(map(_kind, values)))
    return [kind for kind in kinds if kind != "integer" or "number" not in kinds]


def _fits(value: JsonValue, types: list[str]) -> bool:
    kind = _kind(value)
    whole = isinstance(value, float) and value.is_integer()
    return kind in types or (kind == "integer" and "number" in types) or (whole and "integer" in types)
