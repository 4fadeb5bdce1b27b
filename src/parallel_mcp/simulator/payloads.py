"""JSON as the simulator reads and writes it: types, parsing, and the sparse style of the published samples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from pydantic import JsonValue

from parallel_mcp.simulator.errors import Invalid, Problem

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = "dict[str, Json]"

DEEPEST = 64
REQUIRED_THOUGH_NULL = frozenset(
    {
        "event_id",
        "run_cursor",
        "event_cursor",
        "num_sources_considered",
        "num_sources_read",
        "sources_read_sample",
        "http_status_code",
        "content",
        "timestamp",
        "value",
    }
)
BELONGS_TO_THE_CALLER = frozenset({"content", "metadata", "input", "json_schema", "output_schema", "detail"})


def parse_json(body: bytes) -> JsonValue:
    """Read a request body as strict JSON.

    Raises:
        Invalid: Not JSON, or JSON that could not be written back (NaN, lone surrogates), or nested very deeply.
    """
    try:
        value = cast("JsonValue", json.loads(body, parse_constant=_reject_constant, parse_float=_finite))
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Invalid([Problem(("body",), "JSON decode error", "json_invalid")]) from None
    if _nests_deeper(value, DEEPEST):
        raise Invalid([Problem(("body",), f"nested deeper than {DEEPEST} levels", "recursion_loop")])
    return value


def _nests_deeper(value: JsonValue, levels: int) -> bool:
    """Whether JSON has more levels of objects and lists; looks at one level at a time, so depth costs no stack."""
    level = [value]
    for _ in range(levels):
        level = [member for item in level for member in _members(item)]
    return any(isinstance(item, dict | list) for item in level)


def _members(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def compact(value: Json) -> str:
    """Write JSON without spaces; this is also how the size limits of task specs are counted."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def sparse(body: JsonObject) -> JsonObject:
    """Leave out optional nulls, as the samples of the OpenAPI document do (checklist 4)."""
    return {key: _sparse_member(key, member) for key, member in body.items() if _is_kept(key, member)}


def _sparse_member(key: str, member: Json) -> Json:
    return member if key in BELONGS_TO_THE_CALLER else _sparse(member)


def _sparse(value: Json) -> Json:
    if isinstance(value, Mapping):
        return sparse(dict(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_sparse(item) for item in value]
    return value


def _is_kept(key: str, member: Json) -> bool:
    return member is not None or key in REQUIRED_THOUGH_NULL


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number
