"""The API's rules for schemas in task specs: what it refuses, and what it, or its guide, warns of.

Source: API reference, task spec: validation of output schemas, basis names, advice on names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import JsonValue

from parallel_mcp.tasks.processors import Processor, enough_for
from parallel_mcp.tasks.spec_schemas.findings import Finding, Path, Schema
from parallel_mcp.tasks.spec_schemas.outlines import object_of, outline
from parallel_mcp.tasks.spec_schemas.rewriting import Purpose

MAX_NESTING = 5
ADVISED_NESTING = 3  # one page of the documentation gives this as the limit
MAX_PROPERTIES = 100
MAX_CHARS = 25_000
MAX_SPEC_CHARS = 15_000
MAX_ENUM_VALUES = 500
LARGE_ENUM = 250
MAX_LARGE_ENUM_CHARS = 7_500

UNSUPPORTED = frozenset(
    [
        "contains",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minimum",
        "minProperties",
        "multipleOf",
        "pattern",
        "patternProperties",
        "propertyNames",
        "uniqueItems",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
IN_EVERY_BASIS = frozenset(
    ["citations", "confidence", "confidence_score", "evidence", "reasoning", "source", "sources", "source_urls"]
)
VAGUE = frozenset(
    [
        "address",
        "amount",
        "data",
        "date",
        "details",
        "info",
        "information",
        "name",
        "notes",
        "number",
        "other",
        "price",
        "result",
        "results",
        "revenue",
        "size",
        "status",
        "type",
        "value",
    ]
)
_TOOL_ARGUMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


@dataclass
class Findings:
    """What a schema breaks, and what could be better."""

    errors: list[Finding] = field(default_factory=list[Finding])
    warnings: list[Finding] = field(default_factory=list[Finding])


class _Part(NamedTuple):
    """A schema inside another: where, whether as an alternative of a union, and in how many objects with itself."""

    place: Path
    schema: Schema
    in_union: bool
    nesting: int


def lint(schema: Schema, *, purpose: Purpose = "output", processor: Processor | None = None) -> Findings:
    """Check a schema, of JSON values and bounded depth, against the API's rules. References are not followed."""
    found = Findings()
    parts = list(_parts(schema))
    _check_root(schema, found)
    for part in parts:
        _check_part(part, purpose, found)
    _check_totals(schema, parts, found)
    if purpose == "output":
        _advise(schema, parts, processor, found)
    return found


def _check_root(schema: Schema, found: Findings) -> None:
    if "anyOf" in schema:
        advice = "the root is not a union (anyOf); put the union into a field."
        found.errors.append(Finding((), "root-union", advice, object_of(answer=outline(schema))))
    elif schema.get("type") != "object":
        name = "items" if schema.get("type") == "array" else "answer"
        advice = "the root has type `object` and non-empty `properties`; put this into a field."
        found.errors.append(Finding((), "root-object", advice, object_of(**{name: outline(schema)})))
    elif not isinstance(schema.get("properties"), dict) or not schema["properties"]:
        entry = object_of(name={"type": "string"}, value=outline(schema.get("additionalProperties", "string")))
        corrected = object_of(entries={"type": "array", "items": entry})
        advice = "the root has type `object` and non-empty `properties`; name the fields, or ask for a list of entries."
        found.errors.append(Finding((), "root-properties", advice, corrected))


def _check_part(part: _Part, purpose: Purpose, found: Findings) -> None:
    place, schema, in_union, nesting = part
    for keyword in sorted(UNSUPPORTED & schema.keys()):
        advice = f'"{keyword}" is not supported by the API; put it into the description.'
        found.errors.append(Finding(place, "unsupported-keyword", advice, outline(schema)))
    if schema.get("type") in ("null", ["null"]) and not in_union:
        corrected: Schema = {"type": ["string", "null"]}
        found.errors.append(Finding(place, "null-alone", "null stands only beside another type.", corrected))
    if nesting == MAX_NESTING + 1 and _opens_level(schema):
        advice = f"objects nest at most {MAX_NESTING} deep; flatten this one."
        found.errors.append(Finding(place, "nesting", advice, {"type": "string"}))
    _check_fields(place, schema, purpose, found)


def _check_fields(place: Path, schema: Schema, purpose: Purpose, found: Findings) -> None:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return
    if any(not name.strip() or not name.isprintable() for name in properties):
        advice = "names of fields are not empty and hold no control or invisible characters."
        found.errors.append(Finding(place, "property-name", advice, outline(schema)))
    elif purpose == "input" and not all(map(_TOOL_ARGUMENT.fullmatch, properties)):
        advice = "names of inputs are 1 to 64 letters, digits, _, . or -: some clients refuse others."
        renamed = {re.sub(r"[^A-Za-z0-9_.-]", "_", name): member for name, member in properties.items()}
        found.errors.append(Finding(place, "property-name", advice, outline({**schema, "properties": renamed})))
    required = schema.get("required")
    optional = [name for name in properties if not isinstance(required, list) or name not in required]
    if optional and purpose == "output":
        advice = 'not in "required"; the API wants every field there, an optional one with a type of ["…","null"].'
        found.warnings += [Finding((*place, "properties", name), "required", advice) for name in optional]
    if schema.get("additionalProperties") is not False:
        found.warnings.append(Finding(place, "closed-objects", '"additionalProperties" should be false.'))


def _check_totals(schema: Schema, parts: list[_Part], found: Findings) -> None:
    names = [name for part in parts for name in _names(part.schema)]
    enums = [(part.place, values) for part in parts if isinstance(values := part.schema.get("enum"), list)]
    enum_chars = [sum(map(_chars, values)) for _, values in enums]
    spec_chars = len(json.dumps({"output_schema": {"type": "json", "json_schema": schema}}, ensure_ascii=False))

    if len(names) > MAX_PROPERTIES:
        advice = f"{len(names)} fields, at most {MAX_PROPERTIES}; split them over several tasks, or ask for a list."
        found.errors.append(Finding((), "properties", advice, _AS_LIST))
    if sum(map(len, names)) + sum(enum_chars) > MAX_CHARS:
        advice = f"names and choices hold more than {MAX_CHARS:,} characters; shorten them."
        found.errors.append(Finding((), "characters", advice, _AS_LIST))
    if sum(len(values) for _, values in enums) > MAX_ENUM_VALUES:
        place = max(enums, key=lambda enum: len(enum[1]))[0]
        advice = f"more than {MAX_ENUM_VALUES} enum values in all; describe the choice in words."
        found.errors.append(Finding(place, "enum", advice, {"type": "string"}))
    for (place, values), chars in zip(enums, enum_chars, strict=True):
        if len(values) > LARGE_ENUM and chars > MAX_LARGE_ENUM_CHARS:
            advice = f"an enum of more than {LARGE_ENUM} values holds at most {MAX_LARGE_ENUM_CHARS:,} characters."
            found.errors.append(Finding(place, "enum", advice, {"type": "string"}))
    if spec_chars > MAX_SPEC_CHARS:
        advice = f"{spec_chars:,} characters as JSON, the limit is {MAX_SPEC_CHARS:,}; shorten the descriptions."
        found.errors.append(Finding((), "characters", advice, outline(schema)))


_AS_LIST = object_of(
    facts={"type": "array", "items": object_of(name={"type": "string"}, value={"type": "string"})},
)


def _advise(schema: Schema, parts: list[_Part], processor: Processor | None, found: Findings) -> None:
    deepest = max(part.nesting for part in parts)
    if ADVISED_NESTING < deepest <= MAX_NESTING:
        advice = f"objects nest {deepest} deep; at most {ADVISED_NESTING} is advised."
        found.warnings.append(Finding((), "nesting", advice))
    wanted = len(_names(schema))
    if processor and wanted > processor.most_fields:
        better = enough_for(wanted)
        instead = f"; {better} handles that many" if better else "; split them over several tasks"
        advice = f"{wanted} fields, {processor.name} handles about {processor.most_fields}{instead}."
        found.warnings.append(Finding((), "too-many-fields", advice))
    for part in parts:
        _advise_on_names(part, found)
        _advise_on_openness(part, found)


def _advise_on_names(part: _Part, found: Findings) -> None:
    properties = part.schema.get("properties")
    for name, member in properties.items() if isinstance(properties, dict) else ():
        place = (*part.place, "properties", name)
        if name.lower() in IN_EVERY_BASIS:
            advice = "not needed: every result has sources, reasoning and confidence for each field."
            found.warnings.append(Finding(place, "basis-name", advice))
        elif not part.place and name.lower() in VAGUE and not _is_described(member):
            advice = "a vague name without description; say whose or which, such as ceo_name or revenue_2024_usd."
            found.warnings.append(Finding(place, "vague-name", advice))


def _advise_on_openness(part: _Part, found: Findings) -> None:
    schema = part.schema
    if not schema.keys() & {"type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref"}:
        found.warnings.append(Finding(part.place, "untyped", 'no "type" given; any kind of value may come back.'))
    elif schema.get("type") == "object" and not schema.get("properties"):
        advice = "an object without named fields; the API advises to name them, or to ask for a list of name and value."
        found.warnings.append(Finding(part.place, "open-object", advice))
    elif schema.get("type") == "array" and "items" not in schema:
        found.warnings.append(Finding(part.place, "untyped", 'no "items" given; any kind of item may come back.'))


def _parts(root: Schema) -> Iterator[_Part]:
    """The schema and all schemas in it, without recursion."""
    waiting = [_Part((), root, False, int(_opens_level(root)))]
    while waiting:
        part = waiting.pop()
        yield part
        inner: list[_Part] = []
        for keyword, at, schema in _subschemas(part.schema):
            nesting = part.nesting + _opens_level(schema)
            inner.append(_Part((*part.place, *at), schema, keyword in ("anyOf", "oneOf"), nesting))
        waiting.extend(reversed(inner))


def _subschemas(schema: Schema) -> Iterator[tuple[str, Path, Schema]]:
    for keyword in _MAPS:
        members = schema.get(keyword)
        if isinstance(members, dict):
            yield from ((keyword, (keyword, name), part) for name, part in members.items() if isinstance(part, dict))
    for keyword in _LISTS:
        members = schema.get(keyword)
        if isinstance(members, list):
            yield from (
                (keyword, (keyword, str(at)), part) for at, part in enumerate(members) if isinstance(part, dict)
            )
    for keyword in _SINGLE:
        member = schema.get(keyword)
        if isinstance(member, dict):
            yield keyword, (keyword,), member


def _opens_level(schema: Schema) -> bool:
    return bool(schema.get("properties")) or isinstance(schema.get("additionalProperties"), dict)


def _names(schema: Schema) -> list[str]:
    properties = schema.get("properties")
    return list(properties) if isinstance(properties, dict) else []


def _chars(value: JsonValue) -> int:
    return len(value) if isinstance(value, str) else len(json.dumps(value))


def _is_described(member: JsonValue) -> bool:
    return isinstance(member, dict) and bool(member.get("description"))
