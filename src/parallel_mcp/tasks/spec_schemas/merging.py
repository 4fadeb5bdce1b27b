"""What `$ref` and `allOf` add to a schema."""

from __future__ import annotations

from typing import cast

from pydantic import JsonValue

from parallel_mcp.tasks.spec_schemas.findings import Finding, Path, Refused, Schema
from parallel_mcp.tasks.spec_schemas.outlines import TYPES, outline, type_named
from parallel_mcp.tasks.spec_schemas.wording import WORDED, joined

STRUCTURE = frozenset(["properties", "patternProperties", "items", "prefixItems", "enum", "const"])
UNIONS = ("anyOf", "oneOf")
_EXCLUSIVE = STRUCTURE | {*UNIONS, "additionalProperties"}
_GROWING = ("properties", "required")  # copied, since pieces are added


def merge(parts: Schema, piece: Schema, place: Path) -> None:
    """Add what a piece says to `parts`, which is changed. Its constraints are in words already.

    Raises:
        Refused: The two contradict each other.
    """
    for keyword, value in piece.items():
        if keyword in WORDED or keyword in ("$ref", "allOf"):
            continue
        known = parts.get(keyword)
        if keyword not in parts:
            parts[keyword] = value.copy() if isinstance(value, dict | list) and keyword in _GROWING else value
        elif keyword == "description" and isinstance(known, str) and isinstance(value, str):
            parts[keyword] = joined(known, value)
        elif keyword == "properties" and isinstance(known, dict) and isinstance(value, dict):
            for name, member in value.items():
                known[name] = member if name not in known else _both(known[name], member)
        elif keyword == "required" and isinstance(known, list) and isinstance(value, list):
            known.extend(value)
        elif keyword == "items":
            parts[keyword] = _both(known, value)
        elif keyword == "type":
            parts[keyword] = _common_types(parts, piece, place)
        elif keyword == "additionalProperties" and False in (known, value):
            parts[keyword] = False
        elif keyword in _EXCLUSIVE and not _is_same(known, value):
            raise Refused(_contradiction(keyword, parts, place))


def _both(first: JsonValue, second: JsonValue) -> JsonValue:
    return first if first is second else {"allOf": [first, second]}


def _is_same(first: JsonValue, second: JsonValue) -> bool:
    """Whether two keywords say the same. Nested values count only if they are one and the same definition.

    Comparing these at every use of a definition could take far longer than reading the schema.
    """
    plain = not any(isinstance(part, dict | list) for value in (first, second) for part in _entries(value))
    return first is second or (plain and first == second)


def _entries(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else []


def _common_types(parts: Schema, piece: Schema, place: Path) -> JsonValue:
    ours, theirs = types_of(parts, place), types_of(piece, place)
    common = [name for name in ours if name in theirs or (name == "integer" and "number" in theirs)]
    common += [name for name in theirs if name == "integer" and "number" in ours and name not in common]
    if not common:
        raise Refused(_contradiction("type", parts, place))
    return cast("list[JsonValue]", common)


def _contradiction(keyword: str, parts: Schema, place: Path) -> Finding:
    advice = f'parts of allOf, or a reference and what stands beside it, contradict each other in "{keyword}".'
    return Finding(place, "contradiction", advice, outline(parts))


def types_of(parts: Schema, place: Path) -> list[str]:
    """The types as the API writes them; empty if none is stated."""
    if "type" not in parts:
        return []
    stated = parts["type"]
    names = stated if isinstance(stated, list) else [stated]
    types = [name.lower() if isinstance(name, str) and len(name) < 20 else "" for name in names]
    if not types or not all(name in TYPES for name in types):
        known = ", ".join(TYPES)
        first = next((name for name in names if name != "null"), "string")
        corrected = outline({**parts, "type": type_named(first)})
        raise Refused(Finding(place, "type", f"a type is one of {known}.", corrected))
    return list(dict.fromkeys(types))
