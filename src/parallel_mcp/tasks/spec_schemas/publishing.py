"""Prepared schemas -> schemas of tools, which every client accepts: no unions, no null types, choices of texts only.

The schema of an input is then used for everything: it is published, arguments are checked against it, and the API
gets it. That of an output is published more loosely than it is checked: what fits the prepared schema, without the
nulls that `without_nulls` leaves out, fits the published one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple, cast

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.findings import Finding, Path, Schema
from parallel_mcp.tasks.spec_schemas.rules import Findings
from parallel_mcp.tasks.spec_schemas.shapes import ordered
from parallel_mcp.tasks.spec_schemas.wording import joined

_MAX_CHOICES_CHARS = 300


class _Single(NamedTuple):
    """The one kind of value that a schema describes besides null; no schema if there are several."""

    schema: Schema | None
    takes_null: bool


def published_input(prepared: Schema) -> tuple[Schema, Findings]:
    """The input schema of a tool, and what of the prepared one no tool can have.

    What may be null may be left out instead: null counts as absent in every argument.
    """
    found = Findings()
    schema = _input_part(prepared, (), found.errors)
    properties = cast("dict[str, Schema]", schema.get("properties", {}))
    for name, member in properties.items():
        if not member.get("description"):
            advice = "no description; models fill an argument in better when they are told what it is."
            found.warnings.append(Finding(("properties", name), "described", advice))
    return schema, found


def published_output(prepared: Schema) -> Schema:
    """What a tool says of an output: as much of the prepared schema as every client accepts."""
    return _output_part(prepared, may_be_left_out=False)


def without_nulls(output: JsonValue, prepared: Schema) -> JsonValue:
    """An output that fits the prepared schema, without the fields whose null `published_output` does not tell of."""
    single = _single(prepared)
    if single.schema is None:
        return output
    if isinstance(output, list):
        items = single.schema.get("items")
        return [without_nulls(item, items) for item in output] if isinstance(items, dict) else output
    properties, entries = single.schema.get("properties"), single.schema.get("additionalProperties")
    if not isinstance(output, dict):
        return output
    kept: dict[str, JsonValue] = {}
    for name, value in output.items():
        member = properties.get(name) if isinstance(properties, dict) else entries
        schema = member if isinstance(member, dict) else {}
        if value is not None or not isinstance(properties, dict) or not _is_left_out(schema):
            kept[name] = without_nulls(value, schema)
    return kept


def _input_part(given: Schema, place: Path, errors: list[Finding]) -> Schema:
    single = _single(given)
    schema = single.schema
    if schema is None or "type" not in schema:
        advice = "an input has one type; clients refuse tools with others. Use a text and say in words what fits."
        errors.append(Finding(place, "input-type", advice, {"type": "string"}))
        return {}
    if "enum" in schema and schema["type"] != "string":
        advice = "choices of an input are texts; write them as texts, or describe them in words."
        errors.append(Finding(place, "input-choices", advice, {"type": cast("str", schema["type"])}))
    if schema["type"] == "array" and not schema.get("items"):
        advice = '"items" says what the list holds; clients refuse lists without it.'
        errors.append(Finding(place, "input-items", advice, {"type": "array", "items": {"type": "string"}}))
    shape = dict(schema)
    if isinstance(items := schema.get("items"), dict) and items:
        shape["items"] = _input_part(items, (*place, "items"), errors)
    if isinstance(entries := schema.get("additionalProperties"), dict):
        shape["additionalProperties"] = _input_part(entries, (*place, "additionalProperties"), errors)
    if isinstance(properties := schema.get("properties"), dict):
        members = cast("dict[str, Schema]", properties)
        shape["properties"] = cast(
            "JsonValue",
            {name: _input_part(member, (*place, "properties", name), errors) for name, member in members.items()},
        )
        _require(shape, schema, [name for name, member in members.items() if not _single(member).takes_null])
    return ordered(shape)


def _output_part(given: Schema, *, may_be_left_out: bool) -> Schema:
    single = _single(given)
    schema = single.schema
    if schema is None or "type" not in schema or (single.takes_null and not may_be_left_out):
        return _in_words(given)
    shape = dict(schema)
    if "enum" in schema and schema["type"] != "string":
        shape.pop("enum")
        shape["description"] = joined(_description(schema), _one_of(_words(schema)))
    if schema["type"] == "array":
        items = schema.get("items")
        shape["items"] = _output_part(items, may_be_left_out=False) if isinstance(items, dict) and items else _ANY_VALUE
    if isinstance(entries := schema.get("additionalProperties"), dict):
        shape["additionalProperties"] = _output_part(entries, may_be_left_out=False)
    if isinstance(properties := schema.get("properties"), dict):
        members = cast("dict[str, Schema]", properties)
        shape["properties"] = cast(
            "JsonValue", {name: _output_part(member, may_be_left_out=True) for name, member in members.items()}
        )
        _require(shape, schema, [name for name, member in members.items() if not _is_left_out(member)])
    return ordered(shape)


_ANY_VALUE: Schema = {"description": "Any value."}


def _in_words(given: Schema) -> Schema:
    """A schema that holds no keyword that some client refuses: what fits is said in words."""
    words = [_words(arm) for arm in _arms(given)]
    said = _one_of(chain.from_iterable(words)) if all(words) else "Any value."
    return {"description": joined(_description(given), said)}


def _single(given: Schema) -> _Single:
    arms = _arms(given)
    others = [arm for arm in arms if arm.get("type") != "null"]
    takes_null = len(others) < len(arms)
    if len(others) != 1:
        return _Single(None, takes_null)
    about = {"description": given["description"]} if "description" in given else {}
    return _Single({**others[0], **about}, takes_null)


def _arms(given: Schema) -> list[Schema]:
    """The kinds of values that a schema describes, each as a schema of one type."""
    if isinstance(arms := given.get("anyOf"), list):
        return [part for arm in cast("list[Schema]", arms) for part in _arms(arm)]
    if isinstance(types := given.get("type"), list):
        return [{**given, "type": name} for name in types]
    return [given]


def _is_left_out(member: Schema) -> bool:
    """Whether null in this field is left out of what a tool returns, because its published type has no null."""
    single = _single(member)
    return single.takes_null and single.schema is not None and "type" in single.schema


def _require(shape: Schema, given: Schema, names: list[str]) -> None:
    required = given.get("required")
    kept = [name for name in names if isinstance(required, list) and name in required]
    shape.pop("required", None)
    if kept:
        shape["required"] = cast("JsonValue", kept)


def _description(given: Schema) -> str:
    text = given.get("description")
    return text if isinstance(text, str) else ""


def _one_of(words: Iterable[str]) -> str:
    return f"One of: {', '.join(dict.fromkeys(words))[:_MAX_CHOICES_CHARS]}."


def _words(arm: Schema) -> list[str]:
    """The values that fit a schema of one type, or their kind; nothing if anything fits."""
    if "enum" in arm:
        return [json.dumps(value) for value in cast("list[JsonValue]", arm["enum"])]
    kind = arm.get("type")
    return ["text" if kind == "string" else str(kind)] if kind else []
